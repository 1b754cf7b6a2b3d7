"""Processor time that the record of one request costs, from its arrival to its end."""

from __future__ import annotations

import time
from collections.abc import Callable

import click

from benchmarks.machine import describe_machine
from benchmarks.report import Goal, Report, Table, show, warn_if_busy
from common.telemetry.recorder import Outcome, Recorder

GOAL_US = 3.0
"""The most that a request's record may cost, in microseconds."""

WHOLE = "whole answer, with usage"
SHORT = "stream of 3 pieces, with usage"
LONG = "stream of 130 pieces, with usage"
REFUSED = "refused"

_CHUNK = (
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" word"}}],'
    b'"created":1763650000,"id":"chatcmpl-V9nSEHxjMkVGBmzJnlRxdnC9SmLk3cUV",'
    b'"model":"org/model","system_fingerprint":"b7000","object":"chat.completion.chunk"}\n\n'
)
_USAGE = (
    b'"usage":{"completion_tokens":128,"prompt_tokens":512,"total_tokens":640,'
    b'"prompt_tokens_details":{"cached_tokens":0}}'
)
_LAST = (
    b'data: {"choices":[],"created":1763650000,"id":"chatcmpl-V9nSEHxjMkVGBmzJnlRxdnC9SmLk3cUV",'
    b'"model":"org/model","object":"chat.completion.chunk",' + _USAGE + b"}\n\n"
)
_DONE = b"data: [DONE]\n\n"
_ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1763650000,"model":"org/model",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"' + b"word " * 128 + b'"},'
    b'"logprobs":null,"finish_reason":"stop"}],"service_tier":null,' + _USAGE + b"}"
)


def whole_answer(recorder: Recorder) -> None:
    """Record a request that is answered with one JSON object."""
    record = recorder.open()
    record.assign("org/model", "key")
    record.start()
    record.saw(_ANSWER)
    record.close(Outcome.OK, 200)


def stream(recorder: Recorder, pieces: int = 3) -> None:
    """Record a request that is answered with a stream."""
    record = recorder.open()
    record.assign("org/model", "key")
    record.start()
    record.first_token()
    for _ in range(pieces - 2):
        record.saw(_CHUNK)
    record.saw(_LAST)
    record.saw(_DONE)
    record.close(Outcome.OK, 200)


def long_stream(recorder: Recorder) -> None:
    """Record a request whose answer comes in 130 pieces."""
    stream(recorder, 130)


def refused(recorder: Recorder) -> None:
    """Record a request that is refused before it has a model."""
    recorder.open().close(Outcome.REFUSED, 401)


def measure(request: Callable[[Recorder], None], requests: int, rounds: int) -> float:
    """Return microseconds of processor time per request: the least of several rounds."""
    recorder = Recorder(["org/model"])
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time_ns()
        for _ in range(requests):
            request(recorder)
        best = min(best, time.process_time_ns() - started)
    return best / requests / 1000


@click.command()
@click.option("--requests", default=20_000, show_default=True, help="Requests of a round.")
@click.option("--rounds", default=5, show_default=True, help="The least of them counts.")
@click.option("--json", "as_json", is_flag=True, help="Everything measured, as JSON.")
def main(requests: int, rounds: int, as_json: bool) -> None:
    """Processor time per request of the telemetry's record."""
    warn_if_busy()
    found = {
        name: measure(request, requests, rounds)
        for name, request in (
            (WHOLE, whole_answer),
            (SHORT, stream),
            (LONG, long_stream),
            (REFUSED, refused),
        )
    }
    report = Report(
        benchmark="telemetry",
        machine=describe_machine(),
        settings={"requests of a round": requests, "rounds": rounds},
        tables=[
            Table(
                "The record of a request, from open to close",
                ("request", "CPU us"),
                [(name, f"{cost:.2f}") for name, cost in found.items()],
            )
        ],
        goals=[
            Goal(f"{name}: at most {GOAL_US:g} us", found[name] <= GOAL_US)
            for name in (WHOLE, SHORT, REFUSED)
        ],
        figures={"cpu_us_per_request": found},
    )
    show(report, as_json=as_json)


if __name__ == "__main__":
    main()
