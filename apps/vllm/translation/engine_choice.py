"""The V0 and the V1 engine: a choice up to vLLM 0.10, none since."""

from __future__ import annotations

from typing import Final

from packaging.version import Version

from apps.vllm.history import V0_ONLY
from apps.vllm.request import Given
from apps.vllm.translation.writer import CommandWriter

USE_V1: Final = "VLLM_USE_V1"
V1_BACKENDS: Final = ("auto", "xgrammar", "guidance")
"""Backends for structured output that the V1 engine had before 0.11."""

_ONLY_V1 = Version("0.11")
_V1_LEARNT_TASKS = Version("0.9")


def write_engine_choice(writer: CommandWriter) -> None:
    """Settle "Use V1 Engine", and what the V1 engine refuses where it was asked for."""
    for item in writer.open(USE_V1):
        if writer.release < _ONLY_V1:
            writer.set_env(item, "1" if item.value else "0")
        elif item.value:
            writer.translate(item, "nothing: V1 is the only engine of this version")
        else:
            writer.give_up(
                item, f"vLLM {writer.version} has the V1 engine only, as all from 0.11 on"
            )
    if not wants_v1(writer):
        return
    for item in writer.open():
        if item.flag in writer.catalogue and _is_v0_only(writer, item):
            writer.give_up(item, why_v0(item.flag))


def wants_v1(writer: CommandWriter) -> bool:
    """Whether the user asked for V1 where there is a choice: V0's options then stop the start."""
    return writer.release < _ONLY_V1 and writer.request.value(USE_V1) is True


def why_v0(flag: str) -> str:
    """Say that an option cannot stand beside "Use V1 Engine"."""
    return f'"Use V1 Engine" is on, and of this version only the V0 engine has {flag}'


def _is_v0_only(writer: CommandWriter, item: Given) -> bool:
    if item.flag in V0_ONLY:
        return item.value is not False
    if item.flag == "--guided-decoding-backend":
        return item.value not in V1_BACKENDS
    if writer.release >= _V1_LEARNT_TASKS:
        return False
    if item.flag == "--scheduling-policy":
        return bool(item.value != "fcfs")
    return item.flag == "--task" and item.value not in ("auto", "generate")
