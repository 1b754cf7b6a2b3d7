"""What would run for a configuration, without running or fetching anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.engines.contract import EngineAddress, EngineCommand
from common.engines.cpu import default_threads
from common.errors import ConfigurationError, Problem
from common.models.reference import default_endpoint_name, parse_reference
from common.runtime.app import App, ModelPlan
from common.runtime.checking import check_parameters


def preview(
    app: App, parameters: Mapping[str, Any], environ: Mapping[str, str], catalogue: Path | None
) -> dict[str, Any]:
    """The command of every model, as ``clearml-deploy command --json`` prints it.

    Args:
        app: The app.
        parameters: ``Section/name`` to value.
        environ: Where the engine is looked up.
        catalogue: A file of engine flags to use instead of the installed engine.

    Raises:
        ConfigurationError: All problems of the configuration.
    """
    if catalogue is not None:
        with_flags = getattr(app, "with_catalogue", None)
        if with_flags is None:
            raise ConfigurationError([Problem(f"{app.title} takes no --flags catalogue")])
        app = with_flags(catalogue)
    checked = check_parameters(app, parameters, environ, app.preview_engine)
    models = []
    threads = default_threads(len(checked.settings.models))
    for index, options in enumerate(checked.settings.models):
        reference = parse_reference(options.reference)
        name = options.endpoint_name or default_endpoint_name(reference, None)
        # A stand-in: the files are known only once they are fetched.
        file = Path(reference.local) if reference.local else Path(f"<{options.reference}>")
        plan = ModelPlan(
            name=name,
            options=options,
            path=file,
            files=(file,),
            address=EngineAddress(socket_path=Path(f"<socket {index + 1}>.sock")),
            threads=threads,
        )
        models.append(_record(name, checked.engine.command(plan, checked.settings)))
    return {"models": models, "engine_version": checked.engine.version}


def _record(name: str, command: EngineCommand) -> dict[str, Any]:
    return {
        "name": name,
        "argv": list(command.argv),
        "env": {k: "******" if k in command.secret_env else v for k, v in command.env.items()},
        "translated": [asdict(item) for item in command.translated],
        "unavailable": [asdict(item) for item in command.unavailable],
    }
