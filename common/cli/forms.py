"""``clearml-deploy forms``: the launch forms of a ClearML server that has application forms."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import click

from common.cli.inputs import APP_NAMES, load_app
from common.errors import InternalError, UserError
from common.forms.document import SUFFIX, UNKNOWN_REPOSITORY, Deployment, render_form, write_form
from common.forms.outline import outline_of
from common.forms.overrides import apply_overrides
from common.forms.package import ASSETS, pack_files
from common.forms.syntax import assets_of, check_form
from common.launch.source import requirements

FOLDER = Path(__file__).resolve().parents[2] / "app_forms"

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group()
def forms() -> None:
    """The launch forms for servers that have application forms (ClearML Enterprise).

    They are derived from the options' declarations and kept in app_forms/ of this repository.
    """


def _form_options(command: Command) -> Command:
    """What the server's administrator decides."""
    for decorate in (
        click.option(
            "--image",
            "images",
            multiple=True,
            metavar="[APP=]IMAGE",
            help="Container image of the tasks, or of those of one APP; may be repeated.",
        ),
        click.option(
            "--default-queue",
            default=Deployment.queue,
            show_default=True,
            help="Queue of instances whose form names none.",
        ),
        click.option(
            "--branch", default=Deployment.branch, show_default=True, help="Branch of --repository."
        ),
        click.option(
            "--repository",
            default=UNKNOWN_REPOSITORY,
            help="Git URL of this program, as the workers reach it.",
        ),
        click.option(
            "--overrides",
            type=click.Path(path_type=Path, dir_okay=False),
            help="HOCON or JSON file with app_wizard_overrides: options, default, placeholder, hint "
            "and info, by application and field.",
        ),
    ):
        command = decorate(command)
    return command


def _folder_option(help_text: str, default: Path) -> Callable[[Command], Command]:
    return click.option(
        "-o",
        "--output",
        "folder",
        type=click.Path(path_type=Path, file_okay=False),
        default=default,
        help=help_text,
    )


@forms.command()
@_folder_option("Folder to write to; default: app_forms/ of this checkout.", FOLDER)
@_form_options
def build(folder: Path, **given: Any) -> None:
    """Write every form, and asset, that is missing or stale, and name it.

    \b
    Examples:
      clearml-deploy forms build
      clearml-deploy forms build -o ./forms --repository https://git.example.com/clearml-deploy.git
    """
    for name, content in _files(**given).items():
        if not _is_current(folder / name, content):
            _write(folder / name, content)
            click.echo(f"written: {folder / name}")


@forms.command()
@_folder_option("Folder to check; default: app_forms/ of this checkout.", FOLDER)
@_form_options
def check(folder: Path, **given: Any) -> None:
    """Name every form that is missing or stale; exit code 1 if there is one.

    A form that does not conform to the documented syntax is an error of its own.

    \b
    Example:
      clearml-deploy forms check
    """
    files = _files(**given)
    stale = [name for name, content in files.items() if not _is_current(folder / name, content)]
    for name in stale:
        click.echo(f"stale: {folder / name} (clearml-deploy forms build)", err=True)
    if stale:
        sys.exit(1)


@forms.command()
@_folder_option("Folder to write to; default: the current one.", Path())
@_form_options
def package(folder: Path, **given: Any) -> None:
    """Write a zip archive per app, as a server's upload_apps.py takes it; the same input, the same bytes.

    \b
    Examples:
      clearml-deploy forms package --repository https://git.acme.com/clearml-deploy.git -o dist
      clearml-deploy forms package --repository https://git.acme.com/clearml-deploy.git -o dist \\
          --image llamacpp=acme/clearml-deploy-llamacpp:1 --image vllm=acme/clearml-deploy-vllm:1
    """
    if given["repository"] == UNKNOWN_REPOSITORY:
        click.echo(
            f"warning: no --repository given: instances would look for the program at "
            f"{UNKNOWN_REPOSITORY}, which does not exist",
            err=True,
        )
    folder.mkdir(parents=True, exist_ok=True)
    for app_name, form in _documents(**given).items():
        files = {f"{app_name}{SUFFIX}": render_form(form).encode()}
        files |= {f"{ASSETS}/{name}": _assets()[name] for name in assets_of(form)}
        path = folder / f"{app_name}.zip"
        _write(path, pack_files(files))
        click.echo(f"written: {path}")


def _files(**given: Any) -> dict[str, bytes]:
    """Every file of the forms' folder."""
    files = {
        f"{name}{SUFFIX}": render_form(form).encode() for name, form in _documents(**given).items()
    }
    return files | {f"{ASSETS}/{name}": content for name, content in _assets().items()}


def _documents(
    overrides: Path | None,
    repository: str,
    branch: str,
    default_queue: str,
    images: tuple[str, ...],
) -> dict[str, dict[str, Any]]:
    """The form of every app.

    Raises:
        ConfigurationError: Overrides that fit no form.
        UserError: The overrides cannot be read, or the program does not run from a checkout.
        BadParameter: An image of an app that there is not.
    """
    image_of = _read_images(images)
    assets = _assets()
    documents: dict[str, dict[str, Any]] = {}
    for name in APP_NAMES:
        app = load_app(name)
        documents[name] = write_form(
            outline_of(name),
            app.settings,
            title=app.title,
            version=metadata.version("clearml-deploy"),
            packages=requirements(name),
            deployment=Deployment(
                repository, branch, default_queue, image_of.get(name, image_of.get("", ""))
            ),
        )
    if overrides is not None:
        by_id = {form["id"]: form for form in documents.values()}
        changed = apply_overrides(by_id, _read_overrides(overrides))
        documents = {name: changed[form["id"]] for name, form in documents.items()}
    for name, form in documents.items():
        if problems := check_form(form, assets):
            raise InternalError(f"The form of {name} does not conform: {'; '.join(problems)}")
    return documents


def _read_images(images: tuple[str, ...]) -> dict[str, str]:
    """Image by app; under no name the one of the other apps."""
    found = {}
    for given in images:
        app_name, equals, image = given.rpartition("=")
        if equals and app_name not in APP_NAMES:
            raise click.BadParameter(
                f"{app_name!r} is none of {', '.join(APP_NAMES)}.", param_hint="--image"
            )
        found[app_name] = image
    return found


def _read_overrides(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    try:
        return json.loads(text)
    except ValueError:
        return _read_hocon(path, text)


def _read_hocon(path: Path, text: str) -> Any:
    try:
        from pyhocon import ConfigFactory
        from pyhocon.exceptions import ConfigException
        from pyparsing import ParseBaseException
    except ImportError:
        raise UserError(f"{path} is no JSON; to read HOCON, install: pip install pyhocon") from None
    try:
        return ConfigFactory.parse_string(text).as_plain_ordered_dict()
    except (ConfigException, ParseBaseException) as error:
        raise UserError(f"{path} is neither JSON nor HOCON: {error}") from error


def _assets() -> dict[str, bytes]:
    folder = FOLDER / ASSETS
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Run this in a checkout of the program.")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def _is_current(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
