"""Files that a benchmark has in the page cache or not."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from benchmarks.page_cache import cached_share, make_cold, make_warm
from benchmarks.processes import BenchmarkError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(1 << 22))
    return path


def test_a_file_is_dropped_from_the_page_cache_and_read_in_again(file: Path) -> None:
    make_cold(file)
    assert cached_share(file) < 0.02
    make_warm(file)
    assert cached_share(file) == 1.0


def test_a_file_that_somebody_has_in_use_is_told(file: Path) -> None:
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        assert sum(pages[:: mmap.PAGESIZE]) > 0  # touched, so that they are mapped
        with pytest.raises(BenchmarkError, match="TMPDIR"):
            make_cold(file)
