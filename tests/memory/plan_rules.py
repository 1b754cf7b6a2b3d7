"""The rules that a plan must keep, checked on the plan and its world alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from common.memory.contract import ModelState, Plan, Tier, World


def is_overdue(model: ModelState, now: float) -> bool:
    """Whether one of its requests has waited too long."""
    return model.oldest_wait is not None and now >= model.oldest_wait + model.policy.max_wait_s


def check_plan(world: World, decided: Plan, told: Callable[[str], str]) -> None:
    """Check one plan against the rules, without knowing how it was made."""
    models = {model.name: model for model in world.models}
    now = world.now

    def must(is_so: bool, text: str) -> None:
        if not is_so:
            raise AssertionError(told(f"{text}\n{decided}\n{world}"))

    overdue = [m for m in world.models if is_overdue(m, now)]
    held = _in_the_end(world.models)
    is_over = any(n > world.capacity.get(pool, 0) for pool, n in held.items())
    wanting = [m for m in world.models if m.waiting or m.is_wanted]
    must(len({move.model for move in decided.moves}) == len(decided.moves), "moved twice")
    for move in decided.moves:
        model = models[move.model]
        must(model.moving_to is None, "moves already")
        must(move.to is not model.tier, "is there already")
        must(bool(move.reason), "no reason")
        if move.to is Tier.GPU:
            must(bool(model.waiting or model.is_wanted), "loaded for nobody")
            must(not model.is_failed and model.retry_at <= now, "loaded too early")
            must(move.model not in decided.refused, "loaded and refused")
            continue
        must(model.in_use == 0, "has requests")
        must(bool(world.away), "may not be put aside")
        own = bool(model.tier is Tier.CPU and model.waiting)
        must(not model.policy.pinned or own, "is pinned")
        must(not (model.tier is Tier.CPU and move.to is Tier.CPU), "sleeps already")
        others = [m for m in overdue if m is not model]
        if model.waiting and not own:
            must(bool(others), "is waited for, and nobody is overdue")
        if model.tier is Tier.GPU:
            _check_leaving(model, world, must, has_reason=bool(others) or is_over)
    for name in decided.closed:
        must(models[name].tier is Tier.GPU and models[name].moving_to is None, "closed in vain")
        must(any(m.name != name for m in overdue), "closed though nobody is overdue")
        must(not models[name].policy.pinned, "closed though pinned")
    for name in decided.cancelled:
        model = models[name]
        must(model.moving_to is Tier.GPU, "cancelled no load")
        must(not (model.waiting or model.in_use or model.is_wanted), "cancelled a wanted load")
        must(is_over or any(m is not model for m in wanting), "cancelled for nobody")
    must(decided.look_again_at is None or decided.look_again_at > now, "looks again in the past")
    _check_refusals(world, decided, must)


def _check_leaving(
    model: ModelState, world: World, must: Callable[[bool, str], None], *, has_reason: bool
) -> None:
    since = model.resident_since or 0.0
    limit = model.policy.idle_offload_s
    is_idle = limit is not None and world.now >= max(since, model.last_used) + limit
    kept_s = min(max(model.load_s, 1.0), 30.0)
    is_settled = world.now >= since + kept_s
    must(has_reason or is_idle or is_settled, "left before it had its time")
    wanting = any(m is not model and (m.waiting or m.is_wanted) for m in world.models)
    must(has_reason or is_idle or wanting, "left for nobody")


def _check_refusals(world: World, decided: Plan, must: Callable[[bool, str], None]) -> None:
    for model in world.models:
        if Tier.GPU in (model.tier if model.moving_to is None else None, model.moving_to):
            must(model.name not in decided.refused, "refused though loaded")
            continue
        lasting = [
            m for m in world.models if m is not model and (m.policy.pinned or not world.away)
        ]
        beside = _in_the_end(lasting)
        fits = all(
            beside.get(pool, 0) + n <= world.capacity.get(pool, 0)
            for pool, n in model.footprint.gpu.items()
            if n > 0
        )
        must(fits == (model.name not in decided.refused), "refused wrongly, or not")


def _in_the_end(models: Sequence[ModelState]) -> Mapping[str, int]:
    total: dict[str, int] = {}
    for model in models:
        for pool, n in model.footprint.of(model.moving_to or model.tier).items():
            total[pool] = total.get(pool, 0) + n
    return total
