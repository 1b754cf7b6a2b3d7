"""Measurements of process trees."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from common.engines.process_tree import TreeUsage, read_tree

PARENT = """
    import subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for line in sys.stdin:
        child.stdin.write(line); child.stdin.flush()
        print(child.stdout.readline().strip(), flush=True)
"""
CHILD = """
    import mmap, sys
    file = open(sys.argv[1], "rb")
    for line in sys.stdin:
        if line == "read\\n":
            file.seek(0); file.read()
        if line == "map\\n":
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            sum(mapped[::4096])
        print("ok", flush=True)
"""


def test_reading_and_mapping_of_a_grandchild_show(tmp_path: Path) -> None:
    size = 16 << 20
    model = tmp_path / "model"
    model.write_bytes(bytes(size))
    command = [sys.executable, "-c", textwrap.dedent(PARENT), textwrap.dedent(CHILD), str(model)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def order(word: str) -> TreeUsage:
            process.stdin.write(f"{word}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "ok\n"
            return read_tree(process.pid)

        first = order("nothing")
        assert len(first.pids) == 2
        assert process.pid in first.pids
        second = order("read")
        assert size <= second.io_bytes - first.io_bytes < size + (1 << 20)
        third = order("map")
        assert third.io_bytes - second.io_bytes < 1 << 20
        assert third.moved_bytes - second.moved_bytes >= size - (4 << 20)
        process.stdin.close()


def test_processor_time_is_counted() -> None:
    before = read_tree(os.getpid()).cpu_s
    while read_tree(os.getpid()).cpu_s < before + 0.05:
        sum(range(10_000))


def test_no_such_process_and_no_proc_count_as_nothing(tmp_path: Path) -> None:
    assert read_tree(0x7FFFFFFE) == TreeUsage()
    assert read_tree(1, proc=tmp_path / "none") == TreeUsage()
