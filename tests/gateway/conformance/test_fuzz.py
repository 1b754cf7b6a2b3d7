"""A short run of the fuzzer of clients' connections; `fuzz_connection.py` runs longer by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fuzz_connection import SEEDS

ROOT = Path(__file__).parents[3]


def test_no_bytes_confuse_a_connection(tmp_path: Path) -> None:
    for index, seed in enumerate(SEEDS):
        (tmp_path / f"seed{index}").write_bytes(b"\0\7" + seed)
    script = Path(__file__).with_name("fuzz_connection.py")
    run = subprocess.run(
        [
            sys.executable,
            str(script),
            "-atheris_runs=20000",
            f"-artifact_prefix={tmp_path}/",
            str(tmp_path),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
