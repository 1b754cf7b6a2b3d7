"""Devices, and how the instance's models share them."""

from __future__ import annotations

from packaging.version import Version

from apps.vllm.history import why_missing
from apps.vllm.request import EngineRequest
from apps.vllm.translation.plain import lives, write_plain
from apps.vllm.translation.writer import CommandWriter
from common.engines.contract import Translated
from common.errors import Problem
from common.options.declaration import describe_options

TP = "--tensor-parallel-size"
PP = "--pipeline-parallel-size"
MEMORY = "--gpu-memory-utilization"
EXECUTOR = "--distributed-executor-backend"

_SHARED = 0.9
"""Share of the GPU memory that models together get by default: vLLM's own default for one."""

_LEAST = 0.02


def write_device(writer: CommandWriter) -> None:
    """Settle "Device": newer versions detect it, and the build decides between GPUs and CPU."""
    item = writer.one("--device")
    if item is None:
        return
    device, build = str(item.value).lower(), writer.facts.build
    if lives(writer, "--device"):
        write_plain(writer, item)
    elif device == "auto" or (device == "cuda" and build == "gpu"):
        writer.translate(item, "nothing: vLLM detects what it runs on")
    elif device == "cpu" and build == "cpu":
        writer.translate(item, "the CPU build of vLLM")
    else:
        kind = "GPUs" if build == "gpu" else "the CPU"
        reason = f"{why_missing('--device', writer.version)}; this one is built for {kind}"
        writer.give_up(item, reason)


def spread_over_gpus(writer: CommandWriter, *, by_default: bool) -> None:
    """Use all GPUs that are there unless told otherwise, and refuse to ask for more.

    Args:
        writer: The command, with all that the user said.
        by_default: Whether the number may be chosen here.
    """
    gpus = writer.facts.gpus
    is_elsewhere = writer.passed(EXECUTOR) == ("ray",) or writer.passed("--nnodes") is not None
    if gpus is None or writer.facts.build == "cpu":
        return
    stages, size = _number(writer, PP), _number(writer, TP)
    if writer.passed(TP) is None:
        default = gpus // stages
        if by_default and default > 1 and TP in writer.catalogue:
            writer.add((TP, str(default)))
            size = default
    if stages * size > gpus and not is_elsewhere:
        visible = "no GPU is" if gpus == 0 else f"{gpus} GPU{'s are' if gpus > 1 else ' is'}"
        product = f"{size} x {stages} stages" if stages > 1 else str(size)
        message = f"{product} GPUs are asked for, and {visible} visible to this instance"
        _refuse_gpus(writer, message)


def share_gpu_memory(writer: CommandWriter) -> None:
    """Divide the GPU memory between models that stay resident, unless the user did."""
    settings = writer.request.settings
    moves = any(
        getattr(getattr(settings, group), name, None)
        for group in settings.group_types()
        for name in ("enable_automatic_cpu_offloading", "enable_disk_swapping")
    )
    is_said = writer.is_said(MEMORY)
    if writer.facts.build == "cpu" or len(settings.models) < 2 or moves or is_said:
        return
    requests = [EngineRequest(model, settings) for model in settings.models]
    said = [share for request in requests if (share := request.value(MEMORY)) is not None]
    count = len(requests) - len(said)
    share = round((_SHARED - sum(said)) / max(count, 1), 3)
    option = next(o for o in describe_options(type(writer.request.model)) if o.flag == MEMORY)
    if share < _LEAST:
        message = f"must be set for each model: the others' leave nothing of {_SHARED:g}"
        writer.problems.append(Problem(message, option.title, option.name))
        return
    writer.add((MEMORY, f"{share:g}"))
    to = f"{MEMORY} {share:g}: what {count} models without a share of their own get of {_SHARED:g}"
    writer.translated.append(Translated(option.title, option.path, to))


def bind_threads(writer: CommandWriter) -> None:
    """Keep the CPU engines of several models from binding their threads to the same cores."""
    facts = writer.facts
    if facts.build != "cpu":
        return
    if facts.kv_cache_gib is not None:
        # vLLM reads a whole number, and chooses for itself at 0.
        writer.env["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, int(facts.kv_cache_gib)))
    if len(writer.request.settings.models) > 1:
        loose = "nobind" if writer.release >= Version("0.9.2") else "all"
        writer.env["VLLM_CPU_OMP_THREADS_BIND"] = loose
        writer.env["OMP_NUM_THREADS"] = str(writer.plan.threads)


def _number(writer: CommandWriter, flag: str) -> int:
    values = writer.passed(flag)
    return int(values[0]) if values and values[0].isdigit() else 1


def _refuse_gpus(writer: CommandWriter, message: str) -> None:
    items = writer.request.of(TP) or writer.request.of(PP)
    if items and writer.request.cli is None:
        option, value = items[0].option, items[0].value
        path = option.name if option.per_model else option.path
        writer.problems.append(Problem(message, option.title, path, value))
    else:
        field = "cli" if writer.request.cli is not None else "model_overrides"
        title = "CLI" if field == "cli" else "Model Overrides"
        writer.problems.append(Problem(message, title, field))
