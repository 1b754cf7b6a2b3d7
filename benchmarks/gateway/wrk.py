"""wrk as load for requests per second: it needs the least processor time for one."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.gateway import wire
from benchmarks.gateway.load import Result
from benchmarks.gateway.starting import Running
from benchmarks.gateway.tree import processor_s
from benchmarks.processes import BenchmarkError

_FINISH_S = 30.0
_MARK = "RESULT "


def wrk_program() -> str | None:
    """The path of wrk, None when it is not installed."""
    return shutil.which("wrk")


def run_wrk(running: Running, connections: int, seconds: int) -> Result:
    """Ask for short answers on `connections` for whole `seconds`.

    Raises:
        BenchmarkError: wrk failed.
    """
    program = wrk_program()
    if program is None:
        raise BenchmarkError("wrk is not installed (Debian: apt-get install wrk)")
    with tempfile.TemporaryDirectory(prefix="cd-bench-") as folder:
        script = Path(folder) / "request.lua"
        # In a file, not in the arguments: it holds a key.
        script.touch(mode=0o600)
        script.write_text(wrk_script(running.key), encoding="ascii")
        argv = [program, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script)]
        cpu_s = processor_s(running.pids)
        done = subprocess.run(
            [*argv, f"http://127.0.0.1:{running.port}{wire.PATH}"],
            capture_output=True,
            text=True,
            timeout=seconds + _FINISH_S,
        )
        cpu_s = processor_s(running.pids) - cpu_s
    if done.returncode != 0 or _MARK not in done.stdout:
        raise BenchmarkError(f"wrk failed: {(done.stderr or done.stdout).strip()[-1000:]}")
    found = json.loads(done.stdout.partition(_MARK)[2].splitlines()[0])
    faults = {f"wrk: {kind} errors": count for kind, count in found["errors"].items() if count}
    return Result(done=found["requests"], wall_s=found["us"] / 1e6, cpu_s=cpu_s, faults=faults)


def wrk_script(key: str) -> str:
    """Return wrk's program: one request, and its summary as JSON (wrk's SCRIPTING document)."""
    body = wire.request_body(wire.Script()).decode("ascii")
    return f"""\
wrk.method = "POST"
wrk.headers["Authorization"] = "Bearer {key}"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[{body}]==]
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{_MARK}{{"requests":%d,"us":%d,"errors":{{' ..
    '"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}}}\\n',
    summary.requests, summary.duration, e.connect, e.read, e.write, e.status, e.timeout))
end
"""
