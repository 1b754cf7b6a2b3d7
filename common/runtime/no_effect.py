"""Options that were set and change nothing: said, not silently dropped."""

from __future__ import annotations

from common.options.declaration import describe_options
from common.options.loading import MODELS_PATH
from common.runtime.app import AnySettings

# What only matters where models take turns.
_OF_TURNS = ("priority", "max_wait_seconds", "save_prompt_cache")


def without_effect(settings: AnySettings) -> list[str]:
    """What the user set that changes nothing in this instance, and why, a sentence for each."""
    return [*_of_models(settings), *_of_the_instance(settings)]


def _of_models(settings: AnySettings) -> list[str]:
    if settings.memory.moves_models:
        return []
    reason = f"models take turns only with {settings.offloading_switches()}"
    options = [o for o in describe_options(settings.model_type()) if o.name in _OF_TURNS]
    found = []
    for index, model in enumerate(settings.models):
        given = model.given()
        for option in options:
            # Off, and the lowest of nothing, are what there is anyway.
            if given.get(option.name):
                is_one = len(settings.models) == 1
                path = option.path if is_one else f"{MODELS_PATH}[{index}].{option.name}"
                found.append(f'"{option.title}" ({path}) has no effect: {reason}.')
    return found


def _of_the_instance(settings: AnySettings) -> list[str]:
    why = {
        "cuda_memory_manager_minimum_threshold": (
            "models are moved as a whole, so there is no size below which a part stays"
        )
    }
    if not settings.memory.cpu_offloading:
        # The switch is in a group of its own in some forms.
        switch = next(
            (o for o in settings.options() if o.name == "enable_automatic_cpu_offloading"), None
        )
        if switch is not None:
            why["max_host_memory_gib"] = (
                f'models are moved to CPU RAM only with "{switch.title}" ({switch.path})'
            )
    return [
        f'"{option.title}" ({option.path}) has no effect: {why[option.name]}.'
        for option, _ in settings.given_shared()
        if option.name in why
    ]
