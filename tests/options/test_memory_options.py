"""Options of Universal Memory: what they mean, what contradicts what, and what a machine allows."""

from __future__ import annotations

from typing import Any

import pytest

from apps.legacy_model.options import LegacySettings
from apps.llamacpp.options import LlamaCppSettings
from apps.vllm.options import VllmSettings
from common.options.loading import load_settings
from common.options.memory import MemorySettings, ModelMemory, cuda_budget_problem
from common.runtime.app import AnySettings
from tests.declarations import options_by_path, problems_of

MODEL = {"Model/model": "org/repo/a.gguf"}
BOTH = [LlamaCppSettings, VllmSettings]
SECTION = {LlamaCppSettings: "General", VllmSettings: "Advanced"}


def swapping(settings: type[AnySettings]) -> dict[str, str]:
    return {f"{SECTION[settings]}/enable_disk_swapping": "true"}


@pytest.mark.parametrize("settings", BOTH)
def test_a_model_that_says_nothing_has_the_defaults(settings: type[AnySettings]) -> None:
    (model,) = load_settings(settings, MODEL).settings.models
    assert model.memory_policy == ModelMemory(
        priority=0,
        pinned=False,
        preload=None,
        idle_offload_s=None,
        max_wait_s=30.0,
        saves_prompt_cache=False,
    )


@pytest.mark.parametrize("settings", BOTH)
def test_what_a_model_says_is_read_from_text_and_from_a_list(settings: type[AnySettings]) -> None:
    said: dict[str, Any] = {
        "priority": "-7",
        "preload": "false",
        "idle_offload_minutes": "1.5",
        "max_wait_seconds": "2.5",
    }
    wanted = ModelMemory(priority=-7, preload=False, idle_offload_s=90.0, max_wait_s=2.5)
    flat = MODEL | swapping(settings) | {f"Model/{name}": text for name, text in said.items()}
    assert load_settings(settings, flat).settings.models[0].memory_policy == wanted
    typed = {"priority": -7, "preload": False, "idle_offload_minutes": 1.5, "max_wait_seconds": 2.5}
    others = [{"model": "org/repo/b.gguf", "pinned": True, "preload": True}]
    listed = {"Models/models": [{"model": "org/repo/a.gguf", **typed}, *others]} | swapping(
        settings
    )
    first, second = load_settings(settings, listed).settings.models
    assert first.memory_policy == wanted
    assert second.memory_policy == ModelMemory(pinned=True, preload=True)


def test_prompts_are_saved_by_llama_cpp_alone() -> None:
    given = MODEL | {"Model/save_prompt_cache": "true"}
    (model,) = load_settings(LlamaCppSettings, given).settings.models
    assert model.memory_policy.saves_prompt_cache
    (problem,) = problems_of(VllmSettings, given)
    assert problem.path == "Model/save_prompt_cache"


@pytest.mark.parametrize("settings", BOTH)
def test_memory_options_apply_beside_cli(settings: type[AnySettings]) -> None:
    given = MODEL | {"Model/cli": "--seed 7", "Model/priority": "4"}
    (model,) = load_settings(settings, given).settings.models
    assert model.memory_policy.priority == 4
    given |= {"Model/pinned": "true", "Model/idle_offload_minutes": "3"}
    assert {p.path for p in problems_of(settings, given)} == {"Model/idle_offload_minutes"}


def test_the_form_for_one_model_has_none_of_them() -> None:
    names = {option.name for option in LegacySettings.options()}
    assert not names & {"priority", "pinned", "preload", "max_wait_seconds", "max_host_memory_gib"}
    (model,) = load_settings(LegacySettings, {"Model/model": "org/repo"}).settings.models
    assert model.memory_policy == ModelMemory()


@pytest.mark.parametrize("settings", BOTH)
def test_the_memory_of_the_instance_is_read_whatever_the_groups(
    settings: type[AnySettings],
) -> None:
    given = {
        f"{SECTION[settings]}/enable_automatic_cpu_offloading": "true",
        "General/max_cuda_memory_gib": "96",
        "General/cuda_memory_manager_minimum_threshold": "66000",
        "General/max_host_memory_gib": "200.5",
    }
    memory = load_settings(settings, MODEL | given).settings.memory
    assert memory == MemorySettings(
        cpu_offloading=True, max_cuda_gib=96.0, manager_threshold_kb=66000, max_host_gib=200.5
    )
    assert memory.moves_models
    assert load_settings(settings, MODEL | swapping(settings)).settings.memory.moves_models
    assert not load_settings(settings, MODEL).settings.memory.moves_models


