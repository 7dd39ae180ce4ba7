"""Which requests are no person's: titles, tags, summaries, heartbeats and other calls that clients make by themselves.

Decided by the shape of the whole request: what the system prompt makes of the model, and what the messages since the
last finished answer ask. Words alone decide nothing: people, too, ask for titles and write about heartbeats. In doubt
a request is a person's, since a side turn is never learned from.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from talktune.serve import likeness
from talktune.serve.telling import ENOUGH, FORM, PERSON, SHOWN, TRANSCRIPT, TRIGGERS, is_probe, is_transcript, points
from talktune.types import Message, TurnKind

START = 1200
"""Characters at the start of a text where a client says what it wants."""
HEAD = 10_000
"""Characters of a text that are looked at from its start: a message may be megabytes, and an answer waits for this."""
TAIL = 800
"""And from its end, where some clients say what they want, behind a transcript."""
ENVELOPE = 200_000
"""Characters of one block that a client puts before what somebody says."""
LATEST = 32
"""Messages since the last answer that are looked at, from the newest back."""
SHORT = 200
"""A person asks for a summary of the talk in a sentence or two; clients write a page."""

_NUMBER = r"(?:\d+|two|three|four|five|six|seven|eight|ten)"
_VERB = (
    r"(?:generat|writ|creat|suggest|giv|provid|produc|extract|com(?:e|ing) up with|mak|propos|craft|analy[sz]"
    r"|assign|"
    r"devis|return|output|reply with|respond with|infer)(?:e|es|ed|ing|s)?"
)
_TALK = (
    r"(?:(?:chat|coding|user) )?(?:chat|conversation|session|thread|dialog(?:ue)?|chat history|conversation history)s?"
)
_END = (
    r"(?=\s*(?:[.,:;!?\n(\"<*]|\Z|using|based|in (?:\d|json|at most|under|no more|the (?:given|same|user))|so far"
    r"|above|below|history|with|that (?:is|starts)|a user|and\b))"
)
"""Behind the word for a conversation: where another noun follows, as in "chat show", it is something else."""
_MADE = (
    r"\b(?:code|function|script|program|class|method|test|schema|component|api|prompt|generator|haiku|poem|song|story"
    r"|screen|page)\b"
)
_CODE = rf"(?![^.\n]{{0,60}}{_MADE})"
"""Who asks for a program that makes titles, or a poem on one, is a person."""
_TERSE = re.compile(
    rf"(?i)\b{_NUMBER}(?: ?(?:-|–|to|or) ?{_NUMBER})?[- ](?:or[- ]fewer[- ])?words?\b|\bwords? or (?:less|fewer)\b|"
    r"\bcharacters?\b[^.\n]{0,12}(?:max|limit)|(?:max(?:imum)?|under|at most|within|≤) ?(?:of )?\d+ characters|"
    r"\bonly\b[^.\n]{0,30}\b(?:title|description|name|json|tags)|\b(?:title|name|description"
    r"|tags)\b[^.\n]{0,12}\bonly\b|"
    r"\bnothing else\b|\bno (?:quotes|quotation|punctuation|preamble|explanations?|additional|extra|other text)|"
    r"\bwithout (?:any )?(?:quotes|quotation|punctuation|lead-in|preamble|explanation)|\bjson\b"
)

_STANDALONE = (
    r"given (?:a|the|this)(?: following)? (?:chat|conversation)\b[^\n]{0,240}\bstandalone (?:question|query)\b"
)
_SYSTEM = tuple(
    re.compile(rf"(?is)\A{pattern}")
    for pattern in (
        # A title for the conversation, the session, or whatever a conversation begins with.
        rf"(?:please |your (?:task|job|goal) is to |you (?:will|are to|should|must)"
        rf" )?{_VERB}\b[^.\n]{{0,120}}\btitles?\b"
        rf"[^.\n]{{0,120}}\b{_TALK}\b{_END}",
        rf"you (?:{_VERB}|name)\b[^.\n]{{0,40}}\b{_TALK} titles?\b",
        rf"you are [^.\n]{{0,60}}\b(?:names|naming|titles|titling) {_TALK}\b(?! (?:between|with|in|from)\b)",
        rf"you are [^.\n]{{0,60}}\b{_TALK} titl(?:es?|ing) (?:assistant|generator|expert|writer|creator|agent)\b",
        # The same, for what the person asked.
        rf"you (?:are|will)\b[^.\n]{{0,80}}(?:\.\s+you (?:need to|must|should"
        rf"|will)\b)?[^.\n]{{0,40}}\bsummari[sz]e "
        rf"(?:the|this) (?:user'?s? )?{_TALK} in(?:to)? an? (?:[\w-]+ ){{0,3}}title\b",
        rf"you are [^.\n]{{0,60}}\bsummari[sz]e the user'?s (?:request|query|message) in(?:to)?"
        rf" [^.\n]{{0,40}}\b{_NUMBER} words\b",
        r"you are a summari[sz]ation (?:ai|assistant)\.\s+summari[sz]e the user'?s (?:request|query|message"
        r"|prompt)\b",
        rf"(?:based on [^.\n]{{0,40}}, )?(?:please )?{_VERB}\b[^.\n]{{0,40}}\b(?:description|name|label) of"
        rf" (?:this|the) "
        rf"(?:chat|conversation|session) in {_NUMBER}\b",
        rf"(?:please )?(?:{_VERB}|decide|determine|check|tell)\b[^.\n]{{0,60}}\bnew conversation topic\b",
        rf"analy[sz]e (?:this|the)(?: (?:following|given))? {_TALK} and {_VERB}\b[^.\n]{{0,40}}\b(?:titles?|tags)\b",
        r"you are [^.\n]{0,60}\btitle[- ](?:generator|writer|creator|maker|assistant)\b.{0,600}?\b"
        r"(?:conversation|thread|session)s?\b",
        rf"you are [^.\n]{{0,80}}\b(?:{_VERB}|naming)\b[^.\n]{{0,60}}\btitles?\b[^.\n]{{0,60}}\b{_TALK}\b{_END}",
        rf"you are [^.\n]{{0,60}}\b{_TALK} (?:summari[sz]er|namer|titler)\b.{{0,300}}?\b(?:title|only|do not)\b",
        # Summaries, and memories, that the client keeps for itself.
        r"you are [^.\n]{0,60}\b(?:(?:context|conversation|history|anchored)[- ]?(?:context"
        r" )?(?:summari[sz]ation|compaction)"
        r"|summari[sz]ing (?:(?:chat|coding|long|partial) )?conversations"
        r"|compaction (?:agent|assistant|summari[sz]er|pre-summari[sz]er))\b",
        r"(?:please |\*?briefly\*? |progressively |concisely )*summari[sz]e (?:this|the) (?:\w+ ){0,2}"
        r"(?:chat|conversation|session|thread|discussion|lines of conversation)\b",
        r"you are (?:a personal information organizer|an? (?:\w+ ){0,3}memory (?:manager|extractor|extraction))\b",
        r"(?:you (?:read|extract|are given|will be given|get)|extract|from|read)\b[^\n]{0,160}\b(?:facts|memories"
        r"|preferences) about the (?:user|person|human)\b(?=.{0,600}\bjson\b)",
        # The question behind a question, for a search.
        _STANDALONE,
        r"you are evaluating a hook in claude code\b",
        r"you are the component that summari[sz]es internal chat history\b",
        r"you are in a role play game\..{0,4000}?\bselect the next role from\b",
        r"you are an ai namer that creates\b",
        # What agents ask about a command, a page, a change.
        r"your task is to process bash commands\b",
        r"extract any file paths that this command\b",
        r"you are an assistant for performing a web search tool use\b",
        r"available tools:.{0,20000}?your task is to choose and return the correct tool",
        r"you are [^.\n]{0,80}\bgenerates?\b[^.\n]{0,60}\bcommit messages?\b",
        r"(?:你|在|根据|请|为|用).{0,60}(?:对话|会话|聊天).{0,60}(?:标题|主题)",
    )
)
_BRIEF = re.compile(r"(?i)\b(?:brief|pithy|short|few[- ]words?)\b")
_TITLER = re.compile(r"(?i)\Ayou are [^.\n]{0,120}\b(?:titles?|titling|tags|names|naming)\b")
"""A person may talk with one, too: a client says in which form it wants the title."""
_IDENTITY = re.compile(
    r"(?i)\A(?:x-anthropic-billing-header:[^\n]*\s+|you are claude code[^\n]*?claude\.\s+|you are a claude"
    r" agent[^\n]*?\.\s+"
    r"|you are a helpful(?: ai)? assistant\.\s+)+"
)

_ENVELOPE = re.compile(
    r"\s*(?:<(system-reminder|context|environment_details)>.*?</\1>\s*"
    r"|\[[^\]\n]{0,20}\d{1,4}[-:/.]\d{2}[^\]\n]{0,60}\]\s*|"
    r"(?:System(?: \(untrusted\))?|Conversation info|Sender)[^\n]{0,200}\n(?:```json\n.{0,2000}?\n```\s*)?)",
    re.DOTALL,
)
"""Time and host, before what somebody says."""
_PASSING = re.compile(
    r"(?is)\A(?:<([\w-]{1,40})\b[^>]{0,200}>.*</\1>|<<<BEGIN_[A-Z_]+>>>.*|openclaw runtime context\b.*"
    r"|\[?(?:runtime|host|environment)"
    r" (?:context|state|info|status)\b.*|(?:current|local) (?:time|date):[^\n]*|conversation info\b.*)\s*\Z"
)
"""A message of the client's own beside what a person says."""

