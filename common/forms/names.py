"""Names of the form's fields: a public contract, since administrators override fields by them.

An instance's own field keeps its name (``instance_name``, ``queue``); an option of a group is
``<section>_<name>`` in lower case (``general_hugging_face_token``); an option of one model is its bare
name, inside the items of the list ``models``. The form of an app that serves one model has no list:
there they stand beside the other fields.
"""

from __future__ import annotations

from typing import Any

from common.options.declaration import Option
from common.options.settings import AppSettings

MODELS_FIELD = "models"


def field_name(option: Option) -> str:
    """The wizard name of an option; of a per-model one, its name within an item of `MODELS_FIELD`."""
    if option.per_model or not option.group:
        return option.name
    return f"{option.group.lower()}_{option.name}"


def has_model_list(settings: type[AppSettings[Any, Any]]) -> bool:
    """Whether an app's form has a list of models; False: the fields of its one model."""
    return settings.max_models != 1
