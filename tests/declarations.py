"""What the tests of all forms ask: which fields are declared, and what is wrong with parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from common.errors import ConfigurationError, Problem
from common.options.declaration import Option
from common.options.loading import load_settings
from common.runtime.app import AnySettings

Field = tuple[str, str, str | None]
"""Title, name, and the engine's flag or variable that the field stands for; None where it is ours."""

OURS_IN_GENERAL = (
    "gateway_route",
    "auth",
    "api_key",
    "host",
    "port",
    "public_url",
    "tls_certificate_file",
    "tls_key_file",
    "cors_origins",
    "drain_seconds",
    "max_body_mib",
)

OURS_IN_MODEL = (
    "max_waiting_requests",
    "max_queue_seconds",
    "cancel_on_disconnect",
    "priority",
    "pinned",
    "preload",
    "idle_offload_minutes",
    "max_wait_seconds",
    "save_prompt_cache",
)

BESIDE_THE_SEEDS = ("max_host_memory_gib",)
"""Ours among General's, next to the field of the seed that they go with."""


def problems_of(settings: type[AnySettings], parameters: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with these parameters; something must be."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings(settings, parameters)
    return list(caught.value.problems)


def options_by_path(settings: type[AnySettings]) -> dict[str, Option]:
    """Every parameter of a form."""
    return {option.path: option for option in settings.options(entry=False)}


def assert_declares(
    settings: type[AnySettings],
    seed: Mapping[str, Sequence[Field]],
    added: Sequence[str] = OURS_IN_GENERAL,
) -> None:
    """A form has the seed's fields by group, in order, ours among a model's and General's, and behind those."""
    by_group: dict[str, list[Field]] = {}
    for option in settings.options(entry=False):
        by_group.setdefault(option.group, []).append((option.title, option.name, option.flag))
    if "Model" in by_group:
        by_group["Model"] = [f for f in by_group["Model"] if f[1] not in OURS_IN_MODEL]
    by_group["General"] = [f for f in by_group["General"] if f[1] not in BESIDE_THE_SEEDS]
    ours = by_group["General"][len(seed["General"]) :]
    assert [(name, flag) for _, name, flag in ours] == [(name, None) for name in added]
    by_group["General"] = by_group["General"][: len(seed["General"])]
    assert list(by_group.items()) == [(group, [*fields]) for group, fields in seed.items()]
