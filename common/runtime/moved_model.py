"""What belongs to one model that takes turns with others on the devices."""

from __future__ import annotations

from dataclasses import dataclass

from common.memory.contract import Bytes
from common.memory.engine_mover import EngineMover
from common.memory.engine_ways import CacheHooks
from common.memory.held_files import HeldFiles
from common.memory.scheduler import Demand
from common.runtime.footprint_learning import FootprintLearning
from common.runtime.hosted_model import HostedModel


@dataclass(frozen=True)
class MovedModel:
    """One model and what moves it.

    Attributes:
        model: The model.
        mover: Moves it.
        demand: Its requests.
        held: Its files in host RAM; None: they are never kept.
        hooks: Keep what its engine has computed; None: nothing is kept.
        learning: What it takes.
        has_process_asleep: Its engine's process stays when it is put to sleep.
        kept_when_emptied: What its engine's process keeps while the model is on disk, as estimated;
            empty: it never stays.
        is_pinned: It is never put aside.
    """

    model: HostedModel
    mover: EngineMover
    demand: Demand
    held: HeldFiles | None
    hooks: CacheHooks | None
    learning: FootprintLearning
    has_process_asleep: bool
    kept_when_emptied: Bytes
    is_pinned: bool

    def release(self) -> None:
        """Give back what is kept for its engine, when that does not run any more."""
        if self.held is not None:
            self.held.release()
        if self.hooks is not None:
            self.hooks.discard()