_CLIENT = tuple(
    re.compile(pattern)
    for pattern in (
        # OpenClaw's heartbeat, by its poll or its file; its memory flush; its events.
        r"(?i)\A\[(?:openclaw )?(?:heartbeat|exec completion|cron wake|session event)[^\]\n]{0,30}\]",
        r"(?i)\AFollow the heartbeat monitor scratch\b",
        r"\AA scheduled (?:reminder has been|cron event was) triggered\b",
        r"(?s)\A(?:Read|Check|Open|Follow|Review) (?:the )?(?:file )?`?HEARTBEAT\.md\b"
        r"(?=.{0,600}\b(?:HEARTBEAT_OK|if it exists|[Ff]ollow it strictly)\b)",
        r"(?is)\Apre-compaction memory flush\b.{0,600}\b(?:durable memor|no_reply)",
        r"(?is)\A(?:the )?session (?:is )?near(?:ing)? (?:auto-?)?compaction\b.{0,400}\bmemor",
        r"\AAn async command (?:you ran earlier|the user already approved|completion event|did not run)\b",
        # Claude Code's quick calls, and those of others like it.
        r"\A\[SUGGESTION MODE:",
        r"\A<policy_spec>",
        r"\AWeb page content:\s*\n---",
        r"\APerform a web search for the query:",
        r"\AThe user stepped away and is coming back\b",
        r"\ADescribe your most recent action in \d",
        r"\AProgressively summarize the lines of conversation\b",
        # Events of a runtime, as JSON; a hole to be filled at the end of a text.
        r"(?is)\A\{\s*\"type\":\s*\"(?:heartbeat|system_alert|system|event|cron|timer|alert"
        r"|notification|login)\".*\}\Z",
        r"(?s)\A.{0,200}<\|?fim[_-]prefix\|?>.*<\|?fim[_-]suffix\|?>",
        r"(?i)\APlease help me predict the \w+ most likely questions that human would ask\b",
        r"(?s)(?:<\|?fim[_-](?:prefix|suffix|middle)\|?>|\{\{(?:FILL_HERE|HOLE_NAME|CURSOR)\}\}).*<[A-Z_]{4,20}>\s*\Z",
        # Open WebUI's templates, not the one in which it puts a user's question to documents.
        r"(?is)\A###\s*task:\s*\n(?!.{0,200}\b(?:user query|my)\b)(?=.{0,500}\b(?:titles?|tags?|follow-?up|search quer"
        r"|autocompletion|emoji|image generation|memor)).*(?:<chat_history>|\n#+ ?chat history|`?<type>"
        r"|given language and context)",
        r"\AYour task is to reflect the speaker's likely facial expression through a fitting emoji\b",
        # Titles of this very conversation.
        rf"(?i)\A(?:please |now )?{_VERB}\b{_CODE}[^.:\"“\n]{{0,90}}\b(?:title|headline|name|tags?"
        rf"|label)\b[^.\n]{{0,40}}\b"
        r"(?:for|of|to|about|summari[sz]ing|describing|on) (?:this|the|the above|the following|the current"
        r"|above|following) "
        rf"(?:chat|conversation|session)\b(?! with\b|\?|,? and\b){_END}",
        r"(?i)\A(?:based on [^.\n]{0,40}, )?(?:please )?(?:give|assign) (?:this|the|the following) (?:chat"
        r"|conversation"
        r"|session) an? (?:[\w-]+ ){0,3}(?:name|title)\b(?! (?:that|which|like)\b)",
        # Summaries and prompts that go back into the client, and who is to speak next.
        r"(?i)\ASummari[sz]e the (?:discussion|conversation|chat)\b[^\n]{0,60}\bto use as a prompt for future"
        r" context\b",
        r"(?i)\AGenerate a detailed summary of this conversation\. Include:\s{0,4}1\.",
        r"(?i)\AAnaly[sz]e \W?only\W? the content and structure of your immediately preceding response\b",
        rf"(?i)\A{_STANDALONE}",
        r"(?i)\AGenerate an enhanced version of this prompt \(reply with only\b",
        rf"(?i)\A(?:please )?summari[sz]e (?:(?:this|the) conversation (?:above )?)?in an? (?:{_NUMBER}[- ]words? )?"
        r"title\b",
        rf"(?i)\AName (?:this|the) (?:chat|conversation|session) in {_NUMBER}\b",
        r"(?is)\AAnalyze (?:this|the) conversation and provide\b.{0,200}\btitle\b",
        r"(?s)\A.{0,20}(?:对话|会话|聊天|这句话).{0,30}(?:标题|主题).{0,40}(?:不要|只|仅|直接)"
        r"|\A.{0,30}直接返回(?:这句话|对话|会话).{0,10}(?:标题|主题)",
    )
)
_TITLE = re.compile(
    rf"(?i)(?:\A|\n|(?<=[a-z)][.!]) )(?:(?:based on|given) [^.\n]{{0,60}}(?:,|\.\.\.) )?(?:please |now"
    rf" )?{_VERB}\b{_CODE}"
    r"[^.:\"“\n]{0,120}\b(?:titles?|description|tags)\b(?:(?!\b(?:my|his|her|their)\b)[^.\n]){0,80}"
    r"\b(?:for|of|about|on|summari[sz](?:es|ing)|describ(?:es|ing)|captur\w+|categori[sz]ing)\b"
    r"(?:(?!\b(?:my|his|her|their)\b)[^.\n]){0,40}\b(?:chat|conversation|session|(?:following|previous)"
    r" (?:request|query))\b"
    rf"{_END}"
)
_LABEL = re.compile(
    r"(?i)\b(?:titles?|headlines?|labels?|tags|slugs?|thread names?|phrase"
    r"|titeln?|titres?|t[ií]tulos?|titol[oi])\b|\A\s*name (?=this|the)|标题|タイトル"
)
"""What a talk is called by, in a few languages."""
_THIS = re.compile(
    rf"(?i)\b(?:this|the|following|above|preceding|previous|current|our) (?:(?:\w+ )?of (?:this|the|a) )?{_TALK}\b"
    rf"(?:{_END}|(?= (?:is|should|must|needs|has|into)\b))|\ba {_TALK} app\b|\bthe user'?s first (?:message|request)\b"
    r"|\b(?:diese[rs]?|die|der|das|folgende[rns]*|obige[rns]*) (?:unterhaltung|gesprächs?|konversation)\b"
    r"|\b(?:cette|la) (?:conversation|discussion)\b|\b(?:esta|la) conversación\b|\b(?:questa|la) conversazione\b"
    r"|\b(?:esta|da) conversa\b|(?:这|上面|以上|下面|该|本).{0,4}(?:对话|会话|聊天)|この会話"
)
"""The very talk that a request is of."""
_ONLY = re.compile(
    r"(?i)\b(?:only|solely|nothing but|plain text|concise|nur|ausschließlich|uniquement|seulement|s[oó]lo|solamente"
    r"|únicamente|soltanto|apenas|somente)\b|[只仅]|直接|のみ|だけ"
)
_OWN = re.compile(
    r"(?i)\A\s*(?:translate|rewrite|improve|correct|explain|edit|test|check|debug|why|how|what|when|where|who"
    r"|which|is|are"
    r"|does|do|did|can|could|should|would)\b|\b(?:i|i'm|me|my|mine|we|us|ich|mir|mich|meine?[rnms]?|wir|je|moi"
    r"|mon|nous|yo"
    r"|mis?|io|mio|eu|meu|minha)\b"
)
"""A person's words for themselves, which clients do not have, or for what they want to know of a text."""
_ASKS = re.compile(r"(?i)\A\s*(?:(?:what|which|how|could|can|would|is|are)\b\s*)+")
_BEHIND = re.compile(
    r"(?i)\A\W*(?:ignore (?:all )?previous instructions\.\s*)?(?:please |briefly |now |pause the roleplay\W+)*"
    r"(?:summari[sz]e|(?:write|create|provide|generate|give) (?:me )?(?:an? )?(?:[\w-]+ ){0,3}summary)\b"
)
"""An order that a client puts behind the talk as a system prompt: persons write none there."""
_SHOWN = re.compile(r"(?i)\b(?:in|for) the (?:\w+ )?(?:sidebar|history list|list of (?:chats|conversations))\b")
_PROGRAM = re.compile(rf"(?i){_MADE}")
_SENTENCE = re.compile(r"[.!?。!?\n]+(?=\s|\Z)|[。\n]")
_HEARTBEAT = re.compile(
    r"(?is)\b(?:nothing|otherwise|if not|if there|if no|unless|all good|all clear)\b[^\n]{0,80}"
    r"\b(?:reply|respond|answer|say|return)\b[^.\n]{0,30}\b(?:HEARTBEAT_OK|NO_REPLY)\b"
)
_ABOUT = re.compile(
    r"(?i)\A(?:why|how|what|when|where|who|which|is|are|does|do|did|can|could|should|would|will|explain"
    r"|translate|rewrite|"
    r"help|my|i|i'm|we|tell|describe|in openclaw|here(?! is the (?:query|conversation))|this|the|improve|debug"
    r"|change|edit|add|update|set|put|make|write|create|"
    r"remove|fix|from now on|your|if|when|remember|always|never|stop|please)\b|\?\s*\Z"
)
"""The beginning or the end of a person's words about something."""
_SUMMARY = re.compile(
    rf"(?i)\b(?:summari[sz]e|summary|summari[sz]ing|continuing)\b[^\n]{{0,120}}\b(?:{_TALK}|messages above)\b"
    rf"|\bhand(?:off|over) (?:summary|document|notes?|brief)\b"
)
_ORDER = re.compile(
    r"(?i)\A(?:<[^>\n]{1,80}>\s*)?(?:critical|important|you have run out of context|"
    r"your task|you are performing|please|now|provide|create"
    r"|generate|write|"
    r"summari[sz]e|produce|the (?:current |messages |context|conversation)|th(?:is|e) session|here is the conversation"
    r"|\[user\])"
)
_COMPACTION = re.compile(
    r"(?i)<(?:analysis|summary|conversation)>|\banother (?:llm|model|agent|assistant|language model)\b|\btext"
    r" only\b|"
    r"\b(?:run(?:ning)? out of|losing) context\b|\bcontext window\b|\bcheckpoint\b|\bcompaction\b|"
    r"\bnew session will not have access\b|\bresume the (?:task|work)\b|\bcontinu(?:e|ing) (?:the |this |our )?"
    r"(?:development|work|task|conversation)\b|\bprevious actions\b|\bexplicit_instructions\b"
)
_QUICK = ("Warmup", "quota", "count", "test connection")
"""Whole first messages of clients that try an engine."""
_WORDS = (
    *TRIGGERS,
    *("titl", "titel", "titr", "títul", "titul", "titol"),
    *("tag", "headline", "label", "slug", "phrase", "name", "tagline"),
    *(
        "标题",
        "主题",
        "タイトル",
        "这句话",
        "summar",
        "memor",
        "heartbeat",
        "no_reply",
        "scheduled",
        "openclaw",
        "compaction",
        "async command",
    ),
    *("suggestion mode", "<policy_spec>", "web page content", "web search", "stepped away", "most recent action"),
    *("task", "facial expression", "standalone", "bash commands", "file paths", "correct tool"),
    *(
        "description",
        "handoff",
        "handover",
        "evaluating a hook",
        "next role",
        "namer",
        "most likely",
        '"type":',
        "fim",
        "{{",
    ),
    *("information organizer", "the person", "exec completion", "enhanced version", "preceding response"),
)
"""Every text of a client has one of these: where none is, nothing need be looked for."""
_CAPITALS = re.compile(r"[A-Z][A-Z_]{3}")
"""The beginning of a constant, with which a client wants to be answered where there is nothing to do."""
FEW_TOKENS = 64
"""An answer of so many tokens is a label rather than an answer."""
PROBE_TOKENS = 16


