"""One measurement, in a process of its own: ``python -m benchmarks.gateway.load``.

It reads one `Job` as JSON from standard input and prints a `Result`. It reads the processor time of the
proxy itself, so that exactly what is measured lies between the two readings: connections are open,
and have carried a request, before the first.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field, replace

import click

from benchmarks.gateway import loop, wire
from benchmarks.gateway.client import Client, ClientError, connect
from benchmarks.gateway.response import Response
from benchmarks.gateway.tree import memory_bytes, processor_s
from benchmarks.processes import BenchmarkError

_RELEASE = b"POST /stub/release HTTP/1.1\r\nHost: engine\r\nContent-Length: 0\r\n\r\n"
# So many connections are opened at a time, so that no listen queue overflows.
_OPENED_AT_ONCE = 50
_FAULTS_TOLD = 5
# An answer that takes longer does not come.
_STALLED_S = 30.0


@dataclass(frozen=True)
class Job:
    """What to measure.

    Attributes:
        kind: A key of `KINDS`.
        port: Where the proxy listens, on this machine.
        engine_port: Where the stub engine does.
        key: Sent as a bearer token.
        pids: The proxy's processes.
        is_exact: Whether a body must be the engine's to the byte; else its text is looked at.
        connections: Open at once.
        seconds: For ``answers`` and ``latency``: how long.
        events: For ``streams``: of each stream.
        gap_us: For ``streams``: between two of its events.
        timeout_s: For ``hold`` and ``streams``: for all of it.
    """

    kind: str
    port: int
    engine_port: int
    key: str = field(repr=False)
    pids: tuple[int, ...] = ()
    is_exact: bool = True
    connections: int = 1
    seconds: float = 1.0
    events: int = 0
    gap_us: int = 0
    timeout_s: float = 60.0

    def request(self, script: wire.Script) -> bytes:
        """The bytes to send."""
        return wire.request(script, f"127.0.0.1:{self.port}", self.key)

    def expected(self, script: wire.Script) -> bytes | None:
        """What must come, as `wire.fault_in` takes it."""
        return wire.payload(script) if self.is_exact else None


@dataclass
class Result:
    """What came of a job; what does not belong to its kind is left as it is.

    Attributes:
        done: Answers or events that came in the measured time.
        wall_s: The measured time.
        cpu_s: Of the proxy in it.
        latencies_s: Of each request, ascending.
        held: Streams that were open at once.
        held_bytes: What the proxy's memory grew by for them.
        headers: Of the first answer and the first stream, names in lower case.
        reused: Of the requests behind a stream whose engine closed its socket: how many were answered.
        faults: What went wrong, with how often.
    """

    done: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    held: int = 0
    held_bytes: int = 0
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    reused: int = 0
    faults: dict[str, int] = field(default_factory=dict)


def run_job(job: Job, timeout_s: float) -> Result:
    """Carry out a job in a process of its own.

    Raises:
        BenchmarkError: The process failed, or took longer than `timeout_s`.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.gateway.load"],
            input=json.dumps(asdict(job)),  # not as an argument: it holds a key
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"the load {job.kind!r} was not done within {timeout_s:g} s") from None
    if done.returncode != 0:
        raise BenchmarkError(f"the load {job.kind!r} failed: {done.stderr.strip()[-2000:]}")
    return Result(**json.loads(done.stdout))


