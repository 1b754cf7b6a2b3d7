from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apps.vllm.catalogue import SHIPPED, load_catalogue
from apps.vllm.facts import EngineFacts
from apps.vllm.inspection import check_adapters, check_model_config, inspect_model
from apps.vllm.model_config import context_limit
from apps.vllm.options import VllmSettings
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
