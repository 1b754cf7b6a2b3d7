"""Every option of the legacy Model Deployment app: an older form over the same engine.

Declared with the flags of the engine, which are what the two forms have in common; an option that the
vLLM form has as well is declared like it there.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import SecretStr

from apps.vllm.options import EngineSettings, adapter_problems, lora_problems
from apps.vllm.options_advanced import AdvancedOptions
from apps.vllm.options_general import EngineVersionOptions, VllmGeneral
from apps.vllm.options_lora import CommonLoraOptions
from apps.vllm.options_model import Dtype, VllmModel, revision_problems
from common.errors import Problem
from common.options.declaration import OptionGroup, like, option
from common.options.settings import ModelOptions
from common.options.shared import IdleLimit, InstanceOptions
from common.runtime.endpoint_names import (
    reference_problems,
)


class LegacyInstance(OptionGroup):
    """What the form asks first; these are attributes of the ClearML task, not hyperparameters."""

    project_name: str | None = option(
        "Project Name", help="The ClearML project that the instance's task is created in."
    )
    task_name: str | None = option("Task Name", help="Name of the instance's ClearML task.")
    queue: str | None = like(InstanceOptions, "queue")


class LegacyModel(ModelOptions):
    """The one model."""

    model: str | None = like(VllmModel, "model")
    trust_remote_code: bool | None = like(
        VllmModel,
        "trust_remote_code",
        help="Run the Python code that comes with the model's repository.",
    )
    revision: str | None = like(VllmModel, "revision")
    code_revision: str | None = like(VllmModel, "code_revision")
    max_model_length: int | None = like(VllmModel, "max_context_length", title="Max Model Length")
    tokenizer: str | None = like(VllmModel, "tokenizer")
    tokenizer_revision: str | None = like(VllmModel, "tokenizer_revision")
    tokenizer_mode: str | None = like(
        VllmModel,
        "tokenizer_mode",
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


class LegacyGeneral(EngineVersionOptions):
    """The group "General"."""

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
    enforce_eager: bool | None = like(VllmModel, "enforce_eager")
    disable_custom_all_reduce: bool | None = like(AdvancedOptions, "disable_custom_all_reduce")
    disable_logging_requests: bool | None = like(
        VllmGeneral, "disable_log_requests", title="Disable Logging Requests"
    )
    fixed_api_access_key: SecretStr | None = option(
        "Fixed API Access Key",
        secret=True,
        help="Key that clients send as a bearer token. Empty: one is generated. Whoever may read the task "
        "can read it.",
    )
    load_format: str | None = like(VllmGeneral, "load_format")
    dtype: Dtype | None = like(VllmModel, "dtype")
    kv_cache_type: str | None = like(
        VllmModel,
        "kv_cache_dtype",
        title="KV Cache Type",
        choices=("auto", "fp8_e5m2"),
        help="Data type of the KV cache. auto is that of the model.",
    )
    pipeline_parallel_size: int | None = like(VllmModel, "pipeline_parallel_size")
    tensor_parallel_size: int | None = like(
        VllmModel, "gpus_tensor_parallel_size", title="Tensor Parallel Size"
    )
    max_parallel_loading_workers: int | None = option(
        "Max Parallel Loading Workers",
        flag="--max-parallel-loading-workers",
        ge=1,
        help="Workers that load the weights at a time, to spare RAM with a large model on several GPUs. "
        "Older versions only.",
    )
    token_block_size: int | None = like(VllmModel, "token_block_size")
    random_seed: int | None = like(VllmModel, "random_seed")
    swap_space: float | None = like(VllmModel, "swap_space")
    gpu_memory_utilization: float | None = like(VllmModel, "gpu_memory_utilization")
    max_number_of_batched_tokens: int | None = like(
        VllmModel, "max_num_batched_tokens", title="Max Number of Batched Tokens"
    )
    max_number_of_sequences: int | None = like(
        VllmModel, "max_number_of_sequences_per_iteration", title="Max Number of Sequences"
    )
    max_number_of_paddings: int | None = option(
        "Max Number of Paddings",
        flag="--max-paddings",
        ge=0,
        help="Padding tokens in a batch. No vLLM that this app runs has it: reported as without effect.",
    )
    quantization: str | None = like(VllmModel, "quantization")
    max_context_length_to_capture: int | None = like(
        VllmModel, "max_sequence_length_to_capture", title="Max Context Length to Capture"
    )
    max_log_length: int | None = like(VllmGeneral, "max_log_length")

    @property
    def client_key(self) -> str | None:
        """The key that the user chose for clients: this form's field, or that of the other apps."""
        own = self.fixed_api_access_key
        return own.get_secret_value() if own else super().client_key

    def problems(self) -> list[Problem]:
        """Also two keys, and one that the dashboard would show as something else."""
        found = super().problems()
        if self.api_key and self.fixed_api_access_key and self.api_key != self.fixed_api_access_key:
            message = 'differs from "API Key" (General/api_key): set one of them'
            found.append(Problem(message, path="fixed_api_access_key"))
        if any(char in "<>" for char in self.client_key or ""):
            name = "fixed_api_access_key" if self.fixed_api_access_key else "api_key"
            found.append(Problem("must not contain < or >: the dashboard shows it", path=name))
        return found


class LegacySettings(EngineSettings[LegacyModel, LegacyGeneral]):
    """Everything an instance of the legacy app was told."""

    entry_type: ClassVar[type[OptionGroup]] = LegacyInstance
    max_models: ClassVar[int | None] = 1
    group_order: ClassVar[tuple[str, ...]] = ("lora", "general", "idle")

    models: tuple[LegacyModel, ...]
    lora: CommonLoraOptions = CommonLoraOptions()
    general: LegacyGeneral = LegacyGeneral()
    idle: IdleLimit = IdleLimit()

    @property
    def shows_api_key(self) -> bool:
        """The dashboard of this app shows the key, as it always has."""
        return True

    @classmethod
    def too_many_models(cls) -> str:
        """Name the app that serves several."""
        return (
            "has several models and this app serves one: use the vLLM Model Deployment app (vllm)"
        )

    def group_problems(self) -> list[Problem]:
        """What the fields of the LoRA group must be to each other."""
        found = lora_problems(self.lora)
        if len(self.models) == 1 and self.models[0].reference:
            found += adapter_problems(self.lora, self.models)
        return found