@pytest.mark.parametrize("settings", BOTH)
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("Model/priority", "101", "at most 100"),
        ("Model/priority", "-101", "at least -100"),
        ("Model/priority", "1.5", "a whole number"),
        ("Model/pinned", "perhaps", "true or false"),
        ("Model/idle_offload_minutes", "0", "more than 0"),
        ("Model/max_wait_seconds", "0", "more than 0"),
        ("Model/max_wait_seconds", "inf", "a number"),
        ("General/max_cuda_memory_gib", "0", "more than 0"),
        ("General/max_cuda_memory_gib", "-8", "more than 0"),
        ("General/max_host_memory_gib", "0", "more than 0"),
        ("General/cuda_memory_manager_minimum_threshold", "-2", "at least -1"),
    ],
)
def test_values_out_of_bounds_are_refused(
    settings: type[AnySettings], path: str, value: str, message: str
) -> None:
    (problem,) = problems_of(settings, MODEL | {path: value})
    assert (problem.path, problem.value) == (path, value)
    assert problem.title == options_by_path(settings)[path].title
    assert problem.message == f"must be {message}"


@pytest.mark.parametrize("settings", BOTH)
def test_everything_that_contradicts_is_told_at_once(settings: type[AnySettings]) -> None:
    section = SECTION[settings]
    given = {
        f"{section}/enable_disk_swapping": "true",
        f"{section}/enable_automatic_cpu_offloading": "true",
        "General/max_cuda_memory_gib": "-1",
        "Models/models": [
            {"model": "org/repo/a.gguf"},
            {"model": "org/repo/b.gguf", "pinned": True, "idle_offload_minutes": 5},
        ],
    }
    found = {problem.path: problem for problem in problems_of(settings, given)}
    assert set(found) == {
        f"{section}/enable_disk_swapping",
        "General/max_cuda_memory_gib",
        "Models/models[1].idle_offload_minutes",
    }
    idle = found["Models/models[1].idle_offload_minutes"]
    assert (idle.title, idle.value) == ("Idle Offload (Minutes)", 5)
    assert '"Pinned" (Model/pinned)' in idle.message


@pytest.mark.parametrize("settings", BOTH)
def test_an_idle_model_can_be_put_aside_only_where_models_may_be(
    settings: type[AnySettings],
) -> None:
    section = SECTION[settings]
    idle = MODEL | {"Model/idle_offload_minutes": "10"}
    (problem,) = problems_of(settings, idle)
    assert (problem.path, problem.value) == ("Model/idle_offload_minutes", 10.0)
    for title, name in (
        ("Enable Automatic CPU Offloading", "enable_automatic_cpu_offloading"),
        ("Enable Disk Swapping", "enable_disk_swapping"),
    ):
        assert f'"{title}" ({section}/{name})' in problem.message
        on = idle | {f"{section}/{name}": "true"}
        assert load_settings(settings, on).settings.models[0].memory_policy.idle_offload_s == 600.0


def test_a_pinned_model_may_be_loaded_late_and_an_unpinned_one_be_put_aside_when_idle() -> None:
    late = MODEL | {"Model/pinned": "true", "Model/preload": "false"}
    policy = load_settings(LlamaCppSettings, late).settings.models[0].memory_policy
    assert policy == ModelMemory(pinned=True, preload=False)
    loose = MODEL | {"Model/pinned": "false", "Model/idle_offload_minutes": "1"}
    loaded = load_settings(LlamaCppSettings, loose | swapping(LlamaCppSettings)).settings
    assert loaded.models[0].memory_policy.idle_offload_s == 60.0


@pytest.mark.parametrize("machine", ["x86_64", "AMD64", "amd64"])
def test_more_cuda_memory_than_there_is_can_be_had_on_x86_64(machine: str) -> None:
    assert cuda_budget_problem(4000.0, machine, 80.0) is None


def test_more_cuda_memory_than_there_is_is_refused_elsewhere() -> None:
    assert cuda_budget_problem(80.0, "aarch64", 80.0) is None
    problem = cuda_budget_problem(96.0, "aarch64", 79.999)
    assert problem is not None
    assert (problem.title, problem.path, problem.value) == (
        "Max CUDA Memory (GiB)",
        "General/max_cuda_memory_gib",
        96.0,
    )
    assert problem.message == (
        "is more than the GPUs of this machine have (79.99 GiB), which is possible on x86-64 only; "
        "this machine is aarch64: set at most 79.99, or leave it empty"
    )
    assert problem.path in options_by_path(LlamaCppSettings)
    assert problem.path in options_by_path(VllmSettings)


def test_where_there_is_no_cuda_memory_nothing_is_suggested_but_to_leave_it_empty() -> None:
    problem = cuda_budget_problem(8.0, "arm64", 0.0)
    assert problem is not None
    assert problem.message.endswith("this machine is arm64: leave it empty")
