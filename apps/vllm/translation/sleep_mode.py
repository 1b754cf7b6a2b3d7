"""Whether an engine can be put to sleep, and what its command needs for that. Pure.

Sleep level 1 keeps the weights in host RAM; level 2 drops them and has them read again.

* The routes for it are vLLM's development routes, which ask for no key (only paths below ``/v1`` and
  the like do), and one of which calls any method of the workers. So they are opened only where the
  engine listens on a Unix socket in the instance's private folder.
* Level 2 reads the weights of the model itself, in the form of its files: what else lies in the
  memory that it drops (a draft model, adapters, quantised layers of older versions) comes back as
  garbage without any error (vLLM's issues 28714, 29341, 34201). It is used only where there is none.

Source: https://docs.vllm.ai/en/latest/features/sleep_mode/ and docs/usage/security.md of vLLM.
"""

from __future__ import annotations

from typing import Final

from packaging.version import Version

from apps.vllm.translation.config_overrides import read_config
from apps.vllm.translation.machine import DP, spans_machines
from apps.vllm.translation.writer import CommandWriter

SLEEP: Final = "--enable-sleep-mode"
DEVELOPMENT: Final = "VLLM_SERVER_DEV_MODE"
"""Opens the development routes."""

_OLDEST: Final = Version("0.11.0")
"""Both levels work with V1, and it can listen on a Unix socket."""
_RELOADS: Final = Version("0.20.0")
"""Weights are reloaded layer by layer, through the same steps as at the first load."""
_WAITS: Final = Version("0.17.0")
"""``/sleep`` takes ``mode``: what becomes of requests that run."""

_NOT_RELOADED: Final = {
    "--quantization": "its weights are quantised when they are loaded",
    "--enable-lora": "its adapters would be lost",
    "--speculative-config": "its draft model would be lost",
    "--spec-model": "its draft model would be lost",
    "--spec-method": "its draft model would be lost",
    "--load-format": "its files are read in a way of their own",
    "--cpu-offload-gb": "a part of its weights is in host RAM",
}


def takes_turns(writer: CommandWriter) -> bool:
    """Whether the instance's models may be put aside at all."""
    memory = writer.request.settings.memory
    return memory.cpu_offloading or memory.disk_swapping


def sleep_obstacle(writer: CommandWriter) -> str | None:
    """Why the engine of a command cannot sleep, in words that follow its model's name; None: it can.

    Args:
        writer: The command, with all that the user said.
    """
    if writer.facts.build == "cpu":
        return "vLLM for the CPU has no sleep mode"
    if writer.release < _OLDEST or SLEEP not in writer.catalogue:
        return f"vLLM {writer.version} has no sleep mode that can be used; {_OLDEST} and later have"
    if writer.is_said(SLEEP) and writer.passed(SLEEP) is None:
        return f"{SLEEP} is switched off in its options"
    if writer.plan.address.socket_path is None:
        return (
            "its sleep routes ask for no key, and it listens on a port that others on this machine "
            "reach"
        )
    if spans_machines(writer):
        return "it may run on several machines"
    if writer.passed(DP) not in (None, ("1",)):
        return "with data parallelism only one of its engines tells whether it sleeps"
    return None


def reload_obstacle(writer: CommandWriter) -> str | None:
    """Why an engine that can sleep cannot read its weights again (level 2); None: it can."""
    if writer.release < _RELOADS:
        return f"vLLM {writer.version} does not reload weights reliably; {_RELOADS} and later do"
    for flag, reason in _NOT_RELOADED.items():
        if writer.is_said(flag):
            return reason
    config = read_config(writer.plan.path)
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    if any(part.get("quantization_config") for part in parts):
        return "its weights are quantised"
    return None


def can_wait(writer: CommandWriter) -> bool:
    """Whether its ``/sleep`` can wait for requests instead of ending them."""
    return writer.release >= _WAITS


def allow_sleep(writer: CommandWriter) -> None:
    """Have the engine allocate its memory so that it can sleep, where models take turns."""
    if not takes_turns(writer) or sleep_obstacle(writer) is not None:
        return
    if writer.passed(SLEEP) is None:
        writer.offer((SLEEP,))
    writer.env[DEVELOPMENT] = "1"
    if not writer.is_said("--log-error-stack"):
        # It would be on, as everything that helps a developer.
        writer.offer(("--no-log-error-stack",))
