"""The syntax of an application's configuration file, as far as it is publicly documented.

`docs/forms.md` has it for people. `check_form` finds what is wrong with a file, the rules between its
parts included.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

Text = Annotated[str, StringConstraints(min_length=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Scalar = str | bool | int | float

PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")
_ASSET = re.compile(r"ASSET:([\w.@-]+)")
_PARAMETER = re.compile(r"hyperparams\.\w+\.\w+\.value")
_TYPED: Mapping[str, tuple[type, ...]] = {
    "integer": (int,),
    "float": (int, float),
    "checkbox": (bool,),
    "string": (str,),
    "multiline_text": (str,),
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ScriptPart(_Part):
    """What the task runs. `requirements` is a field of ClearML's tasks that no page has for these files."""

    repository: Text
    branch: str
    entry_point: Text
    working_dir: Text
    requirements: dict[Literal["pip"], list[str]] | None = None


class ContainerPart(_Part):
    """The image of the task: a field of ClearML's tasks that no page has for these files."""

    image: str
    arguments: str = ""


class TaskPart(_Part):
    """The task that an instance is."""

    script: ScriptPart
    container: ContainerPart | None = None
    hyperparams: dict[str, dict[str, Scalar]] = {}


class SourcePart(_Part):
    """Choices that are objects of the server."""

    class FilterPart(_Part):
        """Which objects."""

        fields: dict[str, str]

    source: Literal["project", "task", "model", "queue", "dataset_version"]
    value_field: Text
    display_field: Text
    filter: FilterPart | None = None


class LabelledChoice(_Part):
    """A choice that is shown as something else."""

    label: Text
    value: Scalar


class TargetPart(_Part):
    """Where the task keeps the value."""

    field: Literal["hyperparams", "configuration"]
    section: str | None = None
    name: Text
    format: Literal["str", "json"] = "str"


class ConditionPart(_Part):
    """A field above, and its value."""

    name: Name
    value: Scalar


class ConditionalPart(_Part):
    """All of the fields that must have certain values."""

    entries: Annotated[list[ConditionPart], Field(min_length=1)]


class DefaultConditionPart(_Part):
    """A default for each value of a field above."""

    name: Name
    value: dict[str, Scalar]


class EntryPart(_Part):
    """A field, a group of fields or a list of items. `hint` is documented for overrides; `secret` is ours."""

    name: Name
    title: Text
    info: str = ""
    type: Literal[
        "string",
        "integer",
        "float",
        "dropdown",
        "checkbox",
        "multiline_text",
        "group",
        "list",
    ]
    required: bool = False
    default: Scalar | None = None
    placeholder: str = ""
    hint: str = ""
    secret: bool = False
    collapsible: bool = False
    collapsibleTitleTemplate: str = ""
    conditional: ConditionalPart | None = None
    default_conditional_on: DefaultConditionPart | None = None
    autocomplete: bool = False
    choices: SourcePart | list[Scalar | LabelledChoice] | None = None
    target: TargetPart | None = None
    item_template: list[EntryPart] = []


class WizardPart(_Part):
    """The launch form."""

    entries: Annotated[list[EntryPart], Field(min_length=1)]


class PanelPart(_Part):
    """One element of a dashboard."""

    title: Text
    type: Literal[
        "scalar-histogram",
        "plot",
        "debug-images",
        "log",
        "scalar",
        "hyperparameter",
        "configuration",
        "html",
    ]
    text: str = ""
    metric: str = ""
    variant: str | list[str] = ""
    key: Literal["iter", "timestamp", "iso_time"] | None = None
    hide_legend: bool = False


class LinePart(_Part):
    """Elements beside each other."""

    style: dict[str, str] = {}
    contents: Annotated[list[PanelPart], Field(min_length=1)]


class DashboardPart(_Part):
    """What is shown of an instance."""

    lines: list[LinePart]


