"""Flags that live on under another name or in another form."""

from __future__ import annotations

from packaging.version import Version

from apps.vllm.history import why_missing
from apps.vllm.translation.engine_choice import V1_BACKENDS
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
        # The parser of 0.8 enforces three or five values, as chance orders them at its start.
        is_fickle = Version("0.8") <= writer.release < Version("0.9")
        if is_fickle and item.value not in V1_BACKENDS:
            safe = ", ".join(V1_BACKENDS)
            reason = (
                f"vLLM {writer.version} takes {item.value!r} at some starts only; {safe} always"
            )
            writer.give_up(item, reason)
        else:
            write_plain(writer, item)
    elif "--structured-outputs-config" in writer.catalogue:
        value = compact({"backend": item.value})
        writer.translate(item, "", ("--structured-outputs-config", value))
    else:
        write_plain(writer, item)


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


def write_lora_rank(writer: CommandWriter) -> None:
    """Settle "Max LoRA Rank" where only some ranks are allowed: the next one holds it too."""
    item = writer.one("--max-lora-rank")
    found = writer.catalogue.find("--max-lora-rank")
    if item is None or found is None or found.accepts(item.value):
        return
    ranks = sorted(int(choice) for choice in found.choices if choice.isdigit())
    larger = next((rank for rank in ranks if rank >= int(item.value)), None)
    if larger is None:
        reason = f"vLLM {writer.version} takes a rank of {ranks[-1]} at most"
        writer.give_up(item, reason)
    else:
        writer.translate(item, "", (found.name, str(larger)))
