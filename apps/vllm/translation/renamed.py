"""Flags that live on under another name or in another form."""

from __future__ import annotations

from packaging.version import Version

from apps.vllm.history import why_missing
from apps.vllm.translation.engine_choice import V1_BACKENDS, wants_v1
from apps.vllm.translation.plain import give_up_missing, lives, write_plain, write_value
from apps.vllm.translation.writer import CommandWriter, compact
from common.options.structured import read_object

_CONVERT = {
    "embedding": "embed",
    "embed": "embed",
    "classify": "classify",
    "score": "classify",
    "reward": "reward",
}
_RUNNERS = ("generate", "transcription")

# The first version with a pooler's `use_activation`, and with more than a number in a media limit.
_ONE_ACTIVATION = Version("0.11.1")
_LIMIT_OBJECTS = Version("0.11.1")

_LATER_SIZES = Version("0.8")
_RANKS = (8, 16, 32, 64, 128, 256)
_LORA_SIZES = {
    "--max-lora-rank": (_RANKS, (*_RANKS, 320, 512)),
    "--lora-extra-vocab-size": ((0, 256, 512), (256, 512)),
}


def write_task(writer: CommandWriter) -> None:
    """Settle "Task": --task, or --runner and --convert since there are those."""
    item = writer.one("--task")
    if item is None:
        return
    task = str(item.value)
    found = writer.catalogue.find("--task")
    runner = writer.catalogue.find("--runner")
    if found is not None and (not found.deprecated or runner is None):
        if not found.accepts(task) and task == "embedding" and found.accepts("embed"):
            writer.translate(item, "", ("--task", "embed"))
        else:
            write_value(writer, item, found)
    elif runner is None:
        give_up_missing(writer, item)
    elif task == "auto":
        writer.translate(item, "nothing: vLLM finds out what the model is for")
    elif task in _RUNNERS:
        writer.translate(item, "", ("--runner", "generate"))
    else:
        convert, conversion = writer.catalogue.find("--convert"), _CONVERT.get(task, task)
        if convert is None or not convert.accepts(conversion):
            writer.give_up(item, f"{why_missing('--task', writer.version)}, which have no {task!r}")
        else:
            writer.translate(item, "", ("--runner", "pooling"), ("--convert", conversion))


def write_guided_decoding(writer: CommandWriter) -> None:
    """Settle "Guided Decoding Backend"."""
    item = writer.one("--guided-decoding-backend")
    if item is None:
        return
    if lives(writer, item.flag):
        safe = _safe_backends(writer)
        if safe and item.value not in safe:
            reason = f"vLLM {writer.version} takes {item.value!r} at some starts only; "
            writer.give_up(item, f"{reason}{', '.join(safe)} always")
        else:
            write_plain(writer, item)
    elif "--structured-outputs-config" in writer.catalogue:
        value = compact({"backend": item.value})
        writer.translate(item, "", ("--structured-outputs-config", value))
    else:
        write_plain(writer, item)


def _safe_backends(writer: CommandWriter) -> tuple[str, ...]:
    """What a vLLM 0.8 takes at every start; empty for other versions.

    0.8.5 enforces three or five values, as chance orders them. Those before take any, and refuse
    later what the engine that they have chosen, V0 or V1, does not know.
    """
    if not Version("0.8") <= writer.release < Version("0.9"):
        return ()
    if writer.release >= Version("0.8.5"):
        return V1_BACKENDS
    if wants_v1(writer):
        return V1_BACKENDS if writer.release >= Version("0.8.2") else ("xgrammar",)
    return ("outlines", "lm-format-enforcer", "xgrammar")


def write_prompt_adapters(writer: CommandWriter) -> None:
    """Settle "Enable Prompt Adapter", which needs to know how large one may be."""
    item = writer.one("--enable-prompt-adapter")
    tokens = "--max-prompt-adapter-token"
    if item is None or not (item.value and lives(writer, item.flag)):
        return
    if not writer.request.of(tokens) and not writer.is_overridden(tokens):
        message = 'needs "Max Prompt Adapter Token" (Advanced/max_prompt_adapter_token)'
        writer.refuse(item, f"{message} with vLLM {writer.version}")


def write_pooler(writer: CommandWriter) -> None:
    """Settle "Override Pooler Config", whose keys changed with its flag's name."""
    item = writer.one("--override-pooler-config")
    if item is None:
        return
    if lives(writer, item.flag) or "--pooler-config" not in writer.catalogue:
        write_plain(writer, item)
        return
    config = read_object(item.value)
    for old in ("normalize", "softmax", "activation"):
        if old in config and writer.release >= _ONE_ACTIVATION:
            config.setdefault("use_activation", config.pop(old))
    writer.translate(item, "", ("--pooler-config", compact(config)))


def write_media_limit(writer: CommandWriter) -> None:
    """Settle "Multimedia Limit per Prompt": image=2,video=1 as it is typed, or JSON."""
    item = writer.one("--limit-mm-per-prompt")
    found = writer.catalogue.find("--limit-mm-per-prompt")
    if item is None or found is None:
        return
    limits = read_object(item.value)
    is_list = found.type == "kv_list"
    has_objects = any(isinstance(limit, dict) for limit in limits.values())
    if has_objects and (is_list or writer.release < _LIMIT_OBJECTS):
        writer.give_up(item, f"vLLM {writer.version} takes a number for each kind, no object")
    elif is_list:
        text = ",".join(f"{kind}={number}" for kind, number in limits.items())
        writer.pass_(item, (found.name, text))
    else:
        writer.translate(item, "", (found.name, compact(limits)))


def write_lora_sizes(writer: CommandWriter) -> None:
    """Settle the LoRA sizes of which only some are allowed: the next larger one holds it too."""
    for flag, (first, later) in _LORA_SIZES.items():
        item, found = writer.one(flag), writer.catalogue.find(flag)
        if item is None or found is None:
            continue
        # Where the parser takes any number, the engine refuses it later.
        choices = sorted(int(size) for size in found.choices if size.isdigit())
        sizes = choices or (later if writer.release >= _LATER_SIZES else first)
        larger = next((size for size in sizes if size >= int(item.value)), None)
        if larger is None:
            reason = f"vLLM {writer.version} takes {sizes[-1]} at most for {flag}"
            writer.give_up(item, reason)
        elif larger != item.value:
            writer.translate(item, "", (found.name, str(larger)))
