"""The files of an instance's models and of their companions; what several want is fetched once."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import ConfigurationError, DeployError, Problem
from common.models.fetch import ModelFiles, fetch, peek
from common.models.progress import FetchCancelledError, ProgressEvent
from common.models.repository import ADAPTER_CONFIG, read_json
from common.models.use import InUse
from common.options.settings import ModelOptions
from common.runtime.app import Companion
from common.runtime.background import in_background
from common.runtime.progress_pace import ProgressPace

Say = Callable[[str, bool], None]
"""Gets a line of progress, and whether it is worth a line of a log that is read later."""

_CONFIG = "config.json"


class Fetching:
    """Fetches for one instance and holds on to what it fetched until `close`.

    Args:
        token: Hugging Face token; None: the environment's.
        cancel: Set by the owner to end every fetch.
    """

    def __init__(self, token: str | None, cancel: threading.Event) -> None:
        self._token = token
        self._cancel = cancel
        self._in_use: list[InUse] = []
        self._companions: dict[tuple[str, str | None, str], asyncio.Task[ModelFiles]] = {}

    async def config(self, options: ModelOptions) -> Mapping[str, Any] | None:
        """What a repository's ``config.json`` says; None where it cannot be told before the fetch.

        Raises:
            DeployError: As `fetch`; ModelFormatError for a file that is no JSON object.
        """
        found = await in_background(
            peek,
            options.reference,
            token=self._token,
            revision=options.model_revision,
            names=(_CONFIG,),
            cancel=self._cancel,
        )
        path = found.get(_CONFIG)
        return None if path is None else read_json(path, options.reference)

    async def model(self, options: ModelOptions, want: str, say: Say) -> ModelFiles:
        """The files of a model.

        Args:
            options: The model.
            want: As `common.models.fetch.fetch` has it.
            say: Gets lines of progress, from another thread.

        Raises:
            DeployError: As `fetch`.
        """
        return await self._fetch(options.reference, options.model_revision, want, say)

    async def companion(self, companion: Companion, say: Say) -> Path:
        """Where a companion lies once it is fetched.

        Raises:
            DeployError: As `fetch`, with the option's title and path.
        """
        key = (companion.reference, companion.revision, companion.want)
        if companion.key.startswith("lora:"):
            await self._check_adapter(companion)
        fetching = self._companions.get(key)
        if fetching is None:
            label = _label(companion)
            fetching = self._companions[key] = asyncio.create_task(
                self._fetch(*key, lambda text, is_due: say(f"{label}: {text}", is_due))
            )
        try:
            # The others that wait for it must not lose it with this one.
            return (await asyncio.shield(fetching)).first
        except FetchCancelledError:
            raise
        except DeployError as error:
            raise _about(companion, error) from error

    async def close(self) -> None:
        """Give up what still runs and let go of all files; `cancel` must be set."""
        for fetching in self._companions.values():
            fetching.cancel()
        await asyncio.gather(*self._companions.values(), return_exceptions=True)
        for held in self._in_use:
            held.release()

    async def _check_adapter(self, companion: Companion) -> None:
        """Refuse a whole model in an adapter's place before its weights come."""
        try:
            found = await in_background(
                peek,
                companion.reference,
                token=self._token,
                revision=companion.revision,
                names=(ADAPTER_CONFIG, _CONFIG),
                cancel=self._cancel,
            )
        except FetchCancelledError:
            raise
        except DeployError as error:
            raise _about(companion, error) from error
        # Of a ClearML model nothing is known before it is fetched.
        if found and ADAPTER_CONFIG not in found:
            message = (
                f"{companion.reference} is no LoRA adapter: it has no {ADAPTER_CONFIG}, and a model's "
                f"{_CONFIG}. Give the adapter that was trained for the model"
            )
            raise ConfigurationError([Problem(message, companion.title, companion.path)])

    async def _fetch(self, reference: str, revision: str | None, want: str, say: Say) -> ModelFiles:
        # One for each: fetches run in threads, and an `InUse` belongs to one of them.
        held = InUse()
        self._in_use.append(held)

        pace = ProgressPace()

        def progress(event: ProgressEvent) -> None:
            say(str(event), pace.is_due(event, time.monotonic()))

        return await in_background(
            fetch,
            reference,
            token=self._token,
            revision=revision,
            progress=progress,
            want=want,
            cancel=self._cancel,
            in_use=held,
        )


def _label(companion: Companion) -> str:
    """What the user calls it: ``tokenizer``, ``draft model``, ``LoRA sql``."""
    kind, _, name = companion.key.partition(":")
    words = "LoRA" if kind == "lora" else kind.replace("_", " ")
    return f"{words} {name}".strip()


def _about(companion: Companion, error: DeployError) -> DeployError:
    """The same error, with the option that asked for the companion."""
    if isinstance(error, ConfigurationError):
        return ConfigurationError(
            [
                replace(problem, title=companion.title, path=companion.path)
                for problem in error.problems
            ]
        )
    told = copy.copy(error)
    told.args = (f'"{companion.title}" ({companion.path}): {error}',)
    return told
