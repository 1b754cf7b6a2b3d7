"""Every option of the legacy Model Deployment app: an older form over the same engine.

Declared with the flags of the engine, which are what the two forms have in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import SecretStr

from apps.vllm.lora import LoraModule, assign_adapters
from apps.vllm.options import adapter_problems, lora_problems
from apps.vllm.options_lora import CommonLoraOptions
from apps.vllm.options_model import KV_CACHE_SPELLINGS, Dtype, revision_problems
from apps.vllm.options_shared import LOAD_FORMAT_HELP, LOAD_FORMATS, EngineVersionOptions
from common.errors import Problem
from common.options.declaration import OptionGroup, option
from common.options.settings import AppSettings, ModelOptions
from common.options.shared import IdleLimit
from common.runtime.endpoint_names import (
    endpoint_problems,
    preliminary_name,
    reference_problems,
)


class LegacyInstance(OptionGroup):
    """What the form asks first; these are attributes of the ClearML task, not hyperparameters."""

    project_name: str | None = option(
        "Project Name", help="The ClearML project that the instance's task is created in."
    )
    task_name: str | None = option("Task Name", help="Name of the instance's ClearML task.")
    queue: str | None = option(
        "Queue",
        required=True,
        help="The ClearML queue to launch through; a clearml-agent must serve it.",
    )


class LegacyModel(ModelOptions):
    """The one model."""

    model: str | None = option(
        "Model",
        required=True,
        help="A ClearML model ID, a Hugging Face repository (provider/repo) or a local path.",
        placeholder="openai-community/gpt2",
    )
    trust_remote_code: bool | None = option(
        "Trust Remote Code",
        flag="--trust-remote-code",
        help="Run the Python code that comes with the model's repository.",
    )
    revision: str | None = option(
        "Revision",
        flag="--revision",
        help="Branch, tag or commit of the model's repository on Hugging Face, such as refs/pr/2.",
    )
    code_revision: str | None = option(
        "Code Revision",
        flag="--code-revision",
        help="Branch, tag or commit of the model's own code on Hugging Face. Empty: the default one.",
    )
    max_model_length: int | None = option(
        "Max Model Length",
        flag="--max-model-len",
        ge=1,
        help="Tokens that one request can use, prompt and answer together. Empty: the model's own limit.",
    )
    tokenizer: str | None = option(
        "Tokenizer",
        flag="--tokenizer",
        help="A ClearML model ID, a Hugging Face repository or a local path. Empty: the model's own.",
    )
    tokenizer_revision: str | None = option(
        "Tokenizer Revision",
        flag="--tokenizer-revision",
        help="Branch, tag or commit of the tokenizer's repository on Hugging Face.",
    )
    tokenizer_mode: str | None = option(
        "Tokenizer Mode",
        flag="--tokenizer-mode",
        choices=("auto", "slow"),
        help="auto uses the fast tokenizer where there is one, slow never does.",
    )

    def problems(self) -> list[Problem]:
        """References that are none."""
        found = super().problems() + revision_problems(self)
        found += reference_problems("model", self.model)
        return found + reference_problems("tokenizer", self.tokenizer)

    @property
    def reference(self) -> str:
        """The model reference as the user gave it."""
        return self.model or ""

    @property
    def endpoint_name(self) -> str | None:
        """This form has no field for it: the reference names the endpoint."""
        return None

    @property
    def model_revision(self) -> str | None:
        """Branch, tag or commit of the model on Hugging Face."""
        return self.revision


class LegacyLora(CommonLoraOptions):
    """The group "LoRA Configuration"."""

    form_order: ClassVar[tuple[str, ...]] = (
        "enable_lora",
        "lora_modules",
        "max_loras",
        "max_lora_rank",
        "lora_extra_vocabulary_size",
        "lora_dtype",
        "max_cpu_loras",
    )


class LegacyGeneral(EngineVersionOptions):
    """The group "General"."""

    section: ClassVar[str] = "General"
    form_order: ClassVar[tuple[str, ...]] = (
        "disable_log_stats",
        "enforce_eager",
        "disable_custom_all_reduce",
        "disable_logging_requests",
        "fixed_api_access_key",
        "hugging_face_token",
        "load_format",
        "dtype",
        "kv_cache_type",
        "pipeline_parallel_size",
        "tensor_parallel_size",
        "max_parallel_loading_workers",
        "token_block_size",
        "random_seed",
        "swap_space",
        "gpu_memory_utilization",
        "max_number_of_batched_tokens",
        "max_number_of_sequences",
        "max_number_of_paddings",
        "quantization",
        "max_context_length_to_capture",
        "max_log_length",
        "vllm_version",
    )

    disable_log_stats: bool | None = option(
        "Disable Log Stats",
        flag="--disable-log-stats",
        help="Leave the statistics out of the engine's log.",
    )
    enforce_eager: bool | None = option(
        "Enforce Eager",
        flag="--enforce-eager",
        help="Run PyTorch eagerly, without CUDA graphs: slower, but starts sooner and needs less memory.",
    )
    disable_custom_all_reduce: bool | None = option(
        "Disable Custom All Reduce",
        flag="--disable-custom-all-reduce",
        help="Use NCCL instead of vLLM's own all-reduce between GPUs.",
    )
    disable_logging_requests: bool | None = option(
        "Disable Logging Requests",
        flag="--disable-log-requests",
        help="Leave the requests out of the engine's log. Newer versions do so unless told otherwise.",
    )
    fixed_api_access_key: SecretStr | None = option(
        "Fixed API Access Key",
        secret=True,
        help="Key that clients send as a bearer token. Empty: one is generated. Whoever may read the task "
        "can read it.",
    )
    load_format: str | None = option(
        "Load Format", flag="--load-format", choices=LOAD_FORMATS, help=LOAD_FORMAT_HELP
    )
    dtype: Dtype | None = option(
        "Dtype",
        flag="--dtype",
        help="Data type of weights and activations. auto is that of the model.",
    )
    kv_cache_type: str | None = option(
        "KV Cache Type",
        flag="--kv-cache-dtype",
        choices=("auto", "fp8_e5m2"),
        spellings=KV_CACHE_SPELLINGS,
        help="Data type of the KV cache. auto is that of the model.",
    )
    pipeline_parallel_size: int | None = option(
        "Pipeline Parallel Size",
        flag="--pipeline-parallel-size",
        ge=1,
        help="Stages that the model's layers are divided into, each on GPUs of its own. Default 1.",
    )
    tensor_parallel_size: int | None = option(
        "Tensor Parallel Size",
        flag="--tensor-parallel-size",
        ge=1,
        help="GPUs that the model's layers are split over. Empty: all that are visible.",
    )
    max_parallel_loading_workers: int | None = option(
        "Max Parallel Loading Workers",
        flag="--max-parallel-loading-workers",
        ge=1,
        help="Workers that load the weights at a time, to spare RAM with a large model on several GPUs. "
        "Older versions only.",
    )
    token_block_size: int | None = option(
        "Token Block Size",
        flag="--block-size",
        ge=1,
        help="Tokens in a block of the KV cache.",
    )
    random_seed: int | None = option(
        "Random Seed", flag="--seed", help="Seed of the engine's random numbers."
    )
    swap_space: float | None = option(
        "Swap Space",
        flag="--swap-space",
        ge=0,
        help="Host memory in GiB per GPU for the KV cache of requests that are put aside. Older versions "
        "only.",
    )
    gpu_memory_utilization: float | None = option(
        "GPU Memory Utilization",
        flag="--gpu-memory-utilization",
        gt=0,
        le=1,
        help="Share of each GPU's memory that the engine may use, from 0 to 1. Default 0.9, 0.92 in newer "
        "versions.",
    )
    max_number_of_batched_tokens: int | None = option(
        "Max Number of Batched Tokens",
        flag="--max-num-batched-tokens",
        ge=1,
        help="Tokens that are processed together in one step of the engine.",
    )
    max_number_of_sequences: int | None = option(
        "Max Number of Sequences",
        flag="--max-num-seqs",
        ge=1,
        help="Requests that are processed together in one step of the engine.",
    )
    max_number_of_paddings: int | None = option(
        "Max Number of Paddings",
        flag="--max-paddings",
        ge=0,
        help="Padding tokens in a batch. No vLLM that this app runs has it: reported as without effect.",
    )
    quantization: str | None = option(
        "Quantization",
        flag="--quantization",
        help="How the weights are quantized, such as awq, gptq, fp8, compressed-tensors or bitsandbytes. "
        "Empty: what the model's configuration says.",
    )
    max_context_length_to_capture: int | None = option(
        "Max Context Length to Capture",
        flag="--max-seq-len-to-capture",
        ge=1,
        help="Sequences longer than this run without CUDA graphs. Older versions only.",
    )
    max_log_length: int | None = option(
        "Max Log Length",
        flag="--max-log-len",
        ge=0,
        help="Characters or token IDs of a prompt that are logged. Empty: all.",
    )

    @property
    def client_key(self) -> str | None:
        """The key that the user chose for clients: this form's field, or that of the other apps."""
        own = self.fixed_api_access_key
        return own.get_secret_value() if own else super().client_key

    def problems(self) -> list[Problem]:
        """Also two keys."""
        found = super().problems()
        if self.api_key and self.fixed_api_access_key and self.api_key != self.fixed_api_access_key:
            message = 'differs from "API Key" (General/api_key): set one of them'
            found.append(Problem(message, path="fixed_api_access_key"))
        return found


