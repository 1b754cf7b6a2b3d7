from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apps.vllm.catalogue import SHIPPED, load_catalogue
from apps.vllm.command import write_vllm_command
from apps.vllm.facts import EngineFacts
from apps.vllm.inspected_model import InspectedModel
from apps.vllm.inspection import check_adapters, check_model_config, inspect_model
from apps.vllm.memory_fit import Fitted, ShareLimits, fit_into_gpus
from apps.vllm.model_config import context_limit
from apps.vllm.options import VllmSettings
from apps.vllm.passed_flags import PassedFlags
from common.engines.contract import EngineAddress
from common.errors import CapacityError, ConfigurationError, ModelFormatError
from common.models.fetch import fetch
from common.models.memory import AvailableMemory, GpuMemory, without
from common.models.repository import weights_bytes
from common.options.loading import load_settings
from common.runtime.app import Inspection, ModelPlan
from tests.vllm.tiny_models import VOCABULARY, make_adapter, make_model, split_weights

GIB = 2**30
HOST = AvailableMemory(16 * GIB)
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
CPU = EngineFacts(
    ("vllm",), load_catalogue(SHIPPED / "0.32.0.json"), build="cpu", gpus=0, kv_cache_gib=1
)
GPU = EngineFacts(("vllm",), load_catalogue(SHIPPED / "0.32.0.json"), gpus=2)


def load(**parameters: Any) -> VllmSettings:
    given = {"model": "org/repo", **parameters}
    paths = {name if "/" in name else f"Model/{name}": value for name, value in given.items()}
    return load_settings(VllmSettings, paths).settings


def check(config: dict[str, Any], **parameters: Any) -> list[str]:
    settings = load(**parameters)
    found = check_model_config("Model", settings.models[0], settings, config, {})
    return [f"{problem.path}: {problem.message}" for problem in found]


def gpus(*free_gib: float, total_gib: float = 80) -> AvailableMemory:
    return AvailableMemory(
        64 * GIB,
        tuple(
            GpuMemory(f"H{number}", f"GPU-{number}", int(free * GIB), int(total_gib * GIB))
            for number, free in enumerate(free_gib)
        ),
    )


def inspect(
    folder: Path,
    memory: AvailableMemory = HOST,
    facts: EngineFacts = CPU,
    companions: dict[str, Path] | None = None,
    **parameters: Any,
) -> Inspection:
    settings = load(**parameters)
    files = fetch(str(folder), want="repository")
    address = EngineAddress(socket_path=folder / "s")
    plan = ModelPlan("tiny", settings.models[0], files.first, files.all, address, 2)
    plan = replace(plan, companions=companions or {})
    facts = replace(facts, gpus=len(memory.gpus))
    return inspect_model(plan, files, settings, memory, facts)


@pytest.mark.parametrize(
    ("config", "tokens", "key"),
    [
        ({"max_position_embeddings": 4096}, 4096, "max_position_embeddings"),
        ({"n_positions": 1024}, 1024, "n_positions"),
        ({"seq_length": 8192, "max_position_embeddings": 4096}, 4096, "max_position_embeddings"),
        ({"text_config": {"max_position_embeddings": 128}}, 128, "max_position_embeddings"),
        (
            {"max_position_embeddings": 10, "rope_scaling": {"type": "linear", "factor": 4.0}},
            40,
            "max_position_embeddings",
        ),
        (
            {"max_position_embeddings": 10, "rope_scaling": {"rope_type": "llama3", "factor": 8}},
            10,
            "max_position_embeddings",
        ),
        (
            {
                "max_position_embeddings": 20,
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 4,
                    "original_max_position_embeddings": 10,
                },
            },
            80,
            "max_position_embeddings",
        ),
        (
            {"max_position_embeddings": 9, "rope_parameters": {"full": {"factor": 2, "type": "x"}}},
            18,
            "max_position_embeddings",
        ),
        ({"max_position_embeddings": 10, "model_max_length": 90}, 90, "model_max_length"),
    ],
)
def test_context_limit_is_the_largest_that_some_version_takes(
    config: dict[str, Any], tokens: int, key: str
) -> None:
    found = context_limit(config)
    assert found is not None
    assert (found.tokens, found.key) == (tokens, key)


def test_context_above_the_models_own_is_refused() -> None:
    config = {**LLAMA, "max_position_embeddings": 4096}
    (problem,) = check(config, max_context_length="4097")
    assert problem.startswith("max_context_length: is above the model's own 4,096")
    assert "Set 4096 or less" in problem
    assert check(config, max_context_length="4096") == []


