"""What a move that ended means for its model."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from common.errors import CapacityError, DeployError, InternalError
from common.memory.announcer import Announcer
from common.memory.contract import Bytes, Tier
from common.memory.pools import amounts_text
from common.memory.scheduled_model import MoveUnderWay, ScheduledModel
from common.memory.scheduler_words import first_line, is_in

logger = logging.getLogger(__name__)

DEPTH = {Tier.GPU: 0, Tier.CPU: 1, Tier.DISK: 2}
"""How far a tier is from answering."""


@dataclass(frozen=True)
class EndedMove:
    """A move whose task is over.

    Attributes:
        model: The model.
        move: The move.
        reached: The tier that it returned; None: it raised.
        error: What it raised; None: nothing, or it was cancelled.
    """

    model: ScheduledModel
    move: MoveUnderWay
    reached: Tier | None
    error: BaseException | None


def settle_move(ended: EndedMove, now: float, capacity: Bytes, announcer: Announcer) -> None:
    """Note in the model where a move brought it, serve or tell those who wait, and announce it."""
    model, move, source = ended.model, ended.move, ended.model.tier
    seconds = now - move.since
    reached = model.mover.tier if ended.reached is None else ended.reached
    model.rests_in(reached, now)
    if reached is not source:
        # Not for a load that failed: `is_in` below the words of its failure would hide them.
        announcer.say(f'"{model.name}" {is_in(reached, capacity)} after {seconds:.1f} s')
        announcer.moved(model.name, source, reached, seconds, move.reason)
    if move.to is Tier.GPU:
        _settle_load(ended, reached, seconds, now, announcer)
    elif DEPTH[reached] < DEPTH[move.to]:
        _hold(ended, now, announcer)
    else:
        model.away_backoff.reset()


def _settle_load(
    ended: EndedMove, reached: Tier, seconds: float, now: float, announcer: Announcer
) -> None:
    model, error = ended.model, ended.error
    if reached is Tier.GPU:
        model.load_s = seconds
        model.forgive()
        # Now, whatever an operator or the next plan wants of it: they waited for this.
        model.waiters.release()
    elif ended.move.is_cancelled:
        announcer.say(f'the load of "{model.name}" was stopped: nobody waits for it any more')
    elif error is None or isinstance(error, CapacityError):
        text = "it did not get there" if error is None else first_line(error).rstrip(".")
        text = f"{text}; it takes {amounts_text(model.footprint.gpu)}"
        delay_s = model.load_backoff.next()
        model.shortage = text
        model.retry_at = now + delay_s
        then = f"next try in {delay_s:g} s" if model.waiters else "tried again when it is asked for"
        announcer.say(f'"{model.name}" could not be loaded: {text}; {then}')
        if model.is_wanted:  # the operator can do something about it
            model.end_wish(error or CapacityError(f'"{model.name}" could not be loaded: {text}.'))
    else:
        announcer.say(f'"{model.name}" could not be loaded: {first_line(error)}')
        model.fail(_told(error, model.name))


def _hold(ended: EndedMove, now: float, announcer: Announcer) -> None:
    """It could not be put aside: leave it alone for a while, so that others are chosen instead."""
    model, error = ended.model, ended.error
    text = "it did not get there" if error is None else first_line(error)
    delay_s = model.away_backoff.next()
    model.held_until = now + delay_s
    announcer.say(
        f'"{model.name}" could not be put aside: {text.rstrip(".")}; not tried again for {delay_s:g} s'
    )
    if model.wish is not None and model.wish.to is ended.move.to:
        told = None if error is None else _told(error, model.name)
        model.end_wish(told or CapacityError(f'"{model.name}" could not be put aside: {text}.'))


def _told(error: BaseException, name: str) -> DeployError:
    """Return what those who wait are told."""
    if isinstance(error, DeployError):
        return error
    logger.error("moving %s failed", name, exc_info=error)
    return InternalError(
        f'Moving "{name}" failed, which is a mistake of this program: '
        f"{type(error).__name__}: {error}"
    )
