"""What would run for a configuration, without running, installing or fetching anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.engines.contract import EngineAddress, EngineCommand
from common.engines.cpu import default_threads
from common.models.reference import parse_reference
from common.runtime.app import App, InstalledEngine, ModelExtras, ModelPlan
from common.runtime.checking import Checked, check_parameters
from common.runtime.naming import preliminary_names

# Stand-ins: an instance takes a free port, and makes a key, at each start.
_FIRST_PORT = 8000
_KEY = "<key>"


def check_preview(app: App, parameters: Mapping[str, Any], environ: Mapping[str, str]) -> Checked:
    """Check a configuration without an installed engine.

    Args:
        app: The app.
        parameters: ``Section/name`` to value.
        environ: Where the engine is looked up; one that is not there is stood in for.

    Raises:
        ConfigurationError: All problems of the configuration.
    """
    return check_parameters(app, parameters, environ, app.preview_engine)


def preview(app: App, parameters: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """The command of every model, as ``clearml-deploy command --json`` prints it.

    Args:
        app: The app.
        parameters: ``Section/name`` to value.
        environ: Where the engine is looked up.

    Raises:
        ConfigurationError: All problems of the configuration.
    """
    checked = check_preview(app, parameters, environ)
    settings, engine = checked.settings, checked.engine
    names = preliminary_names(settings)
    extras = app.extras(names, settings)
    threads = default_threads(len(names))
    models = []
    for index, (options, name) in enumerate(zip(settings.models, names, strict=True)):
        file = _place(options.reference, app)
        plan = ModelPlan(
            name=name,
            options=options,
            path=file,
            files=(file,),
            address=_address(engine, index),
            threads=threads,
            companions={
                companion.key: _place(companion.reference, app)
                for companion in extras.get(name, ModelExtras()).companions
            },
            cache_folder=Path(f"<caches>/{index + 1}") if settings.memory.moves_models else None,
        )
        models.append(_record(name, engine.command(plan, settings)))
    return {"models": models, "engine_version": engine.version}


def _place(reference_text: str, app: App) -> Path:
    """Where files would be. For those that are fetched their reference stands in.

    An engine of repositories takes a repository's name as well, so the command can be run by hand.
    """
    reference = parse_reference(reference_text)
    if reference.local:
        return Path(reference.local)
    return Path(reference_text if app.wants == "repository" else f"<{reference_text}>")


def _address(engine: InstalledEngine, index: int) -> EngineAddress:
    if engine.listens_on_sockets:
        return EngineAddress(socket_path=Path(f"<sockets>/{index + 1}.sock"))
    return EngineAddress(port=_FIRST_PORT + index, key=_KEY)


def _record(name: str, command: EngineCommand) -> dict[str, Any]:
    return {
        "name": name,
        "argv": list(command.argv),
        "env": {k: "******" if k in command.secret_env else v for k, v in command.env.items()},
        "translated": [asdict(item) for item in command.translated],
        "unavailable": [asdict(item) for item in command.unavailable],
    }
