"""Options that were set and change nothing: said, not silently dropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from common.options.declaration import Option, describe_options
from common.options.settings import AppSettings

# What only matters where models take turns.
_OF_TURNS = ("priority", "max_wait_seconds", "save_prompt_cache")


def without_effect(settings: AppSettings[Any, Any], places: Sequence[str]) -> list[str]:
    """What the user set that changes nothing in this instance, and why, a sentence for each.

    Args:
        settings: The settings.
        places: Where each model is described, in their order: ``Model``, or ``Models/models[0]``.
    """
    return [
        f'"{option.title}" ({path}) has no effect: {reason}.'
        for option, path, reason in (*_of_models(settings, places), *_of_the_instance(settings))
    ]


def _of_models(
    settings: AppSettings[Any, Any], places: Sequence[str]
) -> Iterator[tuple[Option, str, str]]:
    if settings.memory.moves_models:
        return
    reason = f"models take turns only with {settings.offloading_switches()}"
    options = [o for o in describe_options(settings.model_type()) if o.name in _OF_TURNS]
    for place, model in zip(places, settings.models, strict=True):
        given = model.given()
        # A switch that is off, and priority 0, are what there is anyway.
        for option in (o for o in options if given.get(o.name)):
            yield option, option.path if place == "Model" else f"{place}.{option.name}", reason


def _of_the_instance(settings: AppSettings[Any, Any]) -> Iterator[tuple[Option, str, str]]:
    why = {
        "cuda_memory_manager_minimum_threshold": (
            "models are moved as a whole, so there is no size below which a part stays"
        )
    }
    if not settings.memory.cpu_offloading:
        switch = settings.offloading_switches("enable_automatic_cpu_offloading")
        why["max_host_memory_gib"] = f"models are moved to CPU RAM only with {switch}"
    for option, _ in settings.given_shared():
        if option.name in why:
            yield option, option.path, why[option.name]
