"""A score, from hand-written rules, of how much a text looks like a client's order about a conversation.

Open it when an unknown client's orders are taken for a person's words, or the other way round.

A client asks in the third person, about the conversation itself, for something in a given form, which it puts into a
list, a memory or a search. Each of these is said by people, too; together they are said by clients.
"""

import re

ENOUGH = 5
"""Points of a client's order."""
SHOWN = 2
"""Points for a talk that stands there."""
START = 1200
"""Characters at the start of a text where it says what it wants."""
TAIL = 400
"""And at its end, where it may say that behind a transcript."""

TRANSCRIPT = re.compile(
    r"(?im)^[ \t]{0,8}(?:<(?:chat_history|conversation|session|transcript|messages|history|user_message|dialog(?:ue)?)>"
    r"|#+ ?chat history)"
)
PERSON = re.compile(r"(?im)^[ \t]{0,8}(?:\*\*|#+ |\[)?(?:user|human)(?:\*\*|\])?[ \t]{0,8}[:>\n]")
MODEL = re.compile(r"(?im)^[ \t]{0,8}(?:\*\*|#+ |\[)?(?:assistant|ai|claude|model|bot)(?:\*\*|\])?[ \t]{0,8}[:>\n]")
_TASK = re.compile(
    r"(?i)\b(?:summar|condens|compress|synops|digest|extract|classif|categor|determin|decid|detect|assess|judg|evaluat"
    r"|predict|propos|suggest|rewrit|rephras|reformulat|label|nam(?:e|ing)\b|titl|merg|list\b|generat|produc|pick\b"
    r"|choos|identif|creat|writ|stat(?:e|ing)\b|provid|giv|analy[sz]|rate\b|score|tag|maintain|updat|translat|assign"
    r"|check|extend|recogni[sz]|find|vergib|erstell|erzeug|benenn"
    r"|recap|génèr|génér|résum|crea|gener|resum|riassum)|生成|总结|概括|起"
)
_NOUN = (
    r"(?:(?:chat|coding|user|support) )?(?:conversations?|transcript|chat history|conversation history|message history"
    r"|chats?(?! (?:bot|app|client|server|room|interface|show|widget)))"
)
_WEAK = re.compile(
    r"(?i)\b(?:this|the|a|given|following|below|above|preceding|current|entire|whole|coding|chat) (?:\w+ )?"
    r"(?:dialogue|exchange|thread|session|discussion)\b(?! (?:between|with|from(?! the user)|about|on|id|cookie|key"
    r"|pool|dump|timeout|expires?))"
)
"""Words for a talk that name other things as well."""
_END = (
    r"(?! (?:between(?! (?:an?|the) (?:ai|user|human|person|assistant)\b)"
    r"|with(?! (?:an?|the) (?:ai|user|assistant)\b)|from|about|on how|at (?:work|home|school)))"
)
_TALK = re.compile(
    rf"(?i)\b(?:this|the|a|an|given|following|below|above|preceding|previous|current|entire|whole|ongoing|past"
    rf"|user'?s?)"
    rf" (?:\w+ ){{0,1}}?{_NOUN}\b{_END}"
    rf"|\b(?:labels?|names?|titles?|tags?|summari[sz]es?) {_NOUN}\b{_END}|\b{_NOUN} (?:titles?|names?|labels?)\b"
    r"|\bthe (?:user|human|person)(?:'s)? (?:will|might|may|could|would|is likely to|wants? to|is going to)"
    r" (?:\w+ )?(?:ask|type|say|send|write|want|do|reply)\b"
    r"|\b(?:the )?(?:user|human)(?:'s)? (?:first|last|latest|opening|most recent|next|new) (?:message|question"
    r"|turn|reply)"
    r"\b|\bthe (?:first|last|latest|opening|most recent|next) (?:user )?(?:message|question|turn|reply)\b"
    r"|\b(?:für|des|der|diese[rs]?|die|das) (?:chats?|unterhaltung(?:en)?|gesprächs?|gespräche)\b"
    r"|\b(?:la|cette|ce|de) (?:conversation|discussion|chat)\b|\b(?:la|esta|el|este) (?:conversación|chat)\b"
    r"|\b(?:la|questa) conversazione\b|\b(?:a|da|esta|desta) conversa\b|对话|会话|聊天|会話"
    r"|\b(?:para|de|für|pour|per) (?:conversaciones|conversations|conversazioni|conversas|chats|unterhaltungen)\b"
    r"|\bfor the (?:user|human)\b|\b(?:given|asked|requested|sent|written|said) by the (?:user|human)\b"
    r"|\bthe new messages\b|\b(?:whether|if) the assistant\b|\bthe assistant'?s? (?:last|latest"
    r"|previous) (?:reply|answer|message)\b"
)
"""A task and this in one sentence make an order about the talk."""
_ARTEFACT = re.compile(
    r"(?i)\b(?:titles?|headlines?|labels?|tags|slugs?|subject lines?|keywords?|emoji|topics?|intents?|sentiment|tone"
    r"|search quer(?:y|ies)|quer(?:y|ies)|follow-?ups?|quick replies|questions|next (?:message|thing)|facts"
    r"|memor(?:y|ies)"
    r"|titeln?|titres?|t[ií]tulos?|titol[oi]|entities|handoff|hand-over|commit message|branch name|safe|unsafe"
    r"|status bar|synopsis)\b|标题|主题|タイトル"
)
_CHANGES = re.compile(r"(?i)\b(?:commit messages?|branch names?)\b")
FORM = (
    re.compile(r"(?i)\b(?:only|solely|alone|(?:output|return|with) just|plain text|nothing else|nothing but"
               r"|exactly|verbatim|nur|ausschließlich|höchstens"
               r"|uniquement|seulement|s[oó]lo|solamente|únicamente|soltanto|apenas|somente)\b|[只仅]|のみ|だけ"),
    re.compile(r"(?i)\bno (?:\w+ )?(?:quotes|quotation|punctuation|preamble|introduction|explanations?|extra"
               r"|other|prose"
               r"|markdown|period|commentary)\b|\bwithout (?:any )?(?:quotes|punctuation|preamble|explanation"
               r"|(?:additional|extra|other|further) \w+)|\bno additional\b"),
    re.compile(r"(?i)\bjson\b|\bcomma-separated\b|\bxml\b|\busing the [\w-]+ tool\b|\byou must (?:only )?call\b"
               r"|\bcall only\b"),
    re.compile(r"(?i)\b(?:\d+|one|two|three|four|five|six|seven|eight|ten|single)(?: ?(?:-|–|to|or) ?(?:\d+|\w+))?[- ]"
               r"(?:\w+ )?(?:words?|characters?|chars?|bullet points?|bullets|sentences?|lines?)\b|\bone of:"
               r"|\b(?:true or false|yes or no)\b|\bYES/NO\b|\bone-(?:line|word|sentence)\b|\bmax(?:imum)?\b"),
)  # fmt: skip
_UNANSWERED = re.compile(
    r"(?i)\bnot\W{1,5}(?:attempt to |try to )?\W{0,3}(?:answer|respond to|reply to|follow|execute"
    r"|carry out|continue)\W{0,3} "
    r"(?:the|this|any|that|it|them|their) ?(?:(?:\w+ )?(?:questions?|messages?|requests?|quer(?:y|ies)|conversation"
    r"|instructions?|task)\b)?(?! (?:about|on|unless|if|regarding|related|outside|that|without|which|when)\b)"
)
"""What was said is there to be worked on, and not to be answered."""
_ROLE = re.compile(r"(?i)\A\W{0,4}(?:you are an? |your (?:task|job|role|goal) is to )")
"""A client that has no system prompt puts its own before the text."""
_CLASSIFIED = re.compile(r"(?i)\b(?:the )?user'?s? (?:\w+ )?(?:message|input|request|query|prompt)\b")
_THIRD = re.compile(r"(?i)\bthe (?:user|human|assistant|next agent)(?:'s)?\b|\buser preferences\b")
_USE = re.compile(
    r"(?i)\b(?:context is (?:\w+ )?full|fresh instance|no tool calls|shown to the user|history list|sidebar"
    r"|status bar|for (?:the )?routing|context window|context (?:usage|limit|budget|length)"
    r"|future (?:reference|context|turns|sessions)|long-term|knowledge graph|can be found later|list of (?:chats"
    r"|conversations|threads)|replaces? (?:the|them|older|this) ?(?:history|messages|conversation|in)?|next agent"
    r"|another (?:agent|model|assistant)|older messages|not address the user|not call (?:any )?tools|for a coding tool"
    r"|out of context|loss of context|without losing context|continu(?:e|ing) the work|new thread|resume the work"
    r"|will be (?:replaced|removed|trimmed|discarded)"
    r"|search the web|web search|used (?:for|to|as|by)|history of chats)\b"
)
_ALONE = re.compile(
    r"(?i)\bnot (?:from|by|sent by|written by) (?:the|a) (?:user|human|person)\b|\bautomat(?:ed|ic)(?:ally)?\b"
    r"|\bscheduled\b|\A\W*(?:cron|timer|system|heartbeat|background|maintenance|idle|wake-?up)\b"
    r"|\bno (?:new )?(?:user|human) (?:message|input)\b|\bmaintenance (?:turn|task|run)\b|\bbackground (?:check"
    r"|run|turn)\b"
    r"|\bcompaction turn\b|\b(?:hidden from|not (?:visible|shown) to) the (?:user|person|human)\b"
)
_NOTHING = re.compile(
    r"(?i)\b(?:if|when|unless|otherwise|should)\b[^.\n;]{0,60}\b(?:nothing|no action|no task|no work|all (?:is )?"
    r"(?:good|fine|clear|well)|everything is|not(?:hing)? (?:needed|required|to do|needs))"
)
_CONSTANT = re.compile(
    r"\b(?i:reply|respond|answer|output|return|say|print|send)\b[^.\n]{0,30}?\b(?!JSON\b|HTML\b|YAML\b|TRUE\b)"
    r"[A-Z][A-Z_]{3,}\b"
)
OWN = re.compile(
    r"(?i)\b(?:i|i'm|i've|me|my|mine|we|us|our|ich|mir|mich|meine?[rnms]?|wir|je|moi|mon|nous|yo|mis?|io|mio|eu"
    r"|meu|minha)\b"
    r"|\bprompt\b|\bplease[.!,]"
)
"""A person's words for themselves; or about an order, which is no order."""
ABOUT = re.compile(
    r"(?i)\A\W*(?:why|how|what|when|where|who|which|is|are|does|do|did|can|could|should|would|explain|debug|fix"
    r"|implement|help|tell|translate|rewrite|improve|correct|edit)\b|\?\s*\Z"
)
_MADE = re.compile(
    r"(?i)\b(?:code|function|script|program|class|method|test|schema|component|api|generator|haiku|poem|song|story"
    r"|screen|page|novel|game|character|scene|play|film)s?\b"
)
QUOTED = re.compile(r"(?<!\w)(?:'\w{1,8}'|\"\w{1,8}\")(?!\w)")
"""A word that is spoken of, not said."""
_TOOL = re.compile(
    r"(?i)\b(?:message|title|name|tag|summary|topic) generator\b|\b(?:iso|language|country|error|status) codes?\b"
)
"""What a client calls the model, and codes that are none of a program; who wants one made says so otherwise."""
_SENTENCE = re.compile(r"[.!?。!?\n]+(?=\s|\Z)|[。\n]")
CHANGE = re.compile(r"(?m)^(?:diff --git |@@ |\+\+\+ |--- )")
_PROBE = re.compile(
    r"(?i)\A\W*(?:hi|hello|hey|ping|test|testing|\.|(?:just )?(?:say|reply|respond"
    r"|answer)(?: with)?(?: only)?(?: the word)?"
    r"\W*(?:ok|okay|hi|hello|pong|ping|yes|test|ready)\W*(?:only|and nothing else)?)\W*\Z"
)
_WHICH = ("first", "last", "latest", "opening", "most recent", "next", "new")
TRIGGERS = (
    *(f"{which} {what}" for which in _WHICH for what in ("question", "turn", "reply")),
    *("conversation", "chat", "dialog", "exchange", "thread", "session", "transcript", "discussion", "message"),
    *("history", "user", "human", "person", "assistant", "context", "commit", "branch", "scheduled", "automat"),
    *("cron", "timer", "system", "idle", "wake", "heartbeat", "compaction", "nothing", "everything"),
    *("no action", "maintenance", "background", "diff", "@@ ", "+++ ", "--- ", "gespräch", "unterhaltung"),
    *("conversac", "conversaz", "conversa", "对话", "会话", "聊天", "会話"),
)
"""Every order has one of these words, or a word in capitals: a text without them has no points."""


