"""What the scheduler says: its lines for the console, and why a request waited in vain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from common.errors import CapacityError, RequestError
from common.memory.contract import RESIDENT, Bytes, Tier
from common.memory.scheduled_model import ScheduledModel

MIN_RETRY_S = 1.0
MAX_RETRY_S = 60.0


def goes_to(tier: Tier, capacity: Bytes) -> str:
    """Return "goes to ..." for a tier, on a machine with such pools."""
    if tier is Tier.GPU:
        return "is loaded into memory" if RESIDENT in capacity else "goes to the GPU"
    return "goes to CPU RAM" if tier is Tier.CPU else "goes to disk"


def is_in(tier: Tier, capacity: Bytes) -> str:
    """Return "is in ..." for a tier, on a machine with such pools."""
    if tier is Tier.GPU:
        return "is in memory" if RESIDENT in capacity else "is on the GPU"
    return "is in CPU RAM" if tier is Tier.CPU else "is on disk"


def first_line(error: BaseException) -> str:
    """Return what an error says, without an engine's output that may follow."""
    return str(error).partition("\n")[0] or type(error).__name__


def too_late(
    model: ScheduledModel, models: Iterable[ScheduledModel], now: float, timeout_s: float
) -> CapacityError:
    """Return what a request is told that waited for as long as it may.

    Args:
        model: What it waited for.
        models: All models.
        now: The time, on the scheduler's clock.
        timeout_s: How long it waited, in seconds.
    """
    models = tuple(models)
    why = _why_not_ready(model, models, now)
    if model.shortage and model.shortage not in why:
        why = f"{why}; its last load failed ({model.shortage})"
    retry_s = min(MAX_RETRY_S, max(MIN_RETRY_S, expected_s(model, models, now)))
    return CapacityError(
        f'The model "{model.name}" was not ready within {round(timeout_s, 1):g} s: '
        f"{why}. Try again in {retry_s:.0f} s.",
        retry_after_s=retry_s,
    )


def superseded(name: str) -> RequestError:
    """Return what an operator is told whose wish another one undid."""
    return RequestError(
        f'The model "{name}" was asked to be elsewhere meanwhile.', status=409, code="superseded"
    )


def no_room(name: str, needed: str) -> RequestError:
    """Return what an operator is told who puts a model to sleep where it does not fit.

    Args:
        name: The model.
        needed: What it takes there, in words.
    """
    return RequestError(
        f'The model "{name}" cannot be put to sleep: that takes {needed}, which the others leave '
        "not free. Unload it instead, or unload another one first.",
        status=409,
        code="no_room",
    )


def expected_s(model: ScheduledModel, models: Sequence[ScheduledModel], now: float) -> float:
    """Return in how many seconds a model may be ready: its own load, and those in line before it."""
    if model.move is not None and model.move.to is Tier.GPU and not model.move.is_cancelled:
        return model.load_s - (now - model.move.since)
    before = sum(
        other.load_s
        for other in models
        if other is not model and other.tier is not Tier.GPU and _goes_first(other, model)
    )
    return before + model.load_s + max(0.0, model.retry_at - now)


def _goes_first(other: ScheduledModel, model: ScheduledModel) -> bool:
    since = other.waiters.oldest
    if since is None:
        return False
    mine = model.waiters.oldest
    return (-other.policy.priority, since) < (
        -model.policy.priority,
        since if mine is None else mine,
    )


def _why_not_ready(model: ScheduledModel, models: Sequence[ScheduledModel], now: float) -> str:
    move = model.move
    if move is not None and move.to is Tier.GPU:
        last = f"its load began {now - move.since:.1f} s ago and may take {model.load_s:.1f} s"
        return (
            f"{last}; nobody waited for it and it is being stopped" if move.is_cancelled else last
        )
    if move is not None:
        return "it is just being put aside, and is loaded again afterwards"
    if now < model.retry_at:
        return (
            f"its last load failed ({model.shortage}) and is tried again in "
            f"{model.retry_at - now:.1f} s"
        )
    if model.is_to_leave:
        return "an operator is putting it aside, and it is loaded again afterwards"
    if model.tier is Tier.GPU:
        return (
            f"it gives way to another model, and still has {_requests(model.in_use)} to answer "
            "before it can be put aside and loaded again"
        )
    holders = [
        _holder(other) for other in models if other is not model and _holds_from(other, model)
    ]
    if not holders:
        return "there is not enough free memory for it now"
    verb = "holds" if len(holders) == 1 else "hold"
    return f"{', '.join(holders)} {verb} the memory that it needs"


def _holds_from(other: ScheduledModel, model: ScheduledModel) -> bool:
    """Whether a model has, or is about to have, memory of the pools that another one needs."""
    tiers = [other.tier] + ([other.move.to] if other.move is not None else [])
    return any(
        other.footprint.of(tier).get(pool, 0) > 0
        for tier in tiers
        for pool, needed in model.footprint.gpu.items()
        if needed > 0
    )


def _holder(model: ScheduledModel) -> str:
    facts = []
    if model.move is not None:
        facts.append("being loaded" if model.move.to is Tier.GPU else "being put aside")
    elif model.tier is Tier.CPU:
        facts.append("asleep")
    if model.policy.pinned:
        facts.append("pinned")
    if model.in_use:
        facts.append(_requests(model.in_use))
    return f'"{model.name}" ({", ".join(facts)})' if facts else f'"{model.name}"'


def _requests(count: int) -> str:
    return f"{count} request{'s' if count != 1 else ''}"