def kind_of(
    messages: Sequence[Message],
    tools: int = 0,
    patterns: Sequence[str] = (),
    *,
    limit: int | None = None,
    shaped: bool = False,
) -> TurnKind:
    """Whether a request is a person's (main) or the client's own (side).

    `tools` counts those on offer; `limit` is the longest answer, in tokens; `shaped` says that the answer has a given
    form; `patterns` are a user's own, looked for in the system prompt and in what was said since the last finished
    answer, in the parts of them that are looked at.
    """
    system, words = seen(messages)
    if patterns and any(re.search(pattern, text) for pattern in patterns for text in (*system, *words)):
        return "side"
    answered = any(m.role == "assistant" for m in messages)
    alone = len(words) == 1 and not tools and not answered
    short = limit is not None and limit <= FEW_TOKENS
    if tools <= 1 and any(_is_task(text) for text in system):
        return "side"
    told = max((_told(text, alone, short, shaped) for text in system), default=0) if tools <= 1 else 0
    if told >= ENOUGH or (told >= ENOUGH - SHOWN and words and is_transcript(words[-1])):
        return "side"
    if tools <= 1 and likeness.points(system, lasting(words), shape(messages, words, tools, limit)) >= likeness.ENOUGH:
        return "side"
    last = messages[-1]
    if len(messages) > len(system) and last.role == "system" and _BEHIND.match(last.content[:START]):
        return "side"
    if shaped and alone and _is_task(words[0]):
        return "side"
    if words in ([word] for word in _QUICK) and not answered:
        return "side"
    if alone and not system and limit is not None and limit <= PROBE_TOKENS and is_probe(words[0]):
        return "side"
    clients = [_is_clients(text, alone=alone, short=short, shaped=shaped) for text in words]
    if not any(clients):
        return "main"
    later = words[len(clients) - clients[::-1].index(True) :]
    return "side" if all(_PASSING.match(text) for text in later) else "main"


