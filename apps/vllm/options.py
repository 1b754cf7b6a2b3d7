"""Every option of the vLLM Model Deployment app, and what they must be to each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import ClassVar, Generic

from apps.vllm.lora import LoraModule, assign_adapters, assignment_problems
from apps.vllm.options_advanced import AdvancedOptions
from apps.vllm.options_general import VllmGeneral
from apps.vllm.options_lora import CommonLoraOptions, LoraOptions
from apps.vllm.options_model import VllmModel
from common.errors import Problem
from common.options.cli_field import last_value
from common.options.settings import AppSettings, GeneralT, ModelOptions, ModelT
from common.options.shared import IdleOptions
from common.runtime.endpoint_names import endpoint_problems, known_name, preliminary_name


class EngineSettings(AppSettings[ModelT, GeneralT], Generic[ModelT, GeneralT]):
    """What both forms over vLLM have: adapters, and endpoints named by fields or references."""

    lora: CommonLoraOptions

    def adapters(self, endpoint_names: Sequence[str]) -> Mapping[str, tuple[LoraModule, ...]]:
        """The adapters that each model serves.

        Args:
            endpoint_names: Those of `models`, in their order.

        Raises:
            ConfigurationError: An adapter belongs to no model, or its name is taken.
        """
        return assign_adapters(self.lora.modules, endpoint_names)

    @classmethod
    def cross_problems(cls, models: Sequence[tuple[str, ModelT]]) -> list[Problem]:
        """Endpoint names that cannot be served, or that two models have."""
        return endpoint_problems((where, model, preliminary_name(model)) for where, model in models)


class VllmSettings(EngineSettings[VllmModel, VllmGeneral]):
    """Everything an instance of the vLLM app was told."""

    group_order: ClassVar[tuple[str, ...]] = ("lora", "general", "advanced", "idle")

    models: tuple[VllmModel, ...]
    lora: LoraOptions = LoraOptions()
    general: VllmGeneral = VllmGeneral()
    advanced: AdvancedOptions = AdvancedOptions()
    idle: IdleOptions = IdleOptions()

    def is_embedding(self, model: VllmModel) -> bool:
        """Whether this model serves embeddings: by CLI, else by Model Overrides, else by Task."""
        if model.cli:
            names = ("task", "runner", "convert")
            return embeds({name: last_value(model.cli, (f"--{name}",)) for name in names})
        return embeds({"task": self.advanced.task, **model.overrides})

    def adapters(self, endpoint_names: Sequence[str]) -> Mapping[str, tuple[LoraModule, ...]]:
        """The adapters that each model serves; CLI replaces a model's.

        Raises:
            ConfigurationError: An adapter belongs to no model, or its name is taken.
        """
        by_cli = {
            name for name, model in zip(endpoint_names, self.models, strict=True) if model.cli
        }
        if len(by_cli) == len(endpoint_names):
            return dict.fromkeys(endpoint_names, ())
        assigned = super().adapters(endpoint_names)
        return {name: () if name in by_cli else found for name, found in assigned.items()}

    def group_problems(self) -> list[Problem]:
        """What the shared groups must be to each other, where CLI does not replace them."""
        models = [model for model in self.models if not model.cli]
        if not models:
            return []
        found = lora_problems(self.lora, [model.overrides for model in models])
        if self.lora.modules and all(model.reference for model in self.models):
            found += adapter_problems(self.lora, self.models)
        return found + self._twice_given() + self._ngram_problems()

    def _twice_given(self) -> list[Problem]:
        found = []
        general, advanced = (
            self.general.guided_decoding_backend,
            self.advanced.guided_decoding_backend,
        )
        if general and advanced and general != advanced:
            message = (
                f'is the same option as "Guided Decoding Backend" (General/guided_decoding_backend), which '
                f"is {general!r}: set one"
            )
            path = "Advanced/guided_decoding_backend"
            found.append(Problem(message, path=path, value=advanced))
        config = json.loads(self.general.config_overrides or "{}")
        overrides = json.loads(self.advanced.hf_overrides or "{}")
        found += [
            Problem(
                f'says {name!r} as "Config Overrides" (General/config_overrides) does, with another '
                "value: they are one option",
                path="Advanced/hf_overrides",
            )
            for name in config.keys() & overrides.keys()
            if config[name] != overrides[name]
        ]
        return found

    def _ngram_problems(self) -> list[Problem]:
        least, most = self.advanced.ngram_prompt_lookup_min, self.advanced.ngram_prompt_lookup_max
        if not (least and most and least > most):
            return []
        message = (
            f'is more than "Ngram Prompt Lookup Max" (Advanced/ngram_prompt_lookup_max), {most}'
        )
        return [Problem(message, path="Advanced/ngram_prompt_lookup_min", value=least)]


def embeds(said: Mapping[str, object]) -> bool:
    """Whether options named ``task``, ``runner`` and ``convert`` make a model serve embeddings."""
    task, runner, convert = (str(said.get(name) or "") for name in ("task", "runner", "convert"))
    if convert not in ("", "auto", "none"):
        return convert == "embed"
    if runner not in ("", "auto"):
        return runner == "pooling"
    return task.startswith("embed")


def lora_problems(
    lora: CommonLoraOptions, overrides: Sequence[Mapping[str, object]] = ()
) -> list[Problem]:
    """What the fields of the LoRA group must be to each other.

    Args:
        lora: The group.
        overrides: The Model Overrides of the models that it applies to.
    """
    found = []
    enabled_elsewhere = any(item.get("enable_lora") for item in overrides)
    if lora.lora_modules and not lora.enable_lora and not enabled_elsewhere:
        message = 'needs "Enable LoRA" (LoRA/enable_lora) to be on'
        found.append(Problem(message, path="LoRA/lora_modules", value=lora.lora_modules))
    if lora.max_cpu_loras and lora.max_loras and lora.max_cpu_loras < lora.max_loras:
        message = f'must be at least "Max LoRAs" (LoRA/max_loras), which is {lora.max_loras}'
        found.append(Problem(message, path="LoRA/max_cpu_loras", value=lora.max_cpu_loras))
    return found


def adapter_problems(lora: CommonLoraOptions, models: Sequence[ModelOptions]) -> list[Problem]:
    """Adapters that no model can be told for, as far as the endpoint names are known by now."""
    names = [known_name(model) for model in models]
    if all(names):
        wrong = assignment_problems(lora.modules, [name for name in names if name])
    elif len(models) > 1:
        wrong = tuple(
            f"which of the {len(models)} models {module.name!r} belongs to is not said: write "
            f"endpoint:{module.name}=..., with the endpoint name of one"
            for module in lora.modules
            if module.endpoint is None
        )
    else:
        wrong = ()
    return [Problem(text, path="LoRA/lora_modules") for text in wrong]
