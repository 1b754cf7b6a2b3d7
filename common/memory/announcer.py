"""Tells others what the scheduler does; a listener that fails breaks nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from common.memory.contract import Tier
from common.memory.scheduled_model import ModelView

logger = logging.getLogger(__name__)

OnMove = Callable[[str, Tier, Tier, float, str], None]
"""Called with a model's name, the tier it left, the tier it reached, the seconds that it took, and
why it was moved."""


class Announcer:
    """Calls the listeners.

    Args:
        say: Gets a line for the console.
        on_move: Gets each move that ended in another tier than it began in.
        on_change: Called when a model's view is another.
    """

    def __init__(
        self,
        say: Callable[[str], None] | None,
        on_move: OnMove | None,
        on_change: Callable[[], None] | None,
    ) -> None:
        self._say = say
        self._on_move = on_move
        self._on_change = on_change
        self._views: tuple[ModelView, ...] = ()

    def say(self, text: str) -> None:
        """Tell the console."""
        if self._say is not None:
            try:
                self._say(f"memory: {text}")
            except Exception:
                logger.exception("the console refused a line")

    def moved(self, model: str, source: Tier, reached: Tier, seconds: float, reason: str) -> None:
        """Tell a move that ended."""
        if self._on_move is not None:
            try:
                self._on_move(model, source, reached, seconds, reason)
            except Exception:
                logger.exception("the listener for moves failed")

    def changed(self, views: Sequence[ModelView]) -> None:
        """Tell that something is different, if it is."""
        if tuple(views) == self._views:
            return
        self._views = tuple(views)
        if self._on_change is not None:
            try:
                self._on_change()
            except Exception:
                logger.exception("the listener for changes failed")