class FormFile(_Part):
    """A whole file."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    name: Text
    version: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+$")]
    provider: Text
    description: Text
    icon: str = ""
    no_info_html: str = ""
    default_queue: Text
    badges: list[str] = []
    resumable: bool = False
    category: str = ""
    featured: int = 500
    details_page: Literal["task"] = "task"
    task: TaskPart
    wizard: WizardPart
    dashboard: DashboardPart


def check_form(document: Any, assets: Collection[str] | None = None) -> list[str]:
    """Say what is wrong with a configuration file.

    Args:
        document: The file's content.
        assets: The names of the files in its folder ``assets``; None: not checked.

    Returns:
        A sentence for each problem, beginning with the place.
    """
    try:
        form = FormFile.model_validate(document)
    except ValidationError as error:
        return [
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
            for item in error.errors(include_url=False)
        ]
    found = [*_entry_problems(form.wizard.entries, "wizard", {}, in_list=False)]
    found += _name_problems(form.wizard.entries)
    found += _target_problems(form)
    found += _placeholder_problems(document, assets)
    return found


def assets_of(document: Any) -> list[str]:
    """The asset files that a configuration file refers to, sorted."""
    named = (_ASSET.fullmatch(text) for _, text in _placeholders(document, ""))
    return sorted({match[1] for match in named if match})


def walk(entries: list[EntryPart]) -> Iterator[EntryPart]:
    """Every field, those of groups and lists after them."""
    for entry in entries:
        yield entry
        yield from walk(entry.item_template)


def _entry_problems(
    entries: list[EntryPart], where: str, above: Mapping[str, EntryPart], *, in_list: bool
) -> Iterator[str]:
    seen = dict(above)
    for entry in entries:
        path = f"{where}.{entry.name}"
        yield from (f"{path}: {text}" for text in _field_problems(entry, in_list))
        conditions = entry.conditional.entries if entry.conditional else []
        needed: list[tuple[str, Scalar | None]] = [(c.name, c.value) for c in conditions]
        if entry.default_conditional_on:
            needed.append((entry.default_conditional_on.name, None))
        for name, value in needed:
            if name not in seen:
                yield f"{path}: depends on {name}, which is no field above it"
            elif value is not None and not _can_be(seen[name], value):
                yield f"{path}: depends on {name} being {value!r}, which it cannot be"
        inner = in_list or entry.type == "list"
        yield from _entry_problems(entry.item_template, path, seen, in_list=inner)
        seen[entry.name] = entry
        if entry.type == "group":
            seen |= {item.name: item for item in entry.item_template}


def _field_problems(entry: EntryPart, in_list: bool) -> Iterator[str]:
    is_nest = entry.type in ("group", "list")
    if is_nest != bool(entry.item_template):
        yield "a group or a list, and no other, has an item_template"
    if entry.type == "dropdown" and not entry.choices:
        yield "a dropdown has choices"
    if entry.choices and entry.type != "dropdown" and not isinstance(entry.choices, SourcePart):
        yield "only a dropdown has a list of choices"
    wants_target = entry.type != "group" and not in_list
    if wants_target != (entry.target is not None):
        yield "a field outside a list, and no group, has a target"
    if (entry.type == "list") != bool(entry.target and entry.target.format == "json"):
        yield "a list, and nothing else, is kept as json"
    if entry.default is not None and not _can_be(entry, entry.default):
        yield f"cannot be its default, {entry.default!r}"
    named = PLACEHOLDER.findall(entry.collapsibleTitleTemplate)
    if any(name not in {item.name for item in entry.item_template} for name in named):
        yield "its title names no field of its items"


def _can_be(entry: EntryPart, value: Scalar) -> bool:
    if isinstance(entry.choices, list):
        choices = [c.value if isinstance(c, LabelledChoice) else c for c in entry.choices]
        return any(value == choice and type(value) is type(choice) for choice in choices)
    types = _TYPED.get(entry.type, (str,))
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _name_problems(entries: list[EntryPart]) -> Iterator[str]:
    names = [entry.name for entry in walk(entries)]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"wizard: {name} is the name of several fields"


def _target_problems(form: FormFile) -> Iterator[str]:
    targets = [entry.target for entry in walk(form.wizard.entries) if entry.target]
    parameters = form.task.hyperparams
    for target in targets:
        if target.field == "configuration":
            if target.section is not None:
                yield f"wizard: the target {target.name} has a section, and configurations have none"
        elif target.name not in parameters.get(target.section or "", {}):
            yield f"wizard: the target {target.section}/{target.name} is no parameter of the task"
    places = [(target.field, target.section, target.name) for target in targets]
    for field, section, name in sorted({p for p in places if places.count(p) > 1}, key=str):
        yield f"wizard: {field}/{section or ''}/{name} is the target of several fields"


def _placeholder_problems(document: Any, assets: Collection[str] | None) -> Iterator[str]:
    for path, text in _placeholders(document, ""):
        asset = _ASSET.fullmatch(text)
        if asset:
            if assets is not None and asset[1] not in assets:
                yield f"{path}: there is no asset {asset[1]}"
        elif not _PARAMETER.fullmatch(text) and not path.endswith("collapsibleTitleTemplate"):
            yield f"{path}: {text!r} is neither an asset nor a parameter"


def _placeholders(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield from ((path, text) for text in PLACEHOLDER.findall(value))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _placeholders(item, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _placeholders(item, f"{path}[{index}]")
