"""The declaration of an option, and the list of options read back from the declarations.

An app declares its options as fields of `OptionGroup` classes with `option(...)`. The form, the
hyperparameters, the command line, the validation and the reference docs are derived from
`describe_options`; nothing about an option is written down twice.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Union

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from common.errors import Problem
from common.options.structured import Structure, read_structure

OptionType = Literal["string", "integer", "float", "boolean"]


def parameter_name(title: str) -> str:
    """Derive the parameter's name from the form's title (``Max CUDA Memory (GiB)`` -> ``max_cuda_memory_gib``)."""
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")


def option(
    title: str,
    *,
    help: str,
    default: Any = None,
    group: str | None = None,
    flag: str | None = None,
    no_flag: str | None = None,
    required: bool = False,
    secret: bool = False,
    multiline: bool = False,
    placeholder: str = "",
    form_default: str | None = None,
    named: str | None = None,
    choices: Sequence[str] = (),
    spellings: Mapping[str, str] | None = None,
    structure: Structure | None = None,
    gt: float | None = None,
    ge: float | None = None,
    le: float | None = None,
) -> Any:
    """Declare one option.

    Args:
        title: The form's title; the field must be called `parameter_name(title)`.
        help: What it does, with unit and default, shown by the form, the docs and the command line.
        default: Value when not set; None leaves the choice to the engine.
        group: Form group, when it is not that of the class.
        flag: The engine's flag that carries the value; None when the option is ours or is rendered specially.
        no_flag: For a boolean, the engine's flag for false.
        required: The form asks for it.
        secret: Never shown in console, argv, exports or errors.
        multiline: The form shows a text area.
        placeholder: Example shown in an empty form field.
        form_default: What the form is prefilled with, when the engine's default is not left alone.
        named: The title that the parameter's name comes from, where the two differ for good.
        choices: What the form offers where the engine may know more, or by other words; other values are
            left to the field's type.
        spellings: Other ways to write a value, each with the value that it means, in any case.
        structure: What the text holds when it is more than a word.
        gt: Exclusive lower bound.
        ge: Lower bound.
        le: Upper bound.
    """
    return Field(
        default=default,
        title=title,
        description=help,
        gt=gt,
        ge=ge,
        le=le,
        json_schema_extra={
            "group": group,
            "flag": flag,
            "no_flag": no_flag,
            "required": required,
            "secret": secret,
            "multiline": multiline,
            "placeholder": placeholder,
            "form_default": form_default,
            "named": named or title,
            "choices": [*choices],
            "spellings": {**(spellings or {})},
            "structure": structure,
        },
    )


def like(group: type[OptionGroup], name: str, **changes: Any) -> Any:
    """Declare an option as that of another group.

    Args:
        group: The other group.
        name: The option's name there.
        changes: What is different here: arguments of `option`. With another title the name is that
            which the title gives.
    """
    info = group.model_fields[name]
    declared = {"title": info.title, "help": info.description, "default": info.default}
    renamed = {"named": None} if "title" in changes else {}
    return option(**{**declared, **extras(info), **_bounds_of(info), **renamed, **changes})


class OptionGroup(BaseModel):
    """Base of a group of options; the class's `section` is the form group and hyperparameter section."""

    # A JSON file may give a port, or a name of digits, as a number.
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, title=None, coerce_numbers_to_str=True
    )

    section: ClassVar[str] = ""
    # Fields named here come first, in this order: inheritance would put a subclass's own last.
    form_order: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a field whose name is not the one that its title gives."""
        super().__pydantic_init_subclass__(**kwargs)
        for name, info in cls.model_fields.items():
            expected = parameter_name(extras(info).get("named", ""))
            if name != expected:
                raise TypeError(f"{cls.__name__}.{name}: its title makes the name {expected!r}")

    @model_validator(mode="before")
    @classmethod
    def _normalise(cls, values: Any) -> Any:
        # ClearML stores strings and null alike for "not set"; choices are accepted in any case,
        # since the forms' own spellings differ from the engines' (Layer / layer).
        if not isinstance(values, dict):
            return values
        result: dict[str, Any] = {}
        for name, value in values.items():
            if value is None or (isinstance(value, str) and not value.strip()):
                continue
            info = cls.model_fields.get(name)
            if info is not None and isinstance(value, str):
                value = value.strip()
                value = _spellings(info).get(value.lower(), value)
            result[name] = value
        return result

    @field_validator("*", mode="before")
    @classmethod
    def _read_structures(cls, value: Any, info: ValidationInfo) -> Any:
        kind = extras(cls.model_fields[info.field_name or ""]).get("structure")
        if kind is None:
            return value
        try:
            return read_structure(kind, value) or None
        except ValueError as error:
            reason = {"reason": str(error)}
            raise PydanticCustomError("structure", "{reason}", reason) from error

    def problems(self) -> list[Problem]:
        """What is wrong across this group's own fields; `Problem.path` holds the bare field name."""
        return []

    def given(self) -> dict[str, Any]:
        """The options that were set, by name, secrets unwrapped."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in values.items()
            if value is not None and name in self.model_fields_set
        }


@dataclass(frozen=True)
class Option:
    """One option as everything outside the declaration sees it; `name` is its parameter's, without section."""

    title: str
    name: str
    path: str
    group: str
    type: OptionType
    default: Any
    choices: tuple[str, ...]
    required: bool
    secret: bool
    help: str
    per_model: bool
    flag: str | None
    no_flag: str | None = None
    multiline: bool = False
    placeholder: str = ""
    form_default: str | None = None
    structure: Structure | None = None
    # The choices are what the form offers; other values are left to the engine.
    open_choices: bool = False
    minimum: float | None = None
    exclusive_minimum: float | None = None
    maximum: float | None = None


