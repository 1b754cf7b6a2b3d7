"""The reference page of an app's options, in Markdown, from their declarations. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from common.options.declaration import Option
from common.options.loading import MODELS_PATH
from common.options.structured import Structure

_HEADER = "| Title | Parameter | Value | Default | Engine flag | What it does |"
_RULE = "|---|---|---|---|---|---|"
_NUMBERS = {"integer": "whole number", "float": "number"}

_STRUCTURES: dict[Structure | None, str] = {
    "object": "JSON object",
    "overrides": "JSON object, or lines of `name: value`",
    "limits": "JSON object, or `name=number` separated by commas",
    "list": "values separated by commas, or a JSON list",
    "modules": "`name=reference`, several separated by commas or line ends, or a JSON list",
}

_SEVERAL = (
    f"Several models: `{MODELS_PATH}` is a JSON list with an object for each, whose names are those "
    "of the options marked *per model*, without their section: "
    '`[{"model": "provider/repo"}, {"model": "./folder", "max_concurrent_requests": 8}]`.'
)
_ENTRY_HEADING = "Instance"
_ENTRY_INTRO = (
    "Attributes of the ClearML task, no parameters: `--name`, `--project` and `--queue` of "
    "`clearml-deploy launch`."
)


def render_options(title: str, options: Iterable[Option], *, max_models: int | None = None) -> str:
    """Render the reference page of an app.

    Args:
        title: The application's title.
        options: Every option in the order of the form, the entry fields (empty `group`) included.
        max_models: The most models that one instance of the app serves; None: as many as fit.

    Returns:
        Markdown that ends with a newline; a section for each group, in the order of the groups' first
        options.
    """
    groups: dict[str, list[Option]] = {}
    for option in options:
        groups.setdefault(option.group, []).append(option)
    return "\n".join(
        [
            *_intro(title, max_models),
            *(line for g, listed in groups.items() for line in _section(g, listed)),
        ]
    )


def _intro(title: str, max_models: int | None) -> list[str]:
    return [
        f"# Options: {title}",
        "",
        "Derived from the declarations of the options by `clearml-deploy docs build`; do not edit.",
        "",
        "Empty means not set: the engine's own default applies, for booleans too. An option without an "
        "engine flag is the instance's own, or is passed in another form: `clearml-deploy command` shows "
        "what an engine is told.",
        "",
        "An instance serves one model." if max_models == 1 else _SEVERAL,
        "",
    ]


def _section(group: str, options: list[Option]) -> list[str]:
    lines = [f"## {group or _ENTRY_HEADING}", ""]
    if not group:
        lines += [_ENTRY_INTRO, ""]
    elif all(option.per_model for option in options):
        lines += ["Per model.", ""]
    return [*lines, _HEADER, _RULE, *map(_row, options), ""]


def _row(option: Option) -> str:
    cells = (
        option.title,
        _code(option.path),
        _value(option),
        "" if option.default is None else _code(str(option.default)),
        _flags(option),
        option.help,
    )
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _value(option: Option) -> str:
    """What may be given: the choices or the type, the bounds, and whether it is required or secret."""
    if option.choices:
        words = [", ".join(_code(choice) for choice in option.choices)]
        words += ["or another that the engine has"] if option.open_choices else []
    elif option.type == "boolean":
        words = ["`true`, `false`"]
    else:
        words = [_STRUCTURES.get(option.structure) or _NUMBERS.get(option.type, "text")]
    words += _bounds(option)
    words += [word for word in ("required", "secret") if getattr(option, word)]
    return ", ".join(words)


def _bounds(option: Option) -> list[str]:
    named = (
        ("at least", option.minimum),
        ("more than", option.exclusive_minimum),
        ("at most", option.maximum),
    )
    return [f"{words} {bound:g}" for words, bound in named if bound is not None]


def _flags(option: Option) -> str:
    return " / ".join(_code(flag) for flag in (option.flag, option.no_flag) if flag)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    """Keep a text within its cell: no line ends, no column separators, no markup of its own."""
    flat = " ".join(text.split()).replace("|", "\\|")
    # Code spans are ours; elsewhere these would be read as HTML or emphasis.
    return "".join(
        part if index % 2 else part.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
        for index, part in enumerate(_split_code(flat))
    )


def _split_code(text: str) -> list[str]:
    """Split into alternating plain text and code spans, the spans with their backticks."""
    parts = text.split("`")
    return [f"`{part}`" if index % 2 else part for index, part in enumerate(parts)]
