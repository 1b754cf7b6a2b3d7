"""The validated settings of an app: its groups, its models, and the list of its options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, cast

from pydantic import BaseModel, ConfigDict
from typing_extensions import Self

from common.errors import Problem
from common.options.declaration import Option, OptionGroup, describe_options
from common.options.memory import (
    OFFLOADING,
    MemorySettings,
    ModelMemory,
    model_memory,
    model_memory_problems,
)
from common.options.shared import GeneralOptions, IdleLimit, IdleOptions, InstanceOptions


@dataclass(frozen=True)
class RequestLimits:
    """What the gateway enforces for one model; None means no limit. Tokens are the engine's."""

    max_concurrent_requests: int | None = None
    max_input_tokens: int | None = None
    max_total_tokens: int | None = None
    max_waiting_requests: int | None = None
    max_queue_s: float | None = None
    cancel_on_disconnect: bool = True


def queue_problems(limits: RequestLimits) -> list[Problem]:
    """What is wrong with the options of a model's waiting room: each needs the one before it."""
    found = []
    if limits.max_waiting_requests and not limits.max_concurrent_requests:
        message = 'needs "Max Concurrent Requests" (Model/max_concurrent_requests): without it nobody waits'
        value: Any = limits.max_waiting_requests
        found.append(Problem(message, path="max_waiting_requests", value=value))
    if limits.max_queue_s and not limits.max_waiting_requests:
        message = (
            'needs "Max Waiting Requests" (Model/max_waiting_requests): without it nobody waits'
        )
        found.append(Problem(message, path="max_queue_seconds", value=limits.max_queue_s))
    return found


class ModelOptions(OptionGroup):
    """Options of one model; apps declare theirs, the field `model` among them."""

    section: ClassVar[str] = "Model"

    @property
    def reference(self) -> str:
        """The model reference as the user gave it."""
        raise NotImplementedError

    @property
    def endpoint_name(self) -> str | None:
        """The endpoint name that the user chose (its field, or the engine's flag in CLI), if any."""
        raise NotImplementedError

    @property
    def limits(self) -> RequestLimits:
        """What the gateway enforces for this model."""
        return RequestLimits()

    @property
    def memory_policy(self) -> ModelMemory:
        """How this model wants to be treated where models share the memory."""
        return model_memory(self.given())

    def problems(self) -> list[Problem]:
        """Also memory options that contradict each other."""
        return super().problems() + model_memory_problems(self.given())

    @property
    def is_verbose(self) -> bool:
        """Whether its engine was asked for detailed logging, requests included."""
        return False

    @property
    def model_revision(self) -> str | None:
        """Branch, tag or commit of the model on Hugging Face, when an option names one."""
        return None


ModelT = TypeVar("ModelT", bound=ModelOptions)
GeneralT = TypeVar("GeneralT", bound=GeneralOptions)


class AppSettings(BaseModel, Generic[ModelT, GeneralT]):
    """Everything an instance was told, validated and frozen."""

    model_config = ConfigDict(frozen=True)

    models: tuple[ModelT, ...]
    general: GeneralT
    idle: IdleLimit = IdleOptions()

    entry_type: ClassVar[type[OptionGroup]] = InstanceOptions
    # The most models that one instance of the app serves; None: as many as fit.
    max_models: ClassVar[int | None] = None
    # Groups named here come first, in this order: inheritance would put a subclass's own last.
    group_order: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def model_type(cls) -> type[ModelT]:
        """The class that declares the options of one model."""
        declared = cls.model_fields["models"].annotation
        model: type[ModelT] = declared.__args__[0]  # type: ignore[union-attr]
        return model

    @classmethod
    def group_types(cls) -> dict[str, type[OptionGroup]]:
        """The classes of the groups that are not per model, by field name, in the order of the form."""
        names = dict.fromkeys((*cls.group_order, *cls.model_fields))
        return {
            name: declared
            for name in names
            if isinstance(declared := cls.model_fields[name].annotation, type)
            and issubclass(declared, OptionGroup)
        }

    @classmethod
    def of_parts(cls, models: Sequence[ModelOptions], groups: Mapping[str, OptionGroup]) -> Self:
        """Put validated parts together without validating them again."""
        parts: dict[str, Any] = {"models": tuple(models), **groups}
        return cast("Self", cls.model_construct(None, **parts))

    @classmethod
    def options(cls, *, entry: bool = True) -> Iterator[Option]:
        """List every option in the order of the form.

        Args:
            entry: Also the instance's entry fields, which are no hyperparameters (empty `path`).
        """
        if entry:
            yield from describe_options(cls.entry_type)
        yield from describe_options(cls.model_type(), per_model=True)
        for group in cls.group_types().values():
            yield from describe_options(group)

    @property
    def shows_api_key(self) -> bool:
        """Whether the dashboard shows the clients' key, also one that the user chose."""
        return False

    @property
    def groups(self) -> tuple[OptionGroup, ...]:
        """The groups that are not per model, in the order of the form."""
        return tuple(getattr(self, name) for name in self.group_types())

    def given_shared(self) -> Iterator[tuple[Option, Any]]:
        """The shared options that were set, with their values, secrets unwrapped."""
        for group in self.groups:
            given = group.given()
            yield from (
                (o, given[o.name]) for o in describe_options(type(group)) if o.name in given
            )

    @property
    def memory(self) -> MemorySettings:
        """How the models share the worker's memory; the fields are in different groups of the forms."""
        given = {option.name: value for option, value in self.given_shared()}
        return MemorySettings(
            cpu_offloading=bool(given.get("enable_automatic_cpu_offloading")),
            disk_swapping=bool(given.get("enable_disk_swapping")),
            max_cuda_gib=given.get("max_cuda_memory_gib"),
            manager_threshold_kb=given.get("cuda_memory_manager_minimum_threshold"),
            max_host_gib=given.get("max_host_memory_gib"),
        )

    @classmethod
    def offloading_switches(cls, *names: str) -> str:
        """The options that let models be put aside, or those of these names, as this form has them."""
        wanted = names or OFFLOADING
        return " or ".join(f'"{o.title}" ({o.path})' for o in cls.options() if o.name in wanted)

    def is_embedding(self, model: ModelT) -> bool:
        """Whether this model serves embeddings instead of text."""
        return False

    @classmethod
    def cross_problems(cls, models: Sequence[tuple[str, ModelT]]) -> list[Problem]:
        """What is wrong between models; each comes with its path, such as ``Models/models[0]``."""
        return []

    @classmethod
    def too_many_models(cls) -> str:
        """What to say when there are more models than `max_models`."""
        return f"has more models than this app serves ({cls.max_models})"

    def model_problems(self, model: ModelOptions) -> list[Problem]:
        """What is wrong between one model and the shared groups.

        Asked of settings whose models are not read yet. A problem's `path` is a bare field name, or a
        full one where it is a shared option's.
        """
        minutes = model.given().get("idle_offload_minutes")
        if minutes is None or self.memory.moves_models:
            return []
        message = (
            f"needs {self.offloading_switches()} to be on: without, no model is ever put aside"
        )
        return [Problem(message, path="idle_offload_minutes", value=minutes)]

    def group_problems(self) -> list[Problem]:
        """What is wrong between groups, and between them and the models.

        Asked of settings of which every value that is wrong by itself was left out. A problem's
        `path` is a full one, such as ``LoRA/max_cpu_loras``; its title comes from the declaration.
        """
        return []
