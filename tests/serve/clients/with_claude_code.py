"""Claude Code's way of talking, with the anthropic client.  python with_claude_code.py URL SCRIPT

Its headers, its blocks, its reminders that come and go, the requests that it makes for itself, sub-agents, compaction.
SCRIPT has the `sayings` of a person and the numbers of those before which the conversation is compacted; the output is
what was shown after each of them.
"""

import json
import subprocess
import sys
import uuid
from copy import deepcopy
from typing import Any

import anthropic

MODEL, SMALL = "claude-opus-4-6", "claude-haiku-4-5-20251001"
CACHE = {"cache_control": {"type": "ephemeral"}}
ACCOUNT = f"user_{uuid.uuid4().hex}{uuid.uuid4().hex}_account_{uuid.uuid4()}_session_"
CLIENT = "You are Claude Code, Anthropic's official CLI for Claude."
TOOLS: list[Any] = [
    {
        "name": name,
        "description": f"The tool {name}.",
        "input_schema": {"type": "object", "properties": {a: {"type": "string"} for a in arguments}, "required": []},
    }
    for name, arguments in {
        "Task": ("description", "prompt", "subagent_type"),
        "Bash": ("command", "description"),
        "Read": ("file_path",),
        "TodoWrite": ("todos",),
    }.items()
]
HEADERS = {
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,"
    "prompt-caching-scope-2026-01-05",
    "anthropic-dangerous-direct-browser-access": "true",
    "user-agent": "claude-cli/2.1.76 (external, cli)",
    "x-app": "cli",
    "x-stainless-arch": "x64",
    "x-stainless-lang": "js",
    "x-stainless-os": "Linux",
    "x-stainless-package-version": "0.74.0",
    "x-stainless-runtime": "node",
    "x-stainless-runtime-version": "v24.3.0",
    "x-stainless-timeout": "600",
}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def reminder(words: str) -> dict[str, Any]:
    return text(f"<system-reminder>\n{words}\n</system-reminder>\n")