def extras(info: FieldInfo) -> dict[str, Any]:
    """What `option` was told beyond pydantic's own attributes."""
    extra = info.json_schema_extra
    return typing.cast("dict[str, Any]", extra) if isinstance(extra, dict) else {}


def _bounds_of(info: FieldInfo) -> dict[str, float]:
    """The bounds of a field's value, by their names in `option`."""
    return {
        attribute: getattr(item, attribute)
        for item in info.metadata
        for attribute in ("gt", "ge", "le")
        if hasattr(item, attribute)
    }


def choices_of(annotation: Any) -> tuple[str, ...]:
    """The choices of a field annotated with ``Literal[...]``, optional or not."""
    if typing.get_origin(annotation) is Literal:
        return tuple(str(choice) for choice in typing.get_args(annotation))
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return tuple(c for part in typing.get_args(annotation) for c in choices_of(part))
    return ()


def _spellings(info: FieldInfo) -> dict[str, str]:
    """Every accepted way to write a choice, in lower case, with the choice that it means."""
    extra = extras(info)
    choices = (*extra.get("choices", ()), *choices_of(info.annotation))
    others = extra.get("spellings", {})
    return {word.lower(): word for word in choices} | {
        word.lower(): meant for word, meant in others.items()
    }


def group_of(cls: type[OptionGroup], info: FieldInfo) -> str:
    """The section that a field's hyperparameter lives in."""
    return extras(info).get("group") or cls.section


def describe_options(cls: type[OptionGroup], *, per_model: bool = False) -> Iterator[Option]:
    """List the options of a group in the order of their declaration."""
    names = dict.fromkeys((*cls.form_order, *cls.model_fields))
    for name, info in ((name, cls.model_fields[name]) for name in names):
        extra = extras(info)
        group = group_of(cls, info)
        bounds = _bounds_of(info)
        yield Option(
            title=info.title or name,
            name=name,
            path=f"{group}/{name}" if group else "",
            group=group,
            type=_type_of(info.annotation),
            default=info.default,
            choices=tuple(extra["choices"]) or choices_of(info.annotation),
            required=extra["required"],
            secret=extra["secret"],
            help=info.description or "",
            per_model=per_model,
            flag=extra["flag"],
            no_flag=extra["no_flag"],
            multiline=extra["multiline"],
            placeholder=extra["placeholder"],
            form_default=extra["form_default"],
            structure=extra["structure"],
            open_choices=bool(extra["choices"]) and not choices_of(info.annotation),
            minimum=bounds.get("ge"),
            exclusive_minimum=bounds.get("gt"),
            maximum=bounds.get("le"),
        )


def _type_of(annotation: Any) -> OptionType:
    parts = typing.get_args(annotation) or (annotation,)
    if bool in parts:
        return "boolean"
    if int in parts:
        return "integer"
    if float in parts:
        return "float"
    return "string"
