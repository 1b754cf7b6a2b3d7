"""Settings, plans, catalogues and commands for the tests of the vLLM apps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from apps.legacy_model.options import LegacySettings
from apps.vllm.catalogue import SHIPPED, Catalogue, CatalogueFlag, load_catalogue
from apps.vllm.command import check_engine_options, write_vllm_command
from apps.vllm.facts import EngineFacts
from apps.vllm.options import VllmSettings
from common.engines.contract import EngineAddress, EngineCommand
from common.errors import Problem
from common.options.declaration import Option
from common.options.loading import load_settings
from common.runtime.app import AnySettings, ModelPlan

VERSIONS = sorted(path.stem for path in SHIPPED.glob("*.json"))
FORMS: Mapping[str, type[AnySettings]] = {"vllm": VllmSettings, "legacy_model": LegacySettings}


@cache
def catalogue(version: str) -> Catalogue:
    """The shipped catalogue of a version."""
    return load_catalogue(SHIPPED / f"{version}.json")


def changed(
    version: str,
    like: str,
    *,
    remove: Iterable[str] = (),
    add: Iterable[CatalogueFlag] = (),
) -> Catalogue:
    """A catalogue of a version that nobody has seen, made from one that is shipped."""
    flags = {name: flag for name, flag in catalogue(like).flags.items() if name not in set(remove)}
    return Catalogue(version, flags | {flag.name: flag for flag in add})


def facts(version: str | Catalogue = "0.33.0", **changes: Any) -> EngineFacts:
    """What is known of a vLLM."""
    known = catalogue(version) if isinstance(version, str) else version
    return EngineFacts(**{"program": ("vllm",), "catalogue": known, **changes})


def load(form: str = "vllm", /, **parameters: Any) -> AnySettings:
    """Settings of one model; ``dtype="half"`` is ``Model/dtype``, others by full path."""
    given = {"model": "org/base", **parameters}
    paths = {name if "/" in name else f"Model/{name}": value for name, value in given.items()}
    return load_settings(FORMS[form], paths).settings


def address(known: Catalogue) -> EngineAddress:
    """Where an engine of this catalogue listens."""
    if "--uds" in known:
        return EngineAddress(socket_path=Path("/run/e.sock"))
    return EngineAddress(port=8001, key="engine-key")


def plan_of(settings: AnySettings, index: int = 0, **changes: Any) -> ModelPlan:
    """The plan of one of its models."""
    values: dict[str, Any] = {
        "name": settings.models[index].endpoint_name or f"tiny-{index}",
        "options": settings.models[index],
        "path": Path("/cache/base"),
        "files": (),
        "address": EngineAddress(socket_path=Path("/run/e.sock")),
        "threads": 3,
        **changes,
    }
    return ModelPlan(**values)


def write(
    version: str | Catalogue = "0.33.0",
    form: str = "vllm",
    /,
    *,
    known: Mapping[str, Any] | None = None,
    plan: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> EngineCommand:
    """The command for these parameters; `known` are facts, `plan` parts of the plan."""
    settings, found = load(form, **parameters), facts(version, **(known or {}))
    listens = {"address": address(found.catalogue), **(plan or {})}
    return write_vllm_command(plan_of(settings, **listens), settings, found)


def check(
    version: str | Catalogue = "0.33.0",
    /,
    *,
    known: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> list[Problem]:
    """The problems of these parameters."""
    settings = load(**parameters)
    return check_engine_options(
        "Model", settings.models[0], settings, facts(version, **(known or {}))
    )


def value_of(command: EngineCommand, flag: str) -> str | None:
    """The argument behind a flag, attached or not; None where the flag is missing."""
    for index, argument in enumerate(command.argv):
        if argument == flag:
            return command.argv[index + 1]
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None


def json_of(command: EngineCommand, flag: str) -> Any:
    """The JSON behind a flag; None where the flag is missing."""
    text = value_of(command, flag)
    return None if text is None else json.loads(text)


def names_in(command: EngineCommand) -> set[str]:
    """The flags in the arguments, without their values."""
    return {part.partition("=")[0] for part in command.argv if part.startswith("-")}


def outcome_of(command: EngineCommand, option: Option) -> list[str]:
    """What was told about a field: ``translated: ...``, ``unavailable: ...``."""
    return [
        *(f"translated: {item.to}" for item in command.translated if item.path == option.path),
        *(
            f"unavailable: {item.reason}"
            for item in command.unavailable
            if item.path == option.path
        ),
    ]
