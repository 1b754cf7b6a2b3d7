"""Options whose work is not done yet: said, not silently dropped."""

from __future__ import annotations

from common.runtime.app import AnySettings

_NOT_YET = {
    "enable_automatic_cpu_offloading": "models stay where they are loaded",
    "enable_disk_swapping": "models stay where they are loaded",
    "max_cuda_memory_gib": "the engine uses the GPUs as they are",
    "cuda_memory_manager_minimum_threshold": "nothing is moved out of the GPUs",
}


def without_effect(settings: AnySettings) -> list[str]:
    """What the user set for the instance that this version does not do yet, in words."""
    return [
        f'"{option.title}" ({option.path}) has no effect yet: {_NOT_YET[option.name]}.'
        for option, value in settings.given_shared()
        if value and option.name in _NOT_YET
    ]