class Judge:
    """Collects what is wrong with responses."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._faults: Counter[str] = Counter()
        self._expected: dict[wire.Script, bytes | None] = {}

    def accept(self, response: Response, script: wire.Script) -> bool:
        """Whether a complete response is right."""
        if response.status != 200:
            self.note(f"status {response.status}: {bytes(response.body[:200])!r}")
            return False
        if script not in self._expected:
            self._expected[script] = self._job.expected(script)
        fault = wire.fault_in(response.body, script, self._expected[script])
        if fault is not None:
            self.note(fault)
        return fault is None

    def note(self, fault: str) -> None:
        """Count a fault."""
        self._faults[fault] += 1

    @property
    def faults(self) -> dict[str, int]:
        """The most frequent ones."""
        return dict(self._faults.most_common(_FAULTS_TOLD))


async def measure_answers(job: Job) -> Result:
    """Short answers, each connection asking again as soon as it has one."""
    script, judge = wire.Script(), Judge(job)
    clients = await _warm(job, job.connections)
    request = job.request(script)
    result = Result()
    cpu_s, began = processor_s(job.pids), time.perf_counter()
    ends = began + job.seconds

    async def ask(client: Client) -> None:
        while time.perf_counter() < ends:
            try:
                if not client.is_open:
                    client = await connect(job.port)
                response = await client.ask(request)
            except ClientError as error:
                judge.note(str(error))
                await asyncio.sleep(0.01)
                continue
            if judge.accept(response, script):
                result.done += 1

    await _within(asyncio.gather(*(ask(client) for client in clients)), job.seconds + _STALLED_S)
    result.wall_s = time.perf_counter() - began
    result.cpu_s = processor_s(job.pids) - cpu_s
    if result.wall_s > job.seconds + _STALLED_S:
        judge.note(f"no answer within {_STALLED_S:g} s")
    result.faults = judge.faults
    return result


async def measure_latency(job: Job) -> Result:
    """Short answers on one connection, one after the other."""
    script, judge = wire.Script(), Judge(job)
    (client,) = await _warm(job, 1)
    request = job.request(script)
    result = Result()
    ends = time.perf_counter() + job.seconds
    # Once for all requests: a timer for each would cost more than what is measured.
    watch = asyncio.get_running_loop().call_later(job.seconds + _STALLED_S, client.close)
    try:
        while (sent := time.perf_counter()) < ends:
            response = await client.ask(request)
            result.latencies_s.append(time.perf_counter() - sent)
            judge.accept(response, script)
    except ClientError as error:
        judge.note(f"request {len(result.latencies_s) + 1}: {error}")
    watch.cancel()
    result.latencies_s.sort()
    result.done = len(result.latencies_s)
    result.faults = judge.faults
    return result


async def measure_streams(job: Job) -> Result:
    """Streams at once; those with a gap begin one after the other within one gap."""
    script, judge = wire.Script(job.events, job.gap_us), Judge(job)
    clients = await _warm(job, job.connections)
    request = job.request(script)
    apart_s = job.gap_us / 1e6 / job.connections
    cpu_s, began = processor_s(job.pids), time.perf_counter()

    async def ask(number: int, client: Client) -> None:
        await asyncio.sleep(number * apart_s)
        try:
            await asyncio.wait_for(client.ask(request), job.timeout_s)
        except (ClientError, asyncio.TimeoutError) as error:
            at = len(client.response.body)
            judge.note(str(error) or f"after {at} bytes no more within {job.timeout_s:g} s")

    await asyncio.gather(*(ask(number, client) for number, client in enumerate(clients)))
    wall_s, cpu_s = time.perf_counter() - began, processor_s(job.pids) - cpu_s
    # Judged when all is over, so that it does not slow the load down.
    good = sum(
        judge.accept(client.response, script) for client in clients if client.response.is_complete
    )
    return Result(done=good * job.events, wall_s=wall_s, cpu_s=cpu_s, faults=judge.faults)


async def measure_hold(job: Job) -> Result:
    """Streams that are all open at once; each is to end well."""
    script, judge = wire.Script(2, holds=True), Judge(job)
    request = job.request(script)
    await _warm(job, 1)
    before = memory_bytes(job.pids)
    begun: set[int] = set()
    all_begun = asyncio.Event()
    answers: list[asyncio.Future[Response]] = []

    def note(number: int, response: Response) -> None:
        # Some of its first event; a proxy that keeps streams back shows none.
        if response.status == 200 and response.body:
            begun.add(number)
        if len(begun) == job.connections:
            all_begun.set()

    def progress_of(number: int) -> Callable[[Response], None]:
        return lambda response: note(number, response)

    async def open_one(number: int) -> None:
        try:
            client = await connect(job.port, progress_of(number))
            answers.append(client.ask(request))
        except ClientError as error:
            judge.note(str(error))

    began = time.perf_counter()
    for first in range(0, job.connections, _OPENED_AT_ONCE):
        numbers = range(first, min(first + _OPENED_AT_ONCE, job.connections))
        await asyncio.gather(*(open_one(number) for number in numbers))
    await _within(all_begun.wait(), job.timeout_s)
    result = Result(held=len(begun), wall_s=time.perf_counter() - began)
    result.held_bytes = memory_bytes(job.pids) - before
    await (await connect(job.engine_port)).ask(_RELEASE)
    await _within(asyncio.wait(answers), job.timeout_s)
    for answer in answers:
        if not answer.done():
            judge.note("a held stream that did not end")
        elif (error := answer.exception()) is not None:
            judge.note(str(error))
        elif judge.accept(answer.result(), script):
            result.done += 1
    result.faults = judge.faults
    return result


async def compare(job: Job) -> Result:
    """An answer and streams as they come, and requests behind an engine that closed its socket."""
    judge, result = Judge(job), Result()
    closing = wire.Script(20, closes=True)
    scripts = {"answer": wire.Script(), "stream": wire.Script(20), "closing": closing}
    client = await connect(job.port)

    async def ask(script: wire.Script) -> Response | None:
        nonlocal client
        try:
            if not client.is_open:
                client = await connect(job.port)
            response = await asyncio.wait_for(client.ask(job.request(script)), 30)
        except (ClientError, asyncio.TimeoutError) as error:
            judge.note(f"{script.text} {error or 'no answer within 30 s'}")
            return None
        return response if judge.accept(response, script) else None

    for name in ("answer", "stream"):
        if (response := await ask(scripts[name])) is not None:
            result.headers[name] = dict(response.headers)
    if not job.pids:
        # The engine itself: its clients have to connect again, and nothing is to be shown.
        result.reused = job.events
    for _ in range(job.events if job.pids else 0):
        if await ask(closing) is not None and await ask(scripts["answer"]) is not None:
            result.reused += 1
    result.faults = judge.faults
    return result


KINDS: Mapping[str, Callable[[Job], Awaitable[Result]]] = {
    "answers": measure_answers,
    "latency": measure_latency,
    "streams": measure_streams,
    "hold": measure_hold,
    "compare": compare,
}
"""The kinds of jobs."""


async def _warm(job: Job, connections: int) -> list[Client]:
    """Open connections; each has carried one request, all at once, when they are returned."""
    clients = [await connect(job.port) for _ in range(connections)]
    request = job.request(wire.Script())
    answers = asyncio.gather(*(client.ask(request) for client in clients))
    try:
        await asyncio.wait_for(answers, _STALLED_S)
    except asyncio.TimeoutError:
        missing = sum(not client.response.is_complete for client in clients)
        text = f"{missing} of {connections} first requests had no answer within {_STALLED_S:g} s"
        raise ClientError(text) from None
    return clients


async def _within(waited: Awaitable[object], timeout_s: float) -> None:
    """Wait, but no longer; what is missing then is counted afterwards."""
    try:
        await asyncio.wait_for(waited, timeout_s)
    except asyncio.TimeoutError:
        return


async def _carry_out(job: Job) -> Result:
    return await KINDS[job.kind](job)


@click.command()
def main() -> None:
    """Carry out the job on standard input and print its result."""
    given = json.load(sys.stdin)
    job = replace(Job(**given), pids=tuple(given["pids"]))
    try:
        result = loop.run(_carry_out(job))
    except ClientError as error:
        raise click.ClickException(str(error)) from None
    click.echo(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
