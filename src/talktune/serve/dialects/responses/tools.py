"""The tools of a Responses request; those in a namespace get flat names in chat completions.

Open it when a tool is not offered or not called.
"""

from collections.abc import Mapping
from typing import Any, cast

from talktune.serve.dialects.parts import function_tool, name_of, objects, optional_text, refused_tool
from talktune.serve.dialects.wire import BadRequest


def tools(raw: object, where: str, namespace: str | None = None) -> list[dict[str, Any]]:
    """The functions on offer, in the form of chat completions; raises BadRequest for any other tool."""
    found: list[dict[str, Any]] = []
    for at, tool in enumerate(objects(raw, where)):
        here, kind = f"{where}[{at}]", tool.get("type")
        if kind == "namespace" and namespace is None:
            found += tools(tool.get("tools"), f"{here}.tools", name_of(tool, here))
        elif kind == "web_search" and tool.get("external_web_access") is False:
            pass  # Codex CLI's default: a search that may not go to the web, and finds nothing here
        elif kind != "function":
            raise refused_tool(here, kind)
        else:
            # Some clients send the nested form of chat completions here, too.
            flat = tool["function"] if isinstance(tool.get("function"), dict) else tool
            named = flat | {"name": flat_name(flat | {"namespace": namespace}, here)}
            found.append(function_tool(named, here, flat.get("parameters")))
    return found


def flat_name(fields: Mapping[str, Any], where: str) -> str:
    """A function's name, with its namespace where it has one: chat completions know none."""
    name, namespace = name_of(fields, where), optional_text(fields, "namespace", where)
    return f"{namespace.rstrip('_')}__{name}" if namespace else name


def namespaces(body: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Of the functions in a namespace: their names as a client knows them, by their flat ones."""
    found: dict[str, dict[str, str]] = {}
    for tool in objects(body.get("tools"), "tools"):
        for function in objects(tool.get("tools"), "tools") if tool.get("type") == "namespace" else ():
            if function.get("type") == "function" and isinstance(function.get("name"), str):
                named = {"name": function["name"], "namespace": tool["name"]}
                found[flat_name(named, "tools")] = named
    return found


def tool_choice(raw: Any, tools: list[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]]]:
    """The choice and the tools that it leaves."""
    if raw is None or raw in ("auto", "none", "required"):
        return raw, tools
    if isinstance(raw, dict):
        choice = cast(dict[str, Any], raw)
        if choice.get("type") == "function":
            return {"type": "function", "function": {"name": flat_name(choice, "tool_choice")}}, tools
        if choice.get("type") == "allowed_tools" and choice.get("mode") in ("auto", "required"):
            names = [tool.get("name") for tool in objects(choice.get("tools"), "tool_choice.tools")]
            return choice["mode"], [tool for tool in tools if tool["function"]["name"] in names]
    raise BadRequest("tool_choice must be auto, none, required, or name a function.", param="tool_choice")
