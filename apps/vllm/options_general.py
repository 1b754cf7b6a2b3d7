"""The group "General" of the vLLM form, and what of it both forms ask: shared by the instance's models."""

from __future__ import annotations

from typing import ClassVar, Literal

from packaging.version import InvalidVersion, Version
from pydantic import SecretStr, field_validator
from pydantic_core import PydanticCustomError

from apps.vllm.catalogue import OLDEST
from common.errors import Problem
from common.options.declaration import like, option
from common.options.memory import MemoryBudgetOptions
from common.options.shared import DebugOptions, GeneralOptions


class EngineVersionOptions(GeneralOptions):
    """Which vLLM runs, and the token, as both forms ask for them."""

    hugging_face_token: SecretStr | None = like(
        GeneralOptions,
        "hugging_face_token",
        title="HuggingFace Token",
        named="Hugging Face Token",
    )
    vllm_version: str | None = option(
        "vLLM Version",
        help="vLLM version to install beside the others and to run, 0.6.6 or later; a version that ends in "
        "+cpu is the build for machines without a GPU. Empty: the one that is installed.",
        placeholder="0.7.2",
    )

    @field_validator("vllm_version")
    @classmethod
    def _check_version(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            version = Version(value)
        except InvalidVersion as error:
            text = "must be a version such as 0.7.2 or 0.7.2+cpu"
            raise PydanticCustomError("version", text) from error
        if version.local not in (None, "cpu"):
            raise PydanticCustomError("version", "of the builds, only +cpu can be asked for")
        if version < OLDEST:
            text = "is too old: this app runs vLLM {oldest} and later"
            raise PydanticCustomError("version", text, {"oldest": str(OLDEST)})
        return str(version)

    @property
    def wanted_version(self) -> Version | None:
        """The version to run, without its build; None: the one that is installed."""
        return Version(Version(self.vllm_version).public) if self.vllm_version else None

    @property
    def wants_nvidia(self) -> bool:
        """Whether the device is one of NVIDIA's, as far as the form can name others."""
        return True

    @property
    def wants_cpu_build(self) -> bool:
        """Whether the build for machines without a GPU is asked for."""
        return bool(self.vllm_version and Version(self.vllm_version).local == "cpu")


class VllmGeneral(EngineVersionOptions, DebugOptions, MemoryBudgetOptions):
    """The group "General" of the vLLM app."""

    form_order: ClassVar[tuple[str, ...]] = (
        "enable_debug_mode",
        "use_v1_engine",
        "trust_remote_code",
        "disable_log_requests",
        "disable_async_output_processing",
        "hugging_face_token",
        "max_cuda_memory_gib",
        "cuda_memory_manager_minimum_threshold",
        "max_host_memory_gib",
        "max_log_length",
        "device",
        "guided_decoding_backend",
        "distributed_executor_backend",
        "config_overrides",
        "uvicorn_log_level",
        "vllm_log_level",
        "load_format",
        "vllm_version",
    )

    use_v1_engine: bool | None = option(
        "Use V1 Engine",
        flag="VLLM_USE_V1",
        help="Use vLLM's V1 engine, or, set to false, its first one. Newer versions have V1 alone.",
    )
    trust_remote_code: bool | None = option(
        "Trust Remote Code",
        flag="--trust-remote-code",
        help="Run the Python code that comes with the models' repositories. A model's own switch wins.",
    )
    disable_log_requests: bool | None = option(
        "Disable log requests",
        flag="--disable-log-requests",
        help="Leave the requests out of the engine's log. Newer versions do so unless told otherwise.",
    )
    disable_async_output_processing: bool | None = option(
        "Disable Async Output Processing",
        flag="--disable-async-output-proc",
        help="Process the output between the engine's steps instead of beside them; may be slower. Older "
        "versions only.",
    )
    max_log_length: int | None = option(
        "Max Log Length",
        flag="--max-log-len",
        ge=0,
        help="Characters or token IDs of a prompt that are logged, where requests are (Disable log requests: "
        "false). Newer versions log prompts at the level DEBUG only. Empty: all.",
    )
    device: Literal["auto", "cuda", "neuron", "cpu", "openvino", "tpu", "xpu", "hpu"] | None = (
        option(
            "Device",
            flag="--device",
            help="Kind of device. cpu asks for the build for machines without a GPU; newer versions detect the "
            "rest by themselves.",
        )
    )
    guided_decoding_backend: str | None = option(
        "Guided Decoding Backend",
        flag="--guided-decoding-backend",
        choices=("outlines", "lm-format-enforcer", "xgrammar", "guidance", "auto"),
        help="Which library keeps structured output (JSON, choices, grammars) to its form. Empty: the "
        "engine's choice.",
    )
    distributed_executor_backend: str | None = option(
        "Distributed Executor Backend",
        flag="--distributed-executor-backend",
        choices=("mp", "ray"),
        help="What runs the parts of a model on several GPUs: mp (processes of this machine) or ray (also "
        "several machines).",
    )
    config_overrides: str | None = option(
        "Config Overrides",
        flag="--hf-overrides",
        structure="object",
        multiline=True,
        help="Values that replace those of the models' config.json, a JSON object. Goes together with HF "
        "Overrides.",
    )
    uvicorn_log_level: Literal["debug", "info", "warning", "error", "critical", "trace"] | None = (
        option(
            "Uvicorn Log Level",
            flag="--uvicorn-log-level",
            help="How much the engine's HTTP server logs.",
        )
    )
    vllm_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] | None = option(
        "vLLM Log Level", flag="VLLM_LOGGING_LEVEL", help="How much the engine logs."
    )
    load_format: str | None = option(
        "Load Format",
        flag="--load-format",
        choices=("auto", "pt", "safetensors", "npcache", "dummy"),
        help="Format of the weights: auto (safetensors, else PyTorch), pt, safetensors, npcache (PyTorch "
        "with a numpy cache beside it), dummy (random values, to measure with). Newer versions know more.",
    )

    @property
    def wants_nvidia(self) -> bool:
        """Whether Device leaves it at NVIDIA's."""
        return self.device in (None, "auto", "cuda")

    @property
    def wants_cpu_build(self) -> bool:
        """Whether the build for machines without a GPU is asked for, by Device or vLLM Version."""
        return self.device == "cpu" or super().wants_cpu_build

    def problems(self) -> list[Problem]:
        """Also a device that the wanted build does not have."""
        found = super().problems()
        if super().wants_cpu_build and self.device not in (None, "auto", "cpu"):
            message = (
                f'"vLLM Version" (General/vllm_version) is {self.vllm_version}, a build for the CPU'
            )
            found.append(Problem(message, path="device", value=self.device))
        return found
