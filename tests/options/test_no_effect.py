"""Options that were set and change nothing are told wherever a configuration is read."""

from __future__ import annotations

import pytest

from apps.legacy_model.options import LegacySettings
from apps.llamacpp.options import LlamaCppSettings
from apps.vllm.options import VllmSettings
from common.options.loading import load_settings
from common.runtime.app import AnySettings


def without_effect_of(settings: type[AnySettings], **given: str) -> list[str]:
    model = {"Model/model": "a/b/c.gguf"}
    parameters = model | {name.replace("__", "/"): text for name, text in given.items()}
    return [*load_settings(settings, parameters).warnings]


@pytest.mark.parametrize("settings", [LlamaCppSettings, VllmSettings])
def test_the_size_below_which_nothing_moves_is_without_effect(settings: type[AnySettings]) -> None:
    (line,) = without_effect_of(
        settings,
        General__cuda_memory_manager_minimum_threshold="0",
        General__max_cuda_memory_gib="9",
    )
    assert line.startswith(
        '"CUDA Memory Manager Minimum Threshold" (General/cuda_memory_manager_minimum_threshold) has '
        "no effect: models are moved as a whole"
    )


@pytest.mark.parametrize(
    ("settings", "switch"),
    [
        (LlamaCppSettings, "General/enable_automatic_cpu_offloading"),
        (VllmSettings, "Advanced/enable_automatic_cpu_offloading"),
    ],
)
def test_what_only_matters_where_models_take_turns_is_named_elsewhere(
    settings: type[AnySettings], switch: str
) -> None:
    wishes = {"Model__priority": "3", "Model__max_wait_seconds": "5"}
    lines = without_effect_of(settings, **wishes)
    assert [line.partition(" has no effect: ")[0] for line in lines] == [
        '"Priority" (Model/priority)',
        '"Max Wait (Seconds)" (Model/max_wait_seconds)',
    ]
    assert all(switch in line for line in lines)
    assert without_effect_of(settings, **wishes, **{switch.replace("/", "__"): "true"}) == []


def test_saved_prompts_matter_only_where_models_take_turns() -> None:
    saves = {"Model__save_prompt_cache": "true"}
    (line,) = without_effect_of(LlamaCppSettings, **saves)
    assert "(Model/save_prompt_cache)" in line
    assert without_effect_of(LlamaCppSettings, **saves, General__enable_disk_swapping="true") == []
    off = {"Model__save_prompt_cache": "false", "Model__priority": "0", "Model__pinned": "true"}
    assert without_effect_of(LlamaCppSettings, **off) == []


def test_of_several_models_the_one_that_was_told_something_without_effect_is_named() -> None:
    listed = [{"model": "a/a.gguf"}, {"model": "a/b.gguf", "priority": -1}]
    (line,) = load_settings(LlamaCppSettings, {"Models/models": listed}).warnings
    assert line.startswith('"Priority" (Models/models[1].priority) has no effect')


def test_host_memory_for_models_matters_only_where_they_move_there() -> None:
    most = {"General__max_host_memory_gib": "64"}
    for nothing_moves_there in ({}, {"Advanced__enable_disk_swapping": "true"}):
        (line,) = without_effect_of(VllmSettings, **most, **nothing_moves_there)
        assert line == (
            '"Max Host Memory (GiB)" (General/max_host_memory_gib) has no effect: models are moved to '
            'CPU RAM only with "Enable Automatic CPU Offloading" '
            "(Advanced/enable_automatic_cpu_offloading)."
        )
    moving = {"Advanced__enable_automatic_cpu_offloading": "true"}
    assert without_effect_of(VllmSettings, **most, **moving) == []


def test_a_form_without_these_options_has_nothing_without_effect() -> None:
    assert without_effect_of(LegacySettings) == []