def seen(messages: Sequence[Message]) -> tuple[list[str], list[str]]:
    """What is looked at: the system prompts, and what users said since the last answer."""
    system = [_looked_at(m.content) for m in messages if m.role == "system"][:LATEST]
    return system, [text for text in map(_bare, since_last_answer(messages)[-LATEST:]) if text]


def shape(messages: Sequence[Message], words: Sequence[str], tools: int, limit: int | None) -> list[str]:
    """What a request is but for its words."""
    told = {
        "answered": any(m.role == "assistant" for m in messages),
        "short": limit is not None and limit <= FEW_TOKENS,
    }
    return [f"said {min(len(words), 2)}", f"tools {min(tools, 2)}", *(name for name, there in told.items() if there)]


def lasting(words: Sequence[str]) -> list[str]:
    """What was said, without what a client adds in passing."""
    return [text for text in words if not _PASSING.match(text)]


@lru_cache(maxsize=256)
def _told(system: str, alone: bool, short: bool, shaped: bool) -> int:
    """Points of a system prompt, which a client sends each time."""
    return points(system, system=True, alone=alone, short=short, shaped=shaped) if _has(system, TRIGGERS) else 0


def _has(text: str, words: Sequence[str]) -> bool:
    lower = text.lower()
    # Each request waits for this, and any() takes longer.
    for word in words:
        if word in lower:
            return True
    return _CAPITALS.search(text) is not None


