"""What one model's engine is asked for, whichever form said it.

The vLLM form and the legacy one have different fields for the same engine. Both declare with each
field the flag that it was made for, in the spelling of vLLM 0.7.2 (`option(flag=...)`; the name of an
environment variable where it is one). From here on only flags count, and the field's own title and
path go along for the report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import SecretStr

from common.options.declaration import Option, describe_options
from common.options.settings import ModelOptions
from common.runtime.app import AnySettings


@dataclass(frozen=True)
class Given:
    """One engine option that the user set, with the field that says it."""

    option: Option
    value: Any

    @property
    def flag(self) -> str:
        """The flag, or variable, that the field was made for."""
        return self.option.flag or ""


@dataclass(frozen=True)
class EngineRequest:
    """The engine options of one model and of its instance.

    Attributes:
        model: The model's own options.
        settings: All settings of the instance.
    """

    model: ModelOptions
    settings: AnySettings

    @cached_property
    def given(self) -> tuple[Given, ...]:
        """Every engine option that was set, in the order of the form: the model's, then the shared."""
        shared = (getattr(self.settings, name) for name in self.settings.group_types())
        return tuple(
            Given(option, _value(value))
            for group in (self.model, *shared)
            for option in describe_options(type(group), per_model=group is self.model)
            if option.flag
            and option.name in group.model_fields_set
            and (value := getattr(group, option.name)) is not None
        )

    def of(self, flag: str) -> tuple[Given, ...]:
        """The fields that say this flag, the model's own first: that one counts."""
        return tuple(item for item in self.given if item.flag == flag)

    def value(self, flag: str) -> Any:
        """The value that counts for a flag; None when no field says it."""
        return next((item.value for item in self.of(flag)), None)

    @property
    def cli(self) -> str | None:
        """The field "CLI", which replaces the engine options of the form."""
        return getattr(self.model, "cli", None)

    @property
    def overrides(self) -> Mapping[str, Any]:
        """The field "Model Overrides": vLLM's option names, as the user wrote them, to values."""
        read: dict[str, Any] = json.loads(getattr(self.model, "model_overrides", None) or "{}")
        return read


def _value(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