def test_sliding_window_limits_the_context_once_it_is_disabled() -> None:
    config = {**LLAMA, "max_position_embeddings": 4096, "sliding_window": 1024}
    assert check(config, max_context_length="2048") == []
    found = check(config, max_context_length="2048", disable_sliding_window="true")
    assert "1,024 (sliding_window" in found[0]
    unused = {**config, "use_sliding_window": False}
    assert check(unused, max_context_length="2048", disable_sliding_window="true") == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_scaling": '{"rope_type": "dynamic", "factor": 2.0}'},
        {"Advanced/hf_overrides": '{"max_position_embeddings": 100000}'},
        {"model_overrides": '{"max_model_len": 100}'},
        {"model_overrides": '{"hf_overrides": {"a": 1}}'},
        {"cli": "--max-model-len 9000"},
    ],
)
def test_what_other_settings_decide_is_left_to_the_engine(parameters: dict[str, str]) -> None:
    config = {**LLAMA, "max_position_embeddings": 4096}
    assert check(config, max_context_length="9000", **parameters) == []


def test_long_contexts_may_be_allowed_and_other_models_tell_elsewhere() -> None:
    config = {**LLAMA, "max_position_embeddings": 4096}
    settings = load(max_context_length="9000")
    environ = {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}
    assert check_model_config("Model", settings.models[0], settings, config, environ) == []
    assert check({**config, "architectures": ["BertModel"]}, max_context_length="9000") == []
    assert check(LLAMA, max_context_length="9000") == []


def test_gpus_must_divide_the_heads() -> None:
    config = {**LLAMA, "num_attention_heads": 12}
    (problem,) = check(config, gpus_tensor_parallel_size="8")
    assert problem.startswith("gpus_tensor_parallel_size: does not divide the model's 12")
    assert "one of 1, 2, 3, 4, 6, 12" in problem
    assert check(config, gpus_tensor_parallel_size="4") == []


def test_configuration_without_architecture() -> None:
    (problem,) = check({"hidden_size": 4})
    assert "names no architecture" in problem
    assert check({"model_type": "llama"}) == []


def test_both_forms_are_read_by_their_flags() -> None:
    from apps.legacy_model.options import LegacySettings

    parameters = {"Model/model": "org/repo", "Model/max_model_length": "9000"}
    settings: Any = load_settings(LegacySettings, parameters).settings
    config = {**LLAMA, "max_position_embeddings": 4096}
    (problem,) = check_model_config("Model", settings.models[0], settings, config, {})
    assert problem.path == "max_model_length"


def test_a_model_is_described(tmp_path: Path) -> None:
    found = inspect(make_model(tmp_path / "m"), max_context_length="256")
    assert found.lines[0].startswith("tiny: LlamaForCausalLM, 115.5 K parameters in BF16, 0.2 MiB")
    assert found.lines[1].startswith("context 256 tokens; expected memory")
    assert found.need.host_bytes > GIB
    assert found.need.gpu_bytes == 0


