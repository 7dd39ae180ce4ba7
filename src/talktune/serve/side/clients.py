"""What clients write when they ask for themselves, as data: patterns by what is asked for, and the words in them.

Open it to teach the server a client that it takes for a person. `turn_kind.py` says how the patterns are used; each
pattern needs one of `WORDS` in every text that it matches, which a test checks.
"""

import re

from talktune.serve.side.telling import TRIGGERS

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
TERSE = re.compile(
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
_SYSTEM_TEXTS: dict[str, tuple[str, ...]] = {
    "a title for the conversation, the session, or whatever a conversation begins with": (
        rf"(?:please |your (?:task|job|goal) is to |you (?:will|are to|should|must)"
        rf" )?{_VERB}\b[^.\n]{{0,120}}\btitles?\b"
        rf"[^.\n]{{0,120}}\b{_TALK}\b{_END}",
        rf"you (?:{_VERB}|name)\b[^.\n]{{0,40}}\b{_TALK} titles?\b",
        rf"you are [^.\n]{{0,60}}\b(?:names|naming|titles|titling) {_TALK}\b(?! (?:between|with|in|from)\b)",
        rf"you are [^.\n]{{0,60}}\b{_TALK} titl(?:es?|ing) (?:assistant|generator|expert|writer|creator|agent)\b",
    ),
    "a title for what the person asked": (
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
    ),
    "summaries and memories that the client keeps for itself": (
        r"you are [^.\n]{0,60}\b(?:(?:context|conversation|history|anchored)[- ]?(?:context"
        r" )?(?:summari[sz]ation|compaction)"
        r"|summari[sz]ing (?:(?:chat|coding|long|partial) )?conversations"
        r"|compaction (?:agent|assistant|summari[sz]er|pre-summari[sz]er))\b",
        r"(?:please |\*?briefly\*? |progressively |concisely )*summari[sz]e (?:this|the) (?:\w+ ){0,2}"
        r"(?:chat|conversation|session|thread|discussion|lines of conversation)\b",
        r"you are (?:a personal information organizer|an? (?:\w+ ){0,3}memory (?:manager|extractor|extraction))\b",
        r"(?:you (?:read|extract|are given|will be given|get)|extract|from|read)\b[^\n]{0,160}\b(?:facts|memories"
        r"|preferences) about the (?:user|person|human)\b(?=.{0,600}\bjson\b)",
    ),
    "the question behind a question, for a search; hooks, roles and names": (
        _STANDALONE,
        r"you are evaluating a hook in claude code\b",
        r"you are the component that summari[sz]es internal chat history\b",
        r"you are in a role play game\..{0,4000}?\bselect the next role from\b",
        r"you are an ai namer that creates\b",
    ),
    "what agents ask about a command, a page, a change": (
        r"your task is to process bash commands\b",
        r"extract any file paths that this command\b",
        r"you are an assistant for performing a web search tool use\b",
        r"available tools:.{0,20000}?your task is to choose and return the correct tool",
        r"you are [^.\n]{0,80}\bgenerates?\b[^.\n]{0,60}\bcommit messages?\b",
        r"(?:你|在|根据|请|为|用).{0,60}(?:对话|会话|聊天).{0,60}(?:标题|主题)",
    ),
}
SYSTEM = tuple(re.compile(rf"(?is)\A{pattern}") for texts in _SYSTEM_TEXTS.values() for pattern in texts)
BRIEF = re.compile(r"(?i)\b(?:brief|pithy|short|few[- ]words?)\b")
TITLER = re.compile(r"(?i)\Ayou are [^.\n]{0,120}\b(?:titles?|titling|tags|names|naming)\b")
"""A person may talk with one, too: a client says in which form it wants the title."""
IDENTITY = re.compile(
    r"(?i)\A(?:x-anthropic-billing-header:[^\n]*\s+|you are claude code[^\n]*?claude\.\s+|you are a claude"
    r" agent[^\n]*?\.\s+"
    r"|you are a helpful(?: ai)? assistant\.\s+)+"
)

ENVELOPE = re.compile(
    r"\s*(?:<(system-reminder|context|environment_details)>.*?</\1>\s*"
    r"|\[[^\]\n]{0,20}\d{1,4}[-:/.]\d{2}[^\]\n]{0,60}\]\s*|"
    r"(?:System(?: \(untrusted\))?|Conversation info|Sender)[^\n]{0,200}\n(?:```json\n.{0,2000}?\n```\s*)?)",
    re.DOTALL,
)
"""Time and host, before what somebody says."""
PASSING = re.compile(
    r"(?is)\A(?:<([\w-]{1,40})\b[^>]{0,200}>.*</\1>|<<<BEGIN_[A-Z_]+>>>.*|openclaw runtime context\b.*"
    r"|\[?(?:runtime|host|environment)"
    r" (?:context|state|info|status)\b.*|(?:current|local) (?:time|date):[^\n]*|conversation info\b.*)\s*\Z"
)
"""A message of the client's own beside what a person says."""

_CLIENT_TEXTS: dict[str, tuple[str, ...]] = {
    "OpenClaw: its heartbeat, by its poll or its file; its memory flush; its events": (
        r"(?i)\A\[(?:openclaw )?(?:heartbeat|exec completion|cron wake|session event)[^\]\n]{0,30}\]",
        r"(?i)\AFollow the heartbeat monitor scratch\b",
        r"\AA scheduled (?:reminder has been|cron event was) triggered\b",
        r"(?s)\A(?:Read|Check|Open|Follow|Review) (?:the )?(?:file )?`?HEARTBEAT\.md\b"
        r"(?=.{0,600}\b(?:HEARTBEAT_OK|if it exists|[Ff]ollow it strictly)\b)",
        r"(?is)\Apre-compaction memory flush\b.{0,600}\b(?:durable memor|no_reply)",
        r"(?is)\A(?:the )?session (?:is )?near(?:ing)? (?:auto-?)?compaction\b.{0,400}\bmemor",
        r"\AAn async command (?:you ran earlier|the user already approved|completion event|did not run)\b",
    ),
    "Claude Code's quick calls, and those of others like it": (
        r"\A\[SUGGESTION MODE:",
        r"\A<policy_spec>",
        r"\AWeb page content:\s*\n---",
        r"\APerform a web search for the query:",
        r"\AThe user stepped away and is coming back\b",
        r"\ADescribe your most recent action in \d",
        r"\AProgressively summarize the lines of conversation\b",
    ),
    "events of a runtime, as JSON; a hole to be filled at the end of a text": (
        r"(?is)\A\{\s*\"type\":\s*\"(?:heartbeat|system_alert|system|event|cron|timer|alert"
        r"|notification|login)\".*\}\Z",
        r"(?s)\A.{0,200}<\|?fim[_-]prefix\|?>.*<\|?fim[_-]suffix\|?>",
        r"(?i)\APlease help me predict the \w+ most likely questions that human would ask\b",
        r"(?s)(?:<\|?fim[_-](?:prefix|suffix|middle)\|?>|\{\{(?:FILL_HERE|HOLE_NAME|CURSOR)\}\}).*<[A-Z_]{4,20}>\s*\Z",
    ),
    "Open WebUI's templates, not the one in which it puts a user's question to documents": (
        r"(?is)\A###\s*task:\s*\n(?!.{0,200}\b(?:user query|my)\b)(?=.{0,500}\b(?:titles?|tags?|follow-?up|search quer"
        r"|autocompletion|emoji|image generation|memor)).*(?:<chat_history>|\n#+ ?chat history|`?<type>"
        r"|given language and context)",
        r"\AYour task is to reflect the speaker's likely facial expression through a fitting emoji\b",
    ),
    "titles of this very conversation": (
        rf"(?i)\A(?:please |now )?{_VERB}\b{_CODE}[^.:\"“\n]{{0,90}}\b(?:title|headline|name|tags?"
        rf"|label)\b[^.\n]{{0,40}}\b"
        r"(?:for|of|to|about|summari[sz]ing|describing|on) (?:this|the|the above|the following|the current"
        r"|above|following) "
        rf"(?:chat|conversation|session)\b(?! with\b|\?|,? and\b){_END}",
        r"(?i)\A(?:based on [^.\n]{0,40}, )?(?:please )?(?:give|assign) (?:this|the|the following) (?:chat"
        r"|conversation"
        r"|session) an? (?:[\w-]+ ){0,3}(?:name|title)\b(?! (?:that|which|like)\b)",
    ),
    "summaries and prompts that go back into the client, and who is to speak next": (
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
    ),
}
CLIENT = tuple(re.compile(pattern) for texts in _CLIENT_TEXTS.values() for pattern in texts)
TITLE = re.compile(
    rf"(?i)(?:\A|\n|(?<=[a-z)][.!]) )(?:(?:based on|given) [^.\n]{{0,60}}(?:,|\.\.\.) )?(?:please |now"
    rf" )?{_VERB}\b{_CODE}"
    r"[^.:\"“\n]{0,120}\b(?:titles?|description|tags)\b(?:(?!\b(?:my|his|her|their)\b)[^.\n]){0,80}"
    r"\b(?:for|of|about|on|summari[sz](?:es|ing)|describ(?:es|ing)|captur\w+|categori[sz]ing)\b"
    r"(?:(?!\b(?:my|his|her|their)\b)[^.\n]){0,40}\b(?:chat|conversation|session|(?:following|previous)"
    r" (?:request|query))\b"
    rf"{_END}"
)
LABEL = re.compile(
    r"(?i)\b(?:titles?|headlines?|labels?|tags|slugs?|thread names?|phrase"
    r"|titeln?|titres?|t[ií]tulos?|titol[oi])\b|\A\s*name (?=this|the)|标题|タイトル"
)
"""What a talk is called by, in a few languages."""
THIS = re.compile(
    rf"(?i)\b(?:this|the|following|above|preceding|previous|current|our) (?:(?:\w+ )?of (?:this|the|a) )?{_TALK}\b"
    rf"(?:{_END}|(?= (?:is|should|must|needs|has|into)\b))|\ba {_TALK} app\b|\bthe user'?s first (?:message|request)\b"
    r"|\b(?:diese[rs]?|die|der|das|folgende[rns]*|obige[rns]*) (?:unterhaltung|gesprächs?|konversation)\b"
    r"|\b(?:cette|la) (?:conversation|discussion)\b|\b(?:esta|la) conversación\b|\b(?:questa|la) conversazione\b"
    r"|\b(?:esta|da) conversa\b|(?:这|上面|以上|下面|该|本).{0,4}(?:对话|会话|聊天)|この会話"
)
"""The very talk that a request is of."""
ONLY = re.compile(
    r"(?i)\b(?:only|solely|nothing but|plain text|concise|nur|ausschließlich|uniquement|seulement|s[oó]lo|solamente"
    r"|únicamente|soltanto|apenas|somente)\b|[只仅]|直接|のみ|だけ"
)
OWN = re.compile(
    r"(?i)\A\s*(?:translate|rewrite|improve|correct|explain|edit|test|check|debug|why|how|what|when|where|who"
    r"|which|is|are"
    r"|does|do|did|can|could|should|would)\b|\b(?:i|i'm|me|my|mine|we|us|ich|mir|mich|meine?[rnms]?|wir|je|moi"
    r"|mon|nous|yo"
    r"|mis?|io|mio|eu|meu|minha)\b"
)
"""A person's words for themselves, which clients do not have, or for what they want to know of a text."""
ASKS = re.compile(r"(?i)\A\s*(?:(?:what|which|how|could|can|would|is|are)\b\s*)+")
BEHIND = re.compile(
    r"(?i)\A\W*(?:ignore (?:all )?previous instructions\.\s*)?(?:please |briefly |now |pause the roleplay\W+)*"
    r"(?:summari[sz]e|(?:write|create|provide|generate|give) (?:me )?(?:an? )?(?:[\w-]+ ){0,3}summary)\b"
)
"""An order that a client puts behind the talk as a system prompt: persons write none there."""
SHOWN = re.compile(r"(?i)\b(?:in|for) the (?:\w+ )?(?:sidebar|history list|list of (?:chats|conversations))\b")
PROGRAM = re.compile(rf"(?i){_MADE}")
SENTENCE = re.compile(r"[.!?。!?\n]+(?=\s|\Z)|[。\n]")
HEARTBEAT = re.compile(
    r"(?is)\b(?:nothing|otherwise|if not|if there|if no|unless|all good|all clear)\b[^\n]{0,80}"
    r"\b(?:reply|respond|answer|say|return)\b[^.\n]{0,30}\b(?:HEARTBEAT_OK|NO_REPLY)\b"
)
ABOUT = re.compile(
    r"(?i)\A(?:why|how|what|when|where|who|which|is|are|does|do|did|can|could|should|would|will|explain"
    r"|translate|rewrite|"
    r"help|my|i|i'm|we|tell|describe|in openclaw|here(?! is the (?:query|conversation))|this|the|improve|debug"
    r"|change|edit|add|update|set|put|make|write|create|"
    r"remove|fix|from now on|your|if|when|remember|always|never|stop|please)\b|\?\s*\Z"
)
"""The beginning or the end of a person's words about something."""
SUMMARY = re.compile(
    rf"(?i)\b(?:summari[sz]e|summary|summari[sz]ing|continuing)\b[^\n]{{0,120}}\b(?:{_TALK}|messages above)\b"
    rf"|\bhand(?:off|over) (?:summary|document|notes?|brief)\b"
)
ORDER = re.compile(
    r"(?i)\A(?:<[^>\n]{1,80}>\s*)?(?:critical|important|you have run out of context|"
    r"your task|you are performing|please|now|provide|create"
    r"|generate|write|"
    r"summari[sz]e|produce|the (?:current |messages |context|conversation)|th(?:is|e) session|here is the conversation"
    r"|\[user\])"
)
COMPACTION = re.compile(
    r"(?i)<(?:analysis|summary|conversation)>|\banother (?:llm|model|agent|assistant|language model)\b|\btext"
    r" only\b|"
    r"\b(?:run(?:ning)? out of|losing) context\b|\bcontext window\b|\bcheckpoint\b|\bcompaction\b|"
    r"\bnew session will not have access\b|\bresume the (?:task|work)\b|\bcontinu(?:e|ing) (?:the |this |our )?"
    r"(?:development|work|task|conversation)\b|\bprevious actions\b|\bexplicit_instructions\b"
)
QUICK = ("Warmup", "quota", "count", "test connection")
"""Whole first messages of clients that try an engine."""
WORDS = (
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
CAPITALS = re.compile(r"[A-Z][A-Z_]{3}")
"""The beginning of a constant, with which a client wants to be answered where there is nothing to do."""
