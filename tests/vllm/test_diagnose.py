"""What vLLM really printed (shortened; of GPU machines: its sources' words), and what a user is told."""

from __future__ import annotations

import pytest

from apps.vllm.diagnose import diagnose

CORE = "(EngineCore pid=31385) ERROR 11-20 12:20:22 [core.py:1510] "
WORKER = "(Worker pid=388) ERROR 11-20 12:21:17 [multiproc_executor.py:1063] "
GENERAL = (
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
)
CLEANUP = (
    "/usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: "
    "There appear to be 1 leaked shared_memory objects to clean up at shutdown"
)
ARGUMENTS = (
    "(APIServer pid=9) INFO 11-20 12:19:08 [arg_utils.py:300] non-default args: "
    "{'model': '/m', 'trust_remote_code=True': 1, 'note': 'address already in use'}"
)


def refused(message: str, config: str = "ModelConfig") -> str:
    """A pydantic refusal as `vllm serve` prints it."""
    return (
        f"pydantic_core._pydantic_core.ValidationError: 1 validation error for {config}\n"
        f"  Value error, {message} [type=value_error, input_value=ArgsKwargs(()), input_type=ArgsKwargs]\n"
        "    For further information visit https://errors.pydantic.dev/2.14/v/value_error"
    )


CONFIGURATION = {
    "vllm: error: unrecognized arguments: --foo 1": "This vLLM has no argument --foo 1.",
    "vllm serve: error: argument --dtype: invalid choice: 'float17' (choose from 'auto', 'half')": (
        "refuses the value of --dtype: invalid choice: 'float17'"
    ),
    "vllm serve: error: ambiguous option: --device could match --device-ids, --device-memory": (
        "no argument --device, only some that begin so: --device-ids"
    ),
    refused("Model architectures ['FooForCausalLM'] are not supported for now. Supported"): (
        "does not know the model's architecture 'FooForCausalLM'"
    ),
    refused(
        "User-specified max_model_len (4096) is greater than the derived max_model_len "
        "(max_position_embeddings=512.0 or model_max_length=None in model's config.json)."
    ): "above the model's own 512 (max_position_embeddings): set 512 or less",
    refused(
        "The repository /m contains custom code which must be executed to correctly load the model."
    ): "Trust Remote Code",
    refused(
        "The checkpoint you are trying to load has model type `weird` but Transformers does not recognize"
    ): ("does not know the model type weird"),
    refused(
        "Total number of attention heads (2) must be divisible by tensor parallel size (3).",
        "VllmConfig",
    ): "3 does not divide the model's 2 attention heads",
    refused("Invalid repository ID or local directory specified: '/nope'.", "SpeculativeConfig"): (
        "speculative decoding"
    ),
    refused(
        "Target and draft model should have the same vocabulary size. Target model vocab_size=260. "
        "Draft model vocab_size=512. Using models with different tokenizers can",
        "SpeculativeConfig",
    ): "another vocabulary (512 tokens) than the model (260)",
    refused(
        "A speculative model was provided, but `num_speculative_tokens` was not provided",
        "SpeculativeConfig",
    ): 'needs "Num Speculative Tokens"',
    refused("Cannot find the config file for awq", "VllmConfig"): "not quantized by awq",
    refused("Unknown quantization method: foo. Must be one of ['awq']."): 'no "Quantization" foo',
    refused(
        "Quantization method specified in the model config (gptq) does not match the quantization "
        "method specified in the `quantization` argument (awq)."
    ): 'quantized by gptq, and "Quantization" says awq',
    refused("Failed to import Ray: No module named 'ray'.Please install Ray", "ParallelConfig"): (
        "ray, which is not installed"
    ),
    refused("Sleep mode is not supported on current platform."): "cannot be put to sleep",
    refused("max_cpu_loras (2) must be >= max_loras (4).", "LoRAConfig"): "set it to 4 or more",
    refused(
        "max_num_batched_tokens (10) is smaller than max_model_len (512). This effectively limits",
        "SchedulerConfig",
    ): "set it to 512 or more",
    refused("Something that is new", "CacheConfig"): "refuses a setting (CacheConfig)",
    "ValueError: Couldn't instantiate the backend tokenizer from one of: ": "tokenizer is missing",
    f"{WORKER}ValueError: LoRA rank 32 is greater than max_lora_rank 8.\n{GENERAL}": (
        'rank 32, and "Max LoRA Rank" is 8'
    ),
    "vllm.exceptions.LoRAAdapterNotFoundError: Loading lora x failed: No adapter found for /nope": (
        "adapter x cannot be loaded"
    ),
    f"{CORE}ValueError: To serve at least one request with the model's max seq len (16777216), (8.0 GiB "
    "KV cache is needed, which is larger than the available KV cache memory (1.0 GiB). Based on the "
    f"available memory, the estimated maximum model length is 2097024. Try\n{GENERAL}\n{CLEANUP}": (
        'set "Max Context Length" to 2097024 or less'
    ),
    "ValueError: The model's max seq len (32768) is larger than the maximum number of tokens that can "
    "be stored in KV cache (22032). Try increasing `gpu_memory_utilization`": "to 22032 or less",
    f"{CORE}ValueError: No available memory for the cache blocks. Try increasing\n{GENERAL}": (
        "leave no memory for the KV cache"
    ),
    f"{WORKER}ValueError: Available memory on node 0 (22.07/23.54 GiB) on kv cache allocation is less "
    f"than requested memory for kv (1000.0 GiB).\n{GENERAL}": "lower VLLM_CPU_KVCACHE_SPACE",
    f"{CORE}torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 100.00 MiB.\n{GENERAL}": (
        "GPU memory is not enough"
    ),
    "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).": (
        "driver is too old"
    ),
    "RuntimeError: Failed to infer device type": "needs a GPU and sees none",
    "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory": (
        "needs a GPU and sees none"
    ),
    "OSError: You are trying to access a gated repo.\nhuggingface_hub.errors.GatedRepoError: 401": (
        "gated: accept its terms"
    ),
    f"{CORE}safetensors_rust.SafetensorError: Error while deserializing header: "
    f"incomplete metadata\n{GENERAL}": "damaged or incomplete",
    "vllm.exceptions.VLLMValidationError: The supplied chat template string (/nope.jinja) appears "
    "path-like, but doesn't exist! Tried: /nope.jinja": "chat template that it was told to use",
    f"{CORE}RuntimeError: start (0) + length (256) exceeds dimension size (128).\n{GENERAL}": (
        "do not fit the model's config.json"
    ),
    f"{CORE}RuntimeError: Cannot find any model weights with `/m`\n{GENERAL}": "has no weights",
    "ModuleNotFoundError: No module named 'mistral_common'": "lacks the module mistral_common",
}


