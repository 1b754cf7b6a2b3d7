"""A configuration with every field of an app's form set, written from the declarations."""

from __future__ import annotations

import json
from typing import Any

from common.forms.entry import Attributes
from common.forms.names import has_model_list
from common.options.declaration import Option
from common.options.loading import MODELS_PATH, render_value
from common.options.settings import AppSettings

SECRET = "sesame-of-the-tests"
ATTRIBUTES = Attributes("Full instance", "Full project/below it", "gpu queue")

_STRUCTURES = {
    "object": '{"a": 1}',
    "overrides": '{"max_num_seqs": 4}',
    "limits": '{"image": 2}',
    "list": "1.0,2.0",
    "modules": "one=provider/adapter",
}


def sample_value(option: Option, variant: int = 0) -> Any:
    """A value that the option's declaration allows; `variant` makes two models differ."""
    if option.secret:
        return SECRET
    if option.structure:
        return _STRUCTURES[option.structure]
    if option.type == "boolean":
        return bool(variant)
    if option.choices:
        choice = option.choices[variant % len(option.choices)]
        return int(choice) if option.type == "integer" else choice
    if option.type == "string":
        return f"{option.name} of “model” {variant}\nand more"
    low = option.minimum if option.minimum is not None else option.exclusive_minimum
    number = (low or 0) + (0.5 if option.type == "float" else 1)
    if option.maximum is not None:
        number = min(number, option.maximum)
    return number if option.type == "float" else int(number)


def full_parameters(settings: type[AppSettings[Any, Any]]) -> dict[str, str]:
    """Every parameter as ClearML stores it; two models, where the app has more than one."""
    options = list(settings.options(entry=False))
    shared = {o.path: render_value(sample_value(o)) for o in options if not o.per_model}
    if not has_model_list(settings):
        return shared | {o.path: render_value(sample_value(o)) for o in options if o.per_model}
    models = [{o.name: sample_value(o, i) for o in options if o.per_model} for i in (0, 1)]
    return {**shared, MODELS_PATH: json.dumps(models)}
