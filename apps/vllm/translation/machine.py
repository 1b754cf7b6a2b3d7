"""Devices, and how the instance's models share them."""

from __future__ import annotations

from packaging.version import Version

from apps.vllm.history import why_missing
from apps.vllm.request import EngineRequest
from apps.vllm.translation.plain import lives, write_plain
from apps.vllm.translation.writer import CommandWriter
from common.engines.contract import Translated
from common.errors import Problem
from common.options.cli_field import last_value
from common.options.declaration import describe_options

TP = "--tensor-parallel-size"
PP = "--pipeline-parallel-size"
DP = "--data-parallel-size"
MEMORY = "--gpu-memory-utilization"
EXECUTOR = "--distributed-executor-backend"

_SHARED = 0.9
"""Share of the GPU memory that models together get by default: vLLM's own default for one."""


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


def write_profiling(writer: CommandWriter) -> None:
    """Settle "Ray Workers Use Nsight": vLLM refuses it where the workers are not Ray's."""
    executor = writer.passed(EXECUTOR) or (writer.request.value(EXECUTOR),)
    for item in writer.open("--ray-workers-use-nsight"):
        if item.value and executor != ("ray",):
            reason = 'there are no workers of Ray: "Distributed Executor Backend" is not ray'
            writer.give_up(item, reason)


def spread_over_gpus(writer: CommandWriter, *, by_default: bool) -> None:
    """Use all GPUs that are there unless told otherwise, and refuse to ask for more.

    Args:
        writer: The command, with all that the user said.
        by_default: Whether the number may be chosen here.
    """
    gpus = writer.facts.gpus
    if gpus is None or writer.facts.build == "cpu" or spans_machines(writer):
        return
    others = _number(writer, PP) * _number(writer, DP)
    size = _number(writer, TP)
    if by_default and not writer.is_said(TP) and gpus // others > 1:
        size = gpus // others
        writer.offer((TP, str(size)))
    if size * others > gpus:
        visible = "no GPU is" if gpus == 0 else f"{gpus} GPU{'s are' if gpus > 1 else ' is'}"
        product = f" ({size} x {others})" if others > 1 and size > 1 else ""
        message = (
            f"{size * others} GPUs{product} are asked for, and {visible} visible to this instance"
        )
        _refuse_gpus(writer, message)


def spans_machines(writer: CommandWriter) -> bool:
    """Whether the model may run on other machines too, whose GPUs are not seen from here."""
    flags = ("--nnodes", "--data-parallel-address", "--data-parallel-size-local")
    return writer.passed(EXECUTOR) == ("ray",) or any(map(writer.is_said, flags))


def share_gpu_memory(writer: CommandWriter) -> None:
    """Divide the GPU memory between models that stay resident, unless the user did."""
    settings = writer.request.settings
    moves = any(
        getattr(getattr(settings, group), name, None)
        for group in settings.group_types()
        for name in ("enable_automatic_cpu_offloading", "enable_disk_swapping")
    )
    is_alone = len(settings.models) < 2 or moves or writer.facts.build == "cpu"
    if is_alone or writer.is_said(MEMORY) or MEMORY not in writer.catalogue:
        return
    shares = [said_share(EngineRequest(model, settings)) for model in settings.models]
    count = shares.count(None)
    share = round((_SHARED - sum(share or 0 for share in shares)) / max(count, 1), 3)
    if share <= 0:
        return  # the engine tells what it lacks
    option = next(o for o in describe_options(type(writer.request.model)) if o.flag == MEMORY)
    writer.add((MEMORY, f"{share:g}"))
    to = f"{MEMORY} {share:g}: of {_SHARED:g}, each model without a share of its own gets as much"
    writer.translated.append(Translated(option.title, option.path, to))


def fit_into_memory(writer: CommandWriter) -> None:
    """Pass what makes the model fit (`ModelPlan.fitted`) in place of what was said of it."""
    for flag, value in writer.plan.fitted.items():
        if flag not in writer.catalogue:
            continue
        kept: list[str] = []
        words = iter(writer.arguments)
        for word in words:
            name, equals, _ = word.partition("=")
            found = writer.catalogue.find(name) if name.startswith("-") else None
            if found is None or found is not writer.catalogue.find(flag):
                kept.append(word)
            elif not equals:
                next(words, None)  # its value
        writer.arguments[:] = kept
        writer.add((flag, value))


def said_share(request: EngineRequest) -> float | None:
    """The share of the GPU memory that a model was given, wherever that is said."""
    name = MEMORY.lstrip("-")
    if request.cli:
        said: object = last_value(request.cli, (MEMORY, MEMORY.replace("-", "_")))
    else:
        overrides = {key.replace("_", "-"): value for key, value in request.overrides.items()}
        said = overrides.get(name, request.value(MEMORY))
    try:
        return float(str(said))
    except ValueError:
        return None


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
