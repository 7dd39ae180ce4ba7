"""Chat templates, rendered in a process of their own: a template is a program that came with a stranger's model.

Open it when a template fails or is ended.

transformers' sandbox keeps a template from files and from Python's inside, but not from time and memory: two nested
loops run for ever, and one `"x" * 10**10` fills the machine within a single instruction. The kernel ends a process
that takes too much of either. The process is started at the first prompt, and again after it was ended.
"""

import atexit
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import IO, Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

CPU_SECONDS = 5
"""Processor time that one rendering may take; a long talk through a template of a real model takes 0.1."""
MEMORY = 2 << 30
"""Bytes of address space for the process that renders."""
LONGEST = 1 << 26
"""Characters that a rendering may have: four times the longest body that the server takes."""


def render_template(
    tokenizer: PreTrainedTokenizerBase, chat: list[dict[str, Any]], tools: list[Any], generation_prompt: bool
) -> str:
    """What `tokenizer.apply_chat_template` renders; TemplateError or TypeError where the template fails or is ended."""
    asked = {
        "conversations": [[{k: v for k, v in message.items() if v is not None} for message in chat]],
        "tools": tools or None,
        "chat_template": tokenizer.get_chat_template(None, tools or None),  # pyright: ignore[reportArgumentType]
        "add_generation_prompt": generation_prompt,
        **tokenizer.special_tokens_map,
    }
    kind, text = _renderer.ask({"seconds": CPU_SECONDS, "asked": asked})
    if kind == "text":
        return text
    raise (TypeError if kind == "TypeError" else TemplateError)(text)


class _Renderer:
    """The process, and whose turn it is to use it."""

    def __init__(self) -> None:
        self._turn = Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: Mapping[str, Any]) -> tuple[str, str]:
        """What kind of answer there is to a request (`text`, or the name of an error), and its words."""
        content = json.dumps(request).encode()
        with self._turn:
            process = self._process or self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            answer = None
            try:
                _write(process.stdin, content)
                answer = _read(process.stdout)
            except BrokenPipeError:  # it was ended
                pass
            finally:  # an interrupted one may still be answering
                ended = None if answer is not None else self.end()
            if answer is not None:
                kind, text = json.loads(answer)
                return kind, text
        if ended == -signal.SIGPROF:
            return "Ended", f"it ran for {CPU_SECONDS} seconds and was stopped"
        return "Ended", f"it took more than {MEMORY >> 30} GiB of memory, or failed in another way, and was stopped"

    def end(self) -> int | None:
        """End the process, and say with which code."""
        process, self._process = self._process, None
        if process is None:
            return None
        with process:
            assert process.stdin is not None
            with suppress(OSError):
                process.stdin.close()
            try:
                return process.wait(1.0)  # it ends by itself, or was ended
            except subprocess.TimeoutExpired:
                process.kill()
                return process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "talktune.policy.template"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is its parent's to handle
        )
        return self._process


_renderer = _Renderer()
atexit.register(_renderer.end)


def _write(stream: IO[bytes], content: bytes) -> None:
    stream.write(len(content).to_bytes(8) + content)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes | None:
    """What was written; None at the end."""
    head = stream.read(8)
    size = int.from_bytes(head)
    content = stream.read(size)
    return content if len(head) == 8 and len(content) == size else None


def _rendered(render: Callable[..., Any], request: Mapping[str, Any]) -> tuple[str, str]:
    try:
        [text], _ = render(**request)
    except MemoryError:
        return "MemoryError", f"it took more than {MEMORY >> 30} GiB of memory and was stopped"
    except Exception as error:
        return type(error).__name__, str(error)[:2000]
    return (
        ("text", text)
        if len(text) <= LONGEST
        else ("TooLong", f"it wrote more than {LONGEST >> 20} million characters")
    )


def main() -> None:
    """The process: answer one request after the other, each within its time, until stdin ends."""
    import resource

    for limited, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        with suppress(ValueError, OSError):  # macOS has no limit of memory
            resource.setrlimit(limited, (most, most))
    from transformers.utils.chat_template_utils import render_jinja_template  # its time is not the template's

    answer, out = partial(_read, sys.stdin.buffer), sys.stdout.buffer
    while (content := answer()) is not None:
        request = json.loads(content)
        # No handler: the kernel ends the process, in whatever instruction it is.
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        said = json.dumps(_rendered(render_jinja_template, request["asked"])).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(out, said)


if __name__ == "__main__":
    main()