class LegacySettings(AppSettings[LegacyModel, LegacyGeneral]):
    """Everything an instance of the legacy app was told."""

    entry_type: ClassVar[type[OptionGroup]] = LegacyInstance
    max_models: ClassVar[int | None] = 1
    group_order: ClassVar[tuple[str, ...]] = ("lora", "general", "idle")

    models: tuple[LegacyModel, ...]
    lora: LegacyLora = LegacyLora()
    general: LegacyGeneral = LegacyGeneral()
    idle: IdleLimit = IdleLimit()

    @property
    def shows_api_key(self) -> bool:
        """The dashboard of this app shows the key, as it always has."""
        return True

    def adapters(self, endpoint_names: Sequence[str]) -> Mapping[str, tuple[LoraModule, ...]]:
        """The adapters that the model serves, by its endpoint name.

        Raises:
            ConfigurationError: One is meant for another endpoint, or has the model's name.
        """
        return assign_adapters(self.lora.modules, endpoint_names)

    @classmethod
    def too_many_models(cls) -> str:
        """Name the app that serves several."""
        return (
            "has several models and this app serves one: use the vLLM Model Deployment app (vllm)"
        )

    @classmethod
    def cross_problems(cls, models: Sequence[tuple[str, LegacyModel]]) -> list[Problem]:
        """An endpoint name that cannot be served."""
        return endpoint_problems((where, model, preliminary_name(model)) for where, model in models)

    def group_problems(self) -> list[Problem]:
        """What the fields of the LoRA group must be to each other."""
        found = lora_problems(self.lora)
        if len(self.models) == 1 and self.models[0].reference:
            found += adapter_problems(self.lora, self.models)
        return found