class Session:
    """One conversation as the program keeps it, and how it sends that."""

    def __init__(self, url: str) -> None:
        self.client = anthropic.Anthropic(base_url=url, auth_token="none", max_retries=0, default_headers=HEADERS)
        self.user = {"user_id": ACCOUNT + str(uuid.uuid4())}
        self.messages: list[Any] = []
        self.count = 0

    def system(self, *texts: str) -> list[Any]:
        first = text(f"x-anthropic-billing-header: cc_version=2.1.76.{self.count:03}; cc_entrypoint=cli;")
        return [first, text(CLIENT) | CACHE, *(text(words) | CACHE for words in texts)]

    def send(self, messages: list[Any], **more: Any) -> Any:
        """A streamed request; the message that answers it."""
        asked: dict[str, Any] = {"model": MODEL, "max_tokens": 32000, "metadata": self.user, "messages": messages}
        query = {"extra_query": {"beta": "true"}}
        with self.client.messages.stream(**asked | more, **query) as stream:
            return stream.get_final_message()

    def main(self, messages: list[Any]) -> Any:
        """A request of the main loop."""
        self.count += 1
        environment = f"You help with software.\n<env>\nWorking directory: /tmp/x\nRequest {self.count}\n</env>"
        budget = {"type": "enabled", "budget_tokens": 31999}
        edits = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
        return self.send(
            messages, system=self.system(environment), tools=TOOLS, thinking=budget,
            extra_body={"context_management": edits},
        )  # fmt: skip

    def view(self) -> list[Any]:
        """What is sent: the project's notes in front, cache marks at the end, some reminders in this request only."""
        sent = deepcopy(self.messages)
        for message in sent[:-1]:
            content = message["content"]
            if message["role"] == "user" and len(content) == 1 and content[0]["type"] == "text":
                message["content"] = content[0]["text"]
        notes = (
            "As you answer, you can use the following context:\n# claudeMd\nBe brief.\n# currentDate\nIt is 2026-09-10."
        )
        first = sent[0]["content"]
        sent[0]["content"] = [reminder(notes), *([text(first)] if isinstance(first, str) else first)]
        if self.count % 2:
            sent[-1]["content"].append(reminder(f"The list of things to do has been empty for {self.count} requests."))
        if self.count % 3 == 1:
            sent[-1]["content"].insert(0, reminder(f"/tmp/x/{self.count}.py was modified, by the user or a linter."))
        for message in sent[-3:]:
            if message["role"] == "user" and not isinstance(message["content"], str):
                message["content"][-1] |= CACHE
        return sent

    def ask(self, words: str) -> str:
        """A turn of the person: what is shown in the end."""
        content = [text(words)]
        if self.count % 4 == 2:
            content.insert(0, reminder("The user opened the file /tmp/x/a.py in the IDE. It may or may not matter."))
        if self.messages and self.messages[-1]["role"] == "user":
            self.messages[-1]["content"] += content
        else:
            self.messages.append({"role": "user", "content": content})
        while True:
            done = self.main(self.view())
            self.messages.append({"role": "assistant", "content": [block.to_dict() for block in done.content]})
            calls = [block for block in done.content if block.type == "tool_use"]
            if not calls:
                return "".join(block.text for block in done.content if block.type == "text")
            self.messages.append({"role": "user", "content": [self.result(call) for call in calls]})

    def result(self, call: Any) -> Any:
        self.prefix(call.input["command"])
        ran = subprocess.run(call.input["command"], shell=True, capture_output=True, text=True, check=True)
        return {"type": "tool_result", "tool_use_id": call.id, "content": ran.stdout.strip(), "is_error": False}

    # What it asks for itself.

    def small(self, system: str, words: str, **more: Any) -> None:
        self.send([{"role": "user", "content": words}], model=SMALL, system=self.system(system), **more)

    def begins(self, words: str) -> None:
        self.client.messages.create(
            model=SMALL, max_tokens=1, messages=[{"role": "user", "content": "quota"}], metadata=self.user
        )
        asked: Any = {"model": MODEL, "messages": [{"role": "user", "content": "foo"}], "tools": TOOLS[:1]}
        assert self.client.messages.count_tokens(**asked).input_tokens > 0
        title = (
            "Generate a concise, sentence-case title (3-7 words) that captures the main topic of this coding session."
        )
        self.small(title + ' Return JSON with a single "title" field.', words)

    def topic(self, words: str) -> None:
        system = "Analyze if this message indicates a new conversation topic. If it does, extract a 2-3 word title."
        asked = [{"role": "user", "content": words}, {"role": "assistant", "content": "{"}]
        self.send(asked, model=SMALL, system=self.system(system + " Answer as JSON, nothing else."))

    def prefix(self, command: str) -> None:
        system = "Your task is to process Bash commands that an AI coding agent wants to run."
        self.small(system, f"<policy_spec>\nThe prefix of a command.\n</policy_spec>\n\nCommand: {command}\n")

    def after(self) -> None:
        """What it asks of the whole conversation while the person reads."""
        rest = [*self.view(), {"role": "user", "content": [text("[SUGGESTION MODE: say what they might type next.]")]}]
        self.main(rest)
        if self.count % 3 == 0:
            away = "The user stepped away and is coming back. Recap in under 40 words, 1-2 plain sentences."
            self.main([*self.view(), {"role": "user", "content": [text(away)]}])

    def agent(self, words: str) -> None:
        """A helper with a conversation of its own."""
        asked: list[Any] = [{"role": "user", "content": [text(words)]}]
        system = self.system("You are an agent for Claude Code: do what has been asked, nothing more.")
        self.send([{"role": "user", "content": [text("Warmup")]}], model=SMALL, system=system, tools=TOOLS[1:])
        done = self.send(asked, model=SMALL, system=system, tools=TOOLS[1:])
        assert done.content

    def compact(self, words: str) -> None:
        """Put a summary in the place of all that was said."""
        order = (
            "CRITICAL: Respond with text only, without tools.\n\nYour task is to create a detailed summary of the "
            "conversation so far, for continuing the work without losing context. First think in <analysis> tags. "
            "Then name the requests, the files, the errors, what is open and what comes next, in <summary> tags. "
            "Be thorough about what the user said, since the earlier messages will be gone."
        )
        asked = [*self.view(), {"role": "user", "content": [text(order)]}]
        system = self.system("You are a helpful AI assistant tasked with summarizing conversations.")
        done = self.send(asked, system=system, tools=TOOLS[2:3])
        told = "".join(block.text for block in done.content if block.type == "text")
        told = told.replace("<summary>", "Summary:").replace("</summary>", "").strip()
        begin = (
            "This session is being continued from a previous conversation that ran out of context. The summary below "
            f"covers the earlier portion of the conversation.\n\n{told}\n\nThe full transcript is at /tmp/x.jsonl."
        )
        caveat = "<local-command-caveat>Messages below come from local commands.</local-command-caveat>"
        ran = "<local-command-stdout>Compacted (ctrl+o to see the full summary)</local-command-stdout>"
        name = "<command-name>/compact</command-name>\n<command-message>compact</command-message>"
        manual = [text(caveat), text(name), text(ran)] if "ok" in words else []
        self.messages = [{"role": "user", "content": [text(begin), *manual]}]


def main() -> None:
    url, script = sys.argv[1], json.loads(sys.argv[2])
    session = Session(url)
    shown: list[str] = []
    for number, words in enumerate(script["sayings"]):
        if number == 0:
            session.begins(words)
        if number in script["compact"]:
            session.compact(words)
        if number % 3 == 1:
            session.topic(words)
        shown.append(session.ask(words))
        session.after()
        if number % 5 == 3:
            session.agent(f"[helper] Find out what {number} is, and report it in one line.")
    print(json.dumps(shown))


main()
