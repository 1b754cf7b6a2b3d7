"""The groups "LoRA Configuration" of both forms."""

from __future__ import annotations

from typing import ClassVar, Literal

from apps.vllm.lora import LoraModule, parse_lora_modules
from common.errors import Problem
from common.options.declaration import OptionGroup, option


class CommonLoraOptions(OptionGroup):
    """What both forms ask about adapters; shared by the instance's models."""

    section: ClassVar[str] = "LoRA"

    enable_lora: bool | None = option(
        "Enable LoRA", flag="--enable-lora", help="Serve LoRA adapters beside the models."
    )
    lora_modules: str | None = option(
        "LoRA Modules",
        flag="--lora-modules",
        structure="modules",
        multiline=True,
        help="Adapters as name=reference, several separated by commas, spaces or line ends; a reference is a "
        "ClearML model ID, a Hugging Face repository or a local path. With several models: "
        "endpoint:name=reference. Clients ask for an adapter by its name in the field model.",
        placeholder="sql=provider/repo",
    )
    max_loras: int | None = option(
        "Max LoRAs",
        flag="--max-loras",
        ge=1,
        help="Different adapters that one batch may use. Default 1.",
    )
    max_lora_rank: int | None = option(
        "Max LoRA Rank",
        flag="--max-lora-rank",
        ge=1,
        help="Highest rank of an adapter. Default 16; newer versions allow certain ranks only.",
    )
    lora_extra_vocabulary_size: int | None = option(
        "LoRA Extra Vocabulary Size",
        flag="--lora-extra-vocab-size",
        ge=0,
        help="Most tokens that an adapter may add to the vocabulary of its model. Older versions only.",
    )
    lora_dtype: Literal["auto", "float16", "bfloat16", "float32"] | None = option(
        "LoRA Dtype",
        flag="--lora-dtype",
        help="Data type of the adapters. auto is that of the model.",
    )
    max_cpu_loras: int | None = option(
        "Max CPU LoRAs",
        flag="--max-cpu-loras",
        ge=1,
        help="Adapters kept in host memory, at least Max LoRAs. Default: Max LoRAs.",
    )

    def problems(self) -> list[Problem]:
        """What cannot be read in LoRA Modules."""
        wrong = parse_lora_modules(self.lora_modules).problems
        return super().problems() + [Problem(text, path="lora_modules") for text in wrong]

    @property
    def modules(self) -> tuple[LoraModule, ...]:
        """The adapters of LoRA Modules."""
        return parse_lora_modules(self.lora_modules).modules


class LoraOptions(CommonLoraOptions):
    """The group of the vLLM form."""

    form_order: ClassVar[tuple[str, ...]] = (
        "enable_lora",
        "lora_modules",
        "max_loras",
        "long_lora_scaling_factors",
    )

    long_lora_scaling_factors: str | None = option(
        "Long LoRA Scaling Factors",
        flag="--long-lora-scaling-factors",
        structure="list",
        help="Scaling factors of the adapters that were trained for longer contexts, separated by commas. "
        "Older versions only.",
        placeholder="2.0,4.0",
    )
    enable_lora_bias: bool | None = option(
        "Enable LoRA Bias",
        flag="--enable-lora-bias",
        help="Adapters may have biases. Older versions only.",
    )
    fully_sharded_loras: bool | None = option(
        "Fully Sharded LoRAs",
        flag="--fully-sharded-loras",
        help="Split all of the adapters' computation over the GPUs of a tensor-parallel model instead of half.",
    )

    def problems(self) -> list[Problem]:
        """Also scaling factors that are no numbers."""
        wrong = [part for part in (self.long_lora_scaling_factors or "").split(",") if part]
        wrong = [part for part in wrong if not _is_positive(part)]
        message = "must be numbers above 0, separated by commas; {!r} is not one"
        return super().problems() + [
            Problem(message.format(part), path="long_lora_scaling_factors") for part in wrong
        ]


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False
