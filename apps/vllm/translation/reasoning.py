"""Reasoning and tool calls: two switches and the parsers that they need."""

from __future__ import annotations

from packaging.version import Version

from apps.vllm.request import Given
from apps.vllm.translation.plain import give_up_missing, lives, tell_unfit, write_plain
from apps.vllm.translation.values import UnfitValueError, arguments_for
from apps.vllm.translation.writer import CommandWriter

_SWITCH = "--enable-reasoning"
_PARSER = "--reasoning-parser"
_TOOLS = "--enable-auto-tool-choice"
_TOOL_PARSER = "--tool-call-parser"

# 0.7.2 refuses reasoning beside tool calls and 0.8.5 does not; between them it is not known.
_BOTH_ALLOWED = Version("0.8.5")


def write_reasoning(writer: CommandWriter) -> None:
    """Settle "Enable Reasoning" and "Reasoning Parser"."""
    switch, parser = writer.one(_SWITCH), writer.one(_PARSER)
    has_switch = lives(writer, _SWITCH)
    if switch is not None and switch.value is False:
        if parser is not None:
            writer.give_up(parser, f'"{switch.option.title}" is off')
        write_plain(writer, switch)
        return
    wanted = [item for item in (switch, parser) if item is not None]
    if has_switch and writer.release < _BOTH_ALLOWED and writer.request.value(_TOOLS):
        reason = f"vLLM {writer.version} has no reasoning beside automatic tool choice, which is on"
        writer.give_up(wanted, reason)
        return
    if parser is not None:
        _write_parser(writer, parser, turns_on=has_switch and switch is None)
    if switch is not None:
        _write_switch(writer, switch, parser, has_switch)


def write_tool_choice(writer: CommandWriter) -> None:
    """Settle "Enable Auto Tool Choice" and "Tool Call Parser"."""
    switch, parser = writer.one(_TOOLS), writer.one(_TOOL_PARSER)
    if parser is None:
        return
    found = writer.catalogue.find(_TOOL_PARSER)
    plugin = writer.request.value("--tool-parser-plugin")
    if found is not None and plugin and not found.accepts(parser.value):
        reason = f"vLLM {writer.version} takes its own parsers only, not a plugin's: "
        writer.give_up(parser, reason + ", ".join(found.choices))
    else:
        write_plain(writer, parser)
    has_parser = writer.passed(_TOOL_PARSER) or writer.is_overridden(_TOOL_PARSER)
    if switch is not None and switch.value and not has_parser and _TOOLS in writer.catalogue:
        writer.give_up(switch, f'needs "{parser.option.title}", which is not available')


def _write_parser(writer: CommandWriter, parser: Given, *, turns_on: bool) -> None:
    found = writer.catalogue.find(_PARSER)
    if found is None:
        give_up_missing(writer, parser)
        return
    try:
        arguments = arguments_for(found, parser, writer.version)
    except UnfitValueError as error:
        tell_unfit(writer, parser, error)
        return
    if turns_on:
        writer.translate(parser, "", (_SWITCH,), *arguments)
    else:
        writer.pass_(parser, *arguments)


def _write_switch(
    writer: CommandWriter, switch: Given, parser: Given | None, has_switch: bool
) -> None:
    is_parsed = writer.passed(_PARSER) or writer.is_overridden(_PARSER)
    if is_parsed and has_switch:
        writer.pass_(switch, (_SWITCH,))
    elif is_parsed:
        writer.translate(switch, f"nothing: {_PARSER} turns it on")
    elif _PARSER not in writer.catalogue:
        give_up_missing(writer, switch)
    elif parser is not None:
        writer.give_up(switch, f'needs "{parser.option.title}", which is not available')
    elif has_switch:
        writer.refuse(switch, f"needs a Reasoning Parser with vLLM {writer.version}")
    else:
        writer.give_up(switch, "a Reasoning Parser is what turns it on, and none is set")