def points(text: str, *, system: bool, alone: bool, short: bool, shaped: bool) -> int:
    """How strongly a system prompt, or what was said last, speaks for a request that a client made by itself.

    `alone`: nothing else was said, and no tools are on offer; `short`: the answer may have a few tokens only; `shaped`:
    its form is given with the request.
    """
    shown = is_transcript(text)
    marks = [m.start() for p in (TRANSCRIPT, PERSON, CHANGE) if (m := p.search(text)) is not None]
    ask = text[: min([START, *marks])]
    if not ask.strip():
        ask = text[-TAIL:].rsplit("\n\n", 1)[-1]
    if OWN.search(QUOTED.sub("", ask)) or (not system and ABOUT.search(ask)):
        return 0
    ordered = system or (alone and _ROLE.match(ask) is not None)
    orders = [one for one in _SENTENCE.split(ask) if not _MADE.search(_TOOL.sub("", one) if ordered else one)]
    tasks = [one for one in orders if _TASK.search(one)]
    forms = sum(bool(form.search(ask)) for form in FORM) + shaped
    uses = len({use.lower() for use in _USE.findall(ask)})
    weak = ordered or shown or uses

    unanswered = ordered and _UNANSWERED.search(ask) is not None
    kinds = [(_TALK, True), (_WEAK, weak), (_CHANGES, ordered), (_CLASSIFIED, unanswered)]
    counted = [pattern for pattern, counts in kinds if counts]
    where = orders if tasks and (shown or shaped or unanswered) else tasks
    found = 2 * any(pattern.search(one) for one in where for pattern in counted)
    about = found or shown or CHANGE.search(text) is not None
    unasked = 0 if system else 2 * bool(_ALONE.search(ask)) + 2 * bool(_CONSTANT.search(ask))
    if unasked and unasked + bool(_NOTHING.search(ask)) + uses > 2:
        found += unasked + bool(_NOTHING.search(ask)) + min(uses, 3)
    elif not about or not (forms or uses or unanswered or short):
        return 0
    else:
        found += bool(_ARTEFACT.search(ask)) + min(forms, 2) + min(uses, 3)
    found += 2 * unanswered + SHOWN * shown + bool(CHANGE.search(text)) + bool(_THIRD.search(ask))
    return found + alone + short


def is_transcript(text: str) -> bool:
    """Whether a talk stands in a text, marked as one or by who says what."""
    person = PERSON.search(text)
    return TRANSCRIPT.search(text) is not None or (person is not None and MODEL.search(text, person.end()) is not None)


def is_probe(text: str) -> bool:
    """Whether a message only tests that an engine answers, with room for a few tokens."""
    return _PROBE.match(text[:100]) is not None and len(text) < 100
