"""What one model takes of the memory: estimated from its files, then measured and kept."""

from __future__ import annotations

from collections.abc import Sequence

from common.engines.contract import EngineSpec
from common.memory.contract import Bytes, Footprint, Tier
from common.models.learned_footprints import (
    FootprintKey,
    LearnedFootprints,
    footprint_key,
    learned_folder,
    options_digest,
)
from common.runtime.app import InstalledEngine
from common.runtime.model_footprint import with_learned
from common.runtime.placement import Placed

NOTICEABLE = 0.02
"""A figure that differs by less is the same: readings are never twice the same."""


class FootprintLearning:
    """The footprint of one model. Every call but the constructor blocks for milliseconds.

    Args:
        estimated: From its files.
        key: What measurements are kept under.
        kept: Keeps them.
    """

    def __init__(self, estimated: Footprint, key: FootprintKey, kept: LearnedFootprints) -> None:
        self._estimated = estimated
        self._key = key
        self._kept = kept
        self._told: dict[Tier, Bytes] = {}

    def known(self) -> Footprint:
        """What it takes, as far as is known by now."""
        return with_learned(
            self._estimated, self._kept.find(self._key), self._kept.find(self._key.asleep)
        )

    def learn(self, tier: Tier, measured: Bytes) -> Footprint | None:
        """Take a measurement of its engine in a tier; returns what is known then, None: no news."""
        if tier is Tier.DISK or not has_grown(self._told.get(tier, {}), measured):
            return None
        self._told[tier] = dict(measured)
        self._kept.learn(self._key if tier is Tier.GPU else self._key.asleep, measured)
        return self.known()


def learning(
    estimated: Footprint,
    reference: str,
    placed: Placed,
    engine: InstalledEngine,
    spec: EngineSpec,
    gpus: Sequence[str],
) -> FootprintLearning:
    """Begin to learn a model's footprint. Blocks for the sizes of its files.

    Args:
        estimated: From its files.
        reference: The model as the user named it.
        placed: Its plan and files.
        engine: The engine.
        spec: What is run.
        gpus: Names of the instance's GPUs, in their order.
    """
    private = {str(placed.plan.path), str(spec.address.socket_path)}
    key = footprint_key(
        reference,
        placed.files,
        gpus,
        options_digest(spec.command.argv, private),
        f"{engine.label} {engine.version}",
    )
    return FootprintLearning(estimated, key, LearnedFootprints(learned_folder(placed.files)))


def has_grown(before: Bytes, now: Bytes) -> bool:
    """Whether a pool has noticeably more than before."""
    return any(size > before.get(pool, 0) * (1 + NOTICEABLE) for pool, size in now.items())


def has_changed(before: Bytes, now: Bytes) -> bool:
    """Whether a pool has noticeably more than before, or less."""
    return has_grown(before, now) or has_grown(now, before)
