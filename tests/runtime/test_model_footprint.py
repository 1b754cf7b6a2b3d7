from __future__ import annotations

import pytest

from common.memory.contract import Tier
from common.models.memory import MemoryNeed
from common.runtime.model_footprint import Aside, footprint, with_learned

NEED = MemoryNeed(host_bytes=10, gpu_bytes=100, by_gpu=(60, 0, 40))


def test_each_device_has_its_own_part() -> None:
    found = footprint(NEED, file_bytes=80, gpus=3, counts_held=True)
    assert found.gpu == {"gpu0": 60, "gpu2": 40, "host": 10}
    assert found.of(Tier.CPU) == {"host": 80, "held": 80}
    assert found.of(Tier.DISK) == {}
    assert not found.is_shared


@pytest.mark.parametrize(
    ("aside", "weights", "held"),
    [
        (Aside.FILES, 70, 80),
        (Aside.WEIGHTS, 70, 80),  # the process stays, with its 10
        (Aside.WEIGHTS, None, 90),
        (Aside.EVERYTHING, 70, 110),
    ],
)
def test_what_is_held_depends_on_how_it_is_put_aside(
    aside: Aside, weights: int | None, held: int
) -> None:
    found = footprint(NEED, file_bytes=80, gpus=3, aside=aside, weights_bytes=weights)
    assert found.cpu == {"host": held}


def test_a_sleeping_engine_keeps_some_of_the_gpus() -> None:
    need = MemoryNeed(10, 100, (60, 0, 40), (3, 0, 2))
    asleep = footprint(need, file_bytes=80, gpus=3, aside=Aside.WEIGHTS)
    assert asleep.cpu == {"gpu0": 3, "gpu2": 2, "host": 90}
    assert footprint(need, file_bytes=80, gpus=3, aside=Aside.EVERYTHING).cpu == {"host": 110}
    assert footprint(need, file_bytes=80, gpus=3, aside=Aside.FILES).cpu == {"host": 80}
    found = with_learned(asleep, None, {"gpu0": 1, "gpu2": 1, "host": 95})
    assert found.cpu == {"gpu0": 1, "gpu2": 1, "host": 95}
    assert found.gpu == asleep.gpu


def test_an_engine_that_does_not_say_takes_as_much_of_each_gpu() -> None:
    found = footprint(MemoryNeed(10, 101), file_bytes=80, gpus=2)
    assert found.gpu == {"gpu0": 51, "gpu1": 51, "host": 10}
    assert footprint(MemoryNeed(10, 0), file_bytes=80, gpus=2).gpu == {"host": 10}


def test_without_gpus_the_engine_is_resident_in_host_ram() -> None:
    found = footprint(MemoryNeed(100, 0), file_bytes=80, gpus=0, maps_files=True)
    assert found.gpu == {"resident": 100, "host": 100}
    assert found.cpu == {"host": 80}
    assert found.is_shared
    bounded = footprint(MemoryNeed(100, 0), file_bytes=80, gpus=0, counts_held=True)
    assert bounded.cpu == {"host": 80, "held": 80}
    copied = footprint(MemoryNeed(100, 0), file_bytes=80, gpus=0, aside=Aside.EVERYTHING)
    assert (copied.cpu, copied.is_shared) == ({"host": 80}, False)


def test_on_gpus_what_was_learned_counts_and_in_host_ram_the_larger() -> None:
    estimated = footprint(NEED, file_bytes=80, gpus=3)
    found = with_learned(estimated, {"gpu0": 50, "gpu2": 45, "host": 7})
    assert found.gpu == {"gpu0": 50, "gpu2": 45, "host": 10}
    assert found.cpu == estimated.cpu
    assert with_learned(estimated, {"host": 12}).gpu == {"gpu0": 60, "gpu2": 40, "host": 12}
    assert with_learned(estimated, None) == estimated


def test_learned_host_ram_is_what_is_resident() -> None:
    estimated = footprint(MemoryNeed(100, 0), file_bytes=80, gpus=0)
    assert with_learned(estimated, {"host": 130}).gpu == {"resident": 130, "host": 130}
    assert with_learned(estimated, {"host": 90}).gpu == estimated.gpu