def test_weights_must_all_be_there_unless_they_are_made_up(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    split_weights(model)[0].unlink()
    with pytest.raises(ModelFormatError, match="weights of tiny are incomplete"):
        inspect(model)
    found = inspect(model, **{"General/load_format": "dummy"})
    assert "random weights" in found.lines[0]
    inspect(model, cli="--load-format dummy")


def test_companions_are_checked(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    draft = make_model(tmp_path / "draft")
    (draft / "model.safetensors").unlink()
    with pytest.raises(ModelFormatError, match="the draft model has no weights"):
        inspect(model, companions={"draft_model": draft})
    inspect(model, companions={"tokenizer": draft})


def test_rank_of_an_adapter_is_bounded(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a", rank=24)
    lora = {"LoRA/enable_lora": "true", "LoRA/lora_modules": f"sql={adapter}"}

    def check_rank(**parameters: Any) -> None:
        settings = load(**lora, **parameters)
        address = EngineAddress(socket_path=tmp_path / "s")
        # The model is yet to be fetched.
        plan = ModelPlan("tiny", settings.models[0], Path("org/repo"), (), address, 2)
        check_adapters(replace(plan, companions={"lora:sql": adapter}), settings, CPU)

    with pytest.raises(ConfigurationError) as caught:
        check_rank()
    assert "\"Max LoRA Rank\" (LoRA/max_lora_rank): the LoRA adapter 'sql' has rank 24" in str(
        caught.value
    )
    assert "16 is the limit when this is empty. Set it to 32" in str(caught.value)
    check_rank(**{"LoRA/max_lora_rank": "32"})
    check_rank(model_overrides='{"max_lora_rank": 32}')


def test_host_without_memory_is_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    with pytest.raises(CapacityError, match=r"KV cache 1\.00 GiB .* 2\.40 GiB can be had"):
        inspect(model, AvailableMemory(int(2.4 * GIB)))


def test_context_must_fit_into_the_kv_cache(tmp_path: Path) -> None:
    # Of 2 layers with 2 heads of 32 numbers, a token takes 512 bytes: 1 GiB has room for 2,097,152.
    model = make_model(tmp_path / "m", max_position_embeddings=4_000_000)
    with pytest.raises(CapacityError, match='Set "Max Context Length" to 2,097,152 or less'):
        inspect(model)
    inspect(model, max_context_length="2097152")
    inspect(model, cli="--max-model-len auto")
    with pytest.raises(CapacityError, match="3,000,000 tokens"):
        inspect(model, cli="--max-model-len 3000000")


def test_gpus_must_have_their_share_free(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    found = inspect(model, gpus(79, 79), GPU)
    assert found.need.gpu_bytes == 2 * int(0.92 * 80 * GIB)
    with pytest.raises(CapacityError, match=r'"GPU Memory Utilization" to 0\.75 or less'):
        inspect(model, gpus(79, 60), GPU)
    inspect(model, gpus(79, 60), GPU, gpus_tensor_parallel_size="1")
    inspect(model, gpus(79, 60), GPU, model_overrides='{"gpu_memory_utilization": 0.7}')
    with pytest.raises(CapacityError, match=r"takes 0\.8 of each GPU"):
        inspect(model, gpus(60), GPU, cli="--gpu-memory-utilization 0.8")
    inspect(model, gpus(79, 60), GPU, gpu_memory_utilization="0.7")


def test_two_models_share_each_gpu(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    memory = gpus(79, 79)
    half = inspect(model, memory, GPU, gpu_memory_utilization="0.45")
    memory = without(memory, half.need)
    assert [gpu.free_bytes for gpu in memory.gpus] == [43 * GIB, 43 * GIB]
    inspect(model, memory, GPU, gpu_memory_utilization="0.45")
    with pytest.raises(CapacityError, match="GPU 0"):
        inspect(model, memory, GPU)


def test_weights_must_fit_into_the_gpus(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    size = weights_bytes(model) / GIB
    small = gpus(size, size, total_gib=size)
    with pytest.raises(CapacityError, match=r'1 GPU .* give .*"CPU Offload GiB"'):
        inspect(model, small, GPU, gpus_tensor_parallel_size="1")
    inspect(model, small, GPU, max_context_length="16")
    single = {"gpus_tensor_parallel_size": "1", "max_context_length": "16"}
    inspect(model, small, GPU, **single, cpu_offload_gib="1")
    inspect(model, small, GPU, **single, quantization="fp8")
    inspect(model, small, GPU, cli="--quantization fp8 --max-model-len 16")
    with pytest.raises(CapacityError, match="does not fit: its weights are"):
        inspect(model, small, GPU, dtype="float32")


def test_context_that_leaves_no_room_on_the_gpus(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m", max_position_embeddings=10_000_000)
    with pytest.raises(CapacityError, match=r'Set "Max Context Length" to [\d,]+ or less'):
        inspect(model, gpus(1, total_gib=1), GPU)


def with_surplus(memory: AvailableMemory, *gib: float) -> AvailableMemory:
    return replace(
        memory,
        gpus=tuple(
            replace(gpu, surplus_bytes=int(size * GIB))
            for gpu, size in zip(memory.gpus, gib, strict=True)
        ),
    )


@pytest.mark.parametrize(
    ("parameters", "used"),
    [
        ({}, 4),  # all that are there
        ({"gpus_tensor_parallel_size": "1"}, 1),
        ({"gpus_tensor_parallel_size": "2"}, 2),
        ({"pipeline_parallel_size": "2"}, 4),
        ({"gpus_tensor_parallel_size": "1", "pipeline_parallel_size": "2"}, 2),
        ({"cli": "--data-parallel-size 3"}, 3),
        ({"cli": "-tp 2"}, 2),
    ],
)
def test_workers_take_the_gpus_in_their_order(
    tmp_path: Path, parameters: dict[str, str], used: int
) -> None:
    model = make_model(tmp_path / "m", num_attention_heads=4, num_key_value_heads=4)
    found = inspect(model, gpus(79, 79, 79, 79), GPU, **parameters)
    each = int(0.92 * 80 * GIB)
    assert found.need.by_gpu == (*[each] * used, *[0] * (4 - used))
    assert found.need.gpu_bytes == used * each


def test_a_budget_bounds_the_share_that_nobody_said(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    budget = {"General/max_cuda_memory_gib": "40", "gpus_tensor_parallel_size": "1"}
    memory = gpus(20, 79)  # of each card the budget leaves a quarter
    found = inspect(model, memory, GPU, **budget)
    assert found.fitted == {"--gpu-memory-utilization": "0.23"}
    assert '"GPU Memory Utilization" is 0.23, since "Max CUDA Memory (GiB)" is 40' in found.lines
    assert found.need.by_gpu == (int(0.23 * 80 * GIB), 0)
    with pytest.raises(CapacityError, match=r"takes 0\.5 of each GPU"):
        inspect(model, memory, GPU, **budget, gpu_memory_utilization="0.5")
    beyond = {**budget, "General/max_cuda_memory_gib": "400"}
    assert inspect(model, gpus(79, 79), GPU, **beyond).fitted == {}


# One request with the whole context takes 2 * 32 layers * 8 heads * 128 * 2 bytes * 8192 = 1 GiB.
EIGHT_B = {
    **LLAMA,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
}


def fit(
    memory: AvailableMemory,
    weights_gib: float = 14.95,
    *argv: str,
    facts: Any = GPU,
    limits: ShareLimits | None = None,
) -> Fitted:
    flags = PassedFlags(argv, facts.catalogue)
    model = InspectedModel("large", flags, {}, EIGHT_B, int(weights_gib * GIB), 8192)
    return fit_into_gpus(model, memory, facts, limits)


def test_a_share_leaves_room_for_models_that_sleep() -> None:
    fitted = fit(gpus(23.5, total_gib=24), limits=ShareLimits(sleepers=3))
    assert fitted.flags == {"--gpu-memory-utilization": "0.854"}  # (23.5 - 3) of 24
    assert "3 other models may sleep there" in fitted.lines[0]
    assert fitted.need.asleep_by_gpu == (GIB,)
    assert fit(gpus(79), limits=ShareLimits(sleepers=3)).flags == {}
    # Of several GPUs the tightest counts, and each worker keeps the buffers between them.
    two = fit(gpus(23.5, 22, total_gib=24), 14.95, "-tp", "2", limits=ShareLimits(sleepers=1))
    assert two.flags == {"--gpu-memory-utilization": "0.833"}
    assert two.need.asleep_by_gpu == (2 * GIB, 2 * GIB)
    many = fit(gpus(80), 1, limits=ShareLimits(sleepers=70))
    assert many.flags == {"--gpu-memory-utilization": "0.46"}


@pytest.mark.parametrize(
    ("general", "fitted"),
    [
        ({}, {}),
        ({"Advanced/enable_disk_swapping": "true"}, {}),
        (
            {"Advanced/enable_automatic_cpu_offloading": "true"},
            {"--gpu-memory-utilization": "0.916"},
        ),
        (
            {"Advanced/enable_automatic_cpu_offloading": "true", "gpu_memory_utilization": "0.5"},
            {},
        ),
    ],
)
def test_models_that_sleep_are_the_others_of_the_instance(
    tmp_path: Path, general: dict[str, str], fitted: dict[str, str]
) -> None:
    model = make_model(tmp_path / "m")
    settings = load(**general)
    settings = settings.model_copy(update={"models": settings.models * 3})
    files = fetch(str(model), want="repository")
    address = EngineAddress(socket_path=tmp_path / "s")
    plan = ModelPlan("tiny", settings.models[0], files.first, files.all, address, 2)
    memory = gpus(24, total_gib=24)
    found = inspect_model(plan, files, settings, memory, replace(GPU, gpus=1))
    assert found.fitted == fitted
    old = replace(GPU, gpus=1, catalogue=load_catalogue(SHIPPED / "0.6.6.json"))
    plan = replace(plan, address=EngineAddress(port=1))
    assert inspect_model(plan, files, settings, memory, old).fitted == {}  # it cannot sleep


def test_a_model_larger_than_the_card_is_partly_in_host_memory() -> None:
    card = gpus(10, total_gib=10)
    with pytest.raises(CapacityError, match="does not fit"):
        fit(card)
    # The share is 9.2 GiB: 6.75 are lacking, and 1 for activations.
    fitted = fit(with_surplus(card, 8))
    assert fitted.flags == {"--cpu-offload-gb": "7.8"}
    assert fitted.need.by_gpu == (int(9.2 * GIB),)
    assert fitted.need.host_bytes == 3 * GIB // 2 + 78 * GIB // 10
    (line,) = fitted.lines
    assert "7.80 GiB of its weights are in host memory" in line
    assert "Max CUDA Memory" in line
    with pytest.raises(CapacityError, match=r'"Max CUDA Memory \(GiB\)" allows 7\.70 GiB'):
        fit(with_surplus(card, 7.7))
    short = replace(with_surplus(card, 8), host_bytes=9 * GIB)
    with pytest.raises(CapacityError, match=r"7\.80 GiB of it would be in host memory"):
        fit(short)
    assert fit(with_surplus(card, 8), 8).flags == {}


def test_what_stays_in_host_memory_is_on_top_of_the_forms() -> None:
    card = with_surplus(gpus(10, total_gib=10), 8)
    fitted = fit(card, 14.95, "--cpu-offload-gb", "2.5")
    assert fitted.flags == {"--cpu-offload-gb": "7.8"}
    assert "5.30 GiB of its weights" in fitted.lines[0]
    assert "--cpu-offload-gb 7.8 with what the form says" in fitted.lines[0]
    assert fit(card, 14.95, "--cpu-offload-gb", "9").flags == {}


def test_each_of_several_gpus_keeps_its_part_in_host_memory() -> None:
    two = gpus(10, 10, total_gib=10)
    fitted = fit(with_surplus(two, 4, 4), 21.9, "--tensor-parallel-size", "2")
    assert fitted.flags == {"--cpu-offload-gb": "3.3"}
    assert "3.30 GiB of its weights on each GPU" in fitted.lines[0]
    assert fitted.need.host_bytes == 3 * GIB // 2 + 2 * (33 * GIB // 10)
    with pytest.raises(CapacityError, match="does not fit"):
        fit(with_surplus(two, 4, 3), 21.9, "--tensor-parallel-size", "2")


def test_host_memory_stands_for_weights_and_not_for_the_cache() -> None:
    # The cache of one request alone is larger than the share.
    card = with_surplus(gpus(1, total_gib=1), 100)
    with pytest.raises(CapacityError, match="of KV cache for one request"):
        fit(card, 0.5)


def test_a_vllm_that_cannot_keep_weights_in_host_memory_says_so() -> None:
    flags = {f.name: f for f in GPU.catalogue if f.name != "--cpu-offload-gb"}
    without_flag = replace(GPU, catalogue=replace(GPU.catalogue, flags=flags))
    with pytest.raises(CapacityError, match="it has no --cpu-offload-gb"):
        fit(with_surplus(gpus(10, total_gib=10), 8), facts=without_flag)


def test_what_makes_a_model_fit_wins_in_the_command(tmp_path: Path) -> None:
    fitted = {"--cpu-offload-gb": "2.5", "--gpu-memory-utilization": "0.23"}
    for parameters in (
        {"cpu_offload_gib": "1", "gpu_memory_utilization": "0.8"},
        {"cli": "--cpu-offload-gb=1 --gpu_memory_utilization 0.8 --seed 7"},
        {"model_overrides": '{"cpu_offload_gb": 1, "gpu_memory_utilization": 0.8}'},
    ):
        settings = load(**parameters)
        address = EngineAddress(socket_path=tmp_path / "s")
        plan = ModelPlan("tiny", settings.models[0], tmp_path, (), address, 2, fitted=fitted)
        argv = write_vllm_command(plan, settings, GPU).argv
        assert argv.count("--cpu-offload-gb") == argv.count("--gpu-memory-utilization") == 1
        assert argv[argv.index("--cpu-offload-gb") + 1] == "2.5"
        assert argv[argv.index("--gpu-memory-utilization") + 1] == "0.23"
        assert not {"1", "0.8", "--cpu-offload-gb=1", "--gpu_memory_utilization"} & set(argv)
        assert ("--seed" in argv) is ("cli" in parameters)


def test_visible_gpus_must_divide_the_heads(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    with pytest.raises(ConfigurationError, match=r"Size\)\"\), 3, does not divide the"):
        inspect(model, gpus(79, 79, 79), GPU)


def test_configuration_file_of_mistral_is_no_obstacle(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m")
    (model / "config.json").rename(model / "params.json")
    assert inspect(model).lines[0].startswith("tiny: a model")
    assert VOCABULARY == json.loads((model / "params.json").read_text())["vocab_size"]


def test_adapter_in_place_of_a_model_is_named(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "a", base="org/base")
    with pytest.raises(ModelFormatError, match="is a LoRA adapter of org/base, no model"):
        inspect(adapter)