@pytest.mark.parametrize(("output", "words"), CONFIGURATION.items(), ids=range(len(CONFIGURATION)))
def test_configuration_errors_are_named_and_not_repeated(output: str, words: str) -> None:
    found = diagnose(1, [ARGUMENTS, *output.splitlines()])
    assert found.is_configuration, found
    assert words in found.summary
    assert "input_value" not in found.summary


@pytest.mark.parametrize(
    ("exit_code", "output", "words"),
    [
        (137, "", "Something outside killed the engine"),
        (135, "", "/dev/shm is too small"),
        (139, "ValueError: earlier", "crashed (SIGSEGV)"),
        (1, "OSError: [Errno 98] Address already in use", "is in use"),
        (
            1,
            "ValueError: Free memory on device cuda:0 (7.3/15.4 GiB) on startup is less than desired "
            "GPU memory utilization (0.8, 12.39 GiB).",
            "Less GPU memory is free",
        ),
        (1, f"KeyError: 'model.layers'\n{GENERAL}\n{CLEANUP}", "It says: KeyError: 'model.layers'"),
        (
            0,
            "(APIServer pid=7) ERROR 11-20 12:35:14 [async_llm.py:906] vllm.v1.engine.exceptions."
            "EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the cause.",
            "One of the engine's processes died",
        ),
        (1, GENERAL, "It says: RuntimeError: Engine core initialization failed"),
        (1, "", "It said nothing."),
    ],
)
def test_crashes_are_repeated(exit_code: int, output: str, words: str) -> None:
    found = diagnose(exit_code, [ARGUMENTS, *output.splitlines()])
    assert not found.is_configuration, found
    assert words in found.summary


def test_what_served_once_is_started_again() -> None:
    served = "(APIServer pid=7) INFO:     Application startup complete."
    failed = f"{CORE}torch.OutOfMemoryError: CUDA out of memory."
    assert diagnose(1, [failed]).is_configuration
    assert diagnose(1, [failed]).lacks_memory
    assert not diagnose(1, [served, failed]).is_configuration


def test_illegal_instruction_is_a_wrong_build() -> None:
    assert diagnose(132, []).is_configuration