def since_last_answer(messages: Sequence[Message]) -> list[str]:
    """What users said since the last answer that ended a turn: calls of tools and their results go on with one."""
    found: list[str] = []
    for message in reversed(messages):
        if message.role == "assistant" and not message.tool_calls and message.content.strip():
            break
        if message.role == "user":
            found.append(message.content)
    return found[::-1]


def _looked_at(text: str) -> str:
    """The beginning of a text, and its end where it is a long one."""
    return text if len(text) <= HEAD + TAIL else f"{text[:HEAD]}\n{text[-TAIL:]}"


def _bare(text: str) -> str:
    """What was said, as far as it is looked at, without the envelope of time and host."""
    at = 0
    for _ in range(LATEST):
        found = _ENVELOPE.match(text, at, at + ENVELOPE)
        if found is None:
            break
        at = found.end()
    return _looked_at(text[at:].strip())


@lru_cache(maxsize=256)
def _is_task(system: str) -> bool:
    """Whether a system prompt makes the model a helper of the client, rather than of a person."""
    if not _has(system, _WORDS):
        return False
    text = _IDENTITY.sub("", system.lstrip())
    if _TITLER.match(text) and not any(p.search(text) for p in (_TERSE, _ONLY, _BRIEF)):
        return False
    return any(pattern.match(text) for pattern in _SYSTEM) or _names_talk(text[:START], _SHOWN)


