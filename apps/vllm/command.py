"""Settings to the command of ``vllm serve``. Pure but for the model's ``config.json``, which RoPE needs.

Fields become arguments in `apps.vllm.translation`. Here stands what is ours with every vLLM: the model
first, so that no flag of several values takes it for one of them; its name; where it listens; a quiet
access log; the environment. "CLI" replaces the fields, "Model Overrides" win over them.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from apps.vllm.catalogue import OLDEST, Catalogue
from apps.vllm.cli import read_cli, read_overrides
from apps.vllm.facts import EngineFacts
from apps.vllm.registered_names import opened_by_plugins
from apps.vllm.request import EngineRequest
from apps.vllm.sleep import SleepMode
from apps.vllm.translation import write_fields, write_variables
from apps.vllm.translation.logs import quiet_access_log
from apps.vllm.translation.machine import (
    bind_threads,
    fit_into_memory,
    share_gpu_memory,
    spans_machines,
    spread_over_gpus,
)
from apps.vllm.translation.sleep_mode import (
    allow_sleep,
    can_wait,
    reload_obstacle,
    sleep_obstacle,
    takes_turns,
)
from apps.vllm.translation.writer import CommandWriter
from common.engines.contract import EngineAddress, EngineCommand, Translated, Unavailable
from common.engines.ports import MAX_SOCKET_PATH_BYTES
from common.errors import ConfigurationError, InternalError, Problem
from common.memory.engine_ways import EngineOffloads
from common.options.declaration import Option, describe_options
from common.options.settings import ModelOptions
from common.runtime.app import AnySettings, ModelPlan

_KEY: Final = "VLLM_API_KEY"
# vLLM's own sockets are named by a UUID.
_LONGEST_FOLDER: Final = MAX_SOCKET_PATH_BYTES - len("/00000000-0000-0000-0000-000000000000")
_TOKEN: Final = "HF_TOKEN"

_NAMES_FILES: Final = frozenset(
    {
        "--hf-config-path",
        "--lora-modules",
        "--spec-model",
        "--speculative-config",
        "--speculative-model",
        "--tokenizer",
    }
)
"""Flags whose values may be repositories."""


def write_vllm_command(plan: ModelPlan, settings: AnySettings, facts: EngineFacts) -> EngineCommand:
    """Write the command for one model.

    Args:
        plan: The model, its files and its address.
        settings: All settings of the instance.
        facts: The vLLM that will run.

    Returns:
        The command, and what became of each field that was set: in its arguments or variables,
        translated, or unavailable. What `check_engine_options` finds wrong is left out.

    Raises:
        ConfigurationError: The vLLM is too old.
    """
    if problem := version_problem(facts.catalogue):
        raise ConfigurationError([problem])
    writer = _write(plan, settings, facts)
    token = settings.general.hugging_face_token
    secrets = {_TOKEN: token.get_secret_value()} if token else {}
    if plan.address.key:
        secrets[_KEY] = plan.address.key
    return EngineCommand(
        argv=(*facts.program, "serve", str(plan.path), *writer.arguments),
        env={**_environment(writer), **facts.env, **writer.env, **secrets},
        secret_env=frozenset(secrets),
        translated=tuple(writer.translated),
        unavailable=tuple(writer.unavailable),
    )


def check_engine_options(
    where: str, model: ModelOptions, settings: AnySettings, facts: EngineFacts
) -> list[Problem]:
    """Find what is wrong with one model's options for this vLLM, before anything is fetched.

    Args:
        where: The model's place, ``Model`` or ``Models/models[0]``.
        model: Its options.
        settings: All settings; the models may be missing in it.
        facts: The vLLM that will run.

    Returns:
        Problems; `Problem.path` is the bare name of a model's own field, else ``Section/name``.
    """
    if problem := version_problem(facts.catalogue):
        return [problem]
    plan = ModelPlan(
        name=model.endpoint_name or model.reference or where,
        options=model,
        path=Path(f"<{model.reference}>"),
        files=(),
        address=EngineAddress(port=1),
        threads=1,
    )
    return _write(plan, settings, facts).problems


def vllm_offloads(plan: ModelPlan, settings: AnySettings, facts: EngineFacts) -> EngineOffloads:
    """The sleep levels of an engine that was started with `write_vllm_command`.

    Args:
        plan: The model.
        settings: All settings of the instance.
        facts: The vLLM that runs.
    """
    writer = _write(plan, settings, facts)
    if not takes_turns(writer):
        return EngineOffloads()
    if obstacle := sleep_obstacle(writer):
        without = "putting the model aside stops its engine"
        # Without a GPU nothing else is to be expected.
        is_told = facts.build == "gpu"
        note = f"The engine cannot sleep: {obstacle}; {without}."
        return EngineOffloads(notes=(note,) if is_told else ())
    waits = can_wait(writer)
    asleep = (SleepMode(level=1, waits=waits),)
    if obstacle := reload_obstacle(writer):
        note = (
            f"The engine cannot sleep without its weights: {obstacle}; for the disk it is stopped."
        )
        return EngineOffloads(asleep, notes=(note,) if settings.memory.disk_swapping else ())
    return EngineOffloads(asleep, emptied=(SleepMode(level=2, waits=waits),))


def version_problem(catalogue: Catalogue) -> Problem | None:
    """Why a vLLM cannot be used at all; None where it can."""
    if catalogue.release >= OLDEST:
        return None
    return Problem(
        f"vLLM {catalogue.version} is too old: {OLDEST} and later can be used. Install a newer one, or "
        'set "vLLM Version" (General/vllm_version)',
        path="model",
    )


def _write(plan: ModelPlan, settings: AnySettings, facts: EngineFacts) -> CommandWriter:
    request = EngineRequest(plan.options, settings)
    facts = replace(facts, catalogue=opened_by_plugins(facts.catalogue, request))
    overrides = read_overrides({} if request.cli else request.overrides, facts.catalogue)
    writer = CommandWriter(plan, request, facts, overridden=overrides.names)
    writer.add(("--served-model-name", plan.name), *_listen(plan.address, facts.catalogue))
    if request.cli:
        _write_cli(writer, request.cli)
    else:
        _tell(writer, "model_overrides", overrides.problems, overrides.notes)
        for item in overrides.items:
            writer.add_item(item)
        write_fields(writer)
    quiet_access_log(writer)
    share_gpu_memory(writer)
    spread_over_gpus(writer, by_default=not request.cli)
    fit_into_memory(writer)
    bind_threads(writer)
    allow_sleep(writer)
    return writer


def _write_cli(writer: CommandWriter, text: str) -> None:
    replaced = '"CLI" is set and replaces it'
    writer.give_up([item for item in writer.open() if item.flag.startswith("-")], replaced)
    overrides = _field(writer, "model_overrides")
    if overrides and writer.request.overrides:
        writer.unavailable.append(Unavailable(overrides.title, overrides.path, replaced))
    write_variables(writer)
    parsed = read_cli(text, writer.catalogue)
    _tell(writer, "cli", parsed.problems, parsed.notes)
    for item in parsed.items:
        writer.add_item(item)


def _tell(
    writer: CommandWriter, name: str, problems: tuple[str, ...], notes: tuple[str, ...]
) -> None:
    """Tell what is wrong in a field of flags, and which of them are read and not passed."""
    option = _field(writer, name) if problems or notes else None
    if option is None:
        return
    writer.problems += [Problem(text, option.title, name) for text in problems]
    chosen = getattr(writer.request.model, "model_endpoint_name", None)
    for note in notes:
        if note.startswith("--served-model-name") and name == "cli" and not chosen:
            to = "the endpoint's name, and --served-model-name of it"
            writer.translated.append(Translated(option.title, option.path, to))
        else:
            writer.unavailable.append(Unavailable(option.title, option.path, note))


def _field(writer: CommandWriter, name: str) -> Option | None:
    options = describe_options(type(writer.request.model), per_model=True)
    return next((option for option in options if option.name == name), None)


def _listen(address: EngineAddress, catalogue: Catalogue) -> tuple[tuple[str, str], ...]:
    if address.socket_path is None:
        return (("--host", address.host), ("--port", str(address.port)))
    if "--uds" not in catalogue:
        raise InternalError(f"vLLM {catalogue.version} cannot listen on a Unix socket")
    return (("--uds", str(address.socket_path)),)


def _environment(writer: CommandWriter) -> dict[str, str]:
    """Variables of ours: no reports, no key on a socket, no files left, no downloads behind our back."""
    env = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", _KEY: ""}
    socket = writer.plan.address.socket_path
    if socket is not None and len(os.fsencode(socket.parent)) <= _LONGEST_FOLDER:
        # A killed vLLM leaves its sockets; in the instance's folder they end with it.
        env["VLLM_RPC_BASE_PATH"] = str(socket.parent)
    # Code that comes with a model may fetch more of itself, and what "CLI" and "Model Overrides" name
    # was not fetched beforehand; nothing else has a reason to.
    if writer.passed("--trust-remote-code") is None and not writer.names_files(_NAMES_FILES):
        env["HF_HUB_OFFLINE"] = "1"
    if not spans_machines(writer):
        env["VLLM_HOST_IP"] = "127.0.0.1"
    return env