def _is_clients(text: str, *, alone: bool, short: bool, shaped: bool) -> bool:
    """Whether a user message is one that a client wrote."""
    if _has(text, _WORDS) and _is_known(text):
        return True
    found = points(text, system=False, alone=alone, short=short, shaped=shaped) if _has(text, TRIGGERS) else 0
    return found >= ENOUGH


def _is_known(text: str) -> bool:
    """Whether it has the shape of one that clients are known to write."""
    head, end = text[:START], text[-TAIL:]
    if any(pattern.search(text) for pattern in _CLIENT):
        return True
    if text.endswith("?") and len(text) <= SHORT and not is_transcript(text):
        return False
    if _HEARTBEAT.search(text) and not _ABOUT.search(text):
        return True
    if _names_talk(head) or (not _OWN.match(head) and _names_talk(end.rsplit("\n\n", 1)[-1])):
        return True
    for part in (head, end):
        if _TITLE.search(part) and (_TERSE.search(part) or re.search(r"(?i)\btitle:\s*\Z", end)):
            return is_transcript(text) or not _ABOUT.match(head) or _TITLE.match(head) is not None
    markers = {found.lower() for found in _COMPACTION.findall(text)}
    return len(text) > SHORT and len(markers) > 1 and bool(_ORDER.match(head) and _SUMMARY.search(text))


def _names_talk(text: str, *more: re.Pattern[str]) -> bool:
    """Whether a text wants a label for the talk that it stands in or before, and nothing else: nobody says "I" in it.

    Each of these is a matter of words; that all of them come together, in whatever order, is a client's.
    """
    ask = text[: min([m.start() for p in (TRANSCRIPT, PERSON) if (m := p.search(text)) is not None], default=len(text))]
    if sum(form.search(ask) is not None for form in FORM) > 1:
        ask = _ASKS.sub("", ask)
    if _OWN.search(ask) or not (_TERSE.search(ask) or _ONLY.search(ask)):
        return False
    sentences = [one for one in _SENTENCE.split(ask) if _LABEL.search(one) and not _PROGRAM.search(one)]
    return any(of.search(one) for one in sentences for of in (_THIS, *more))
