"""Processor time that the record of one request costs, from its arrival to its end."""

from __future__ import annotations

import time
from collections.abc import Callable

import click

from common.telemetry.recorder import Outcome, Recorder

GOAL_US = 3.0
"""The most that a request's record may cost, in microseconds."""

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
def main(requests: int, rounds: int) -> None:
    """Processor time per request of the telemetry's record."""
    print(f"{'request':<32}{'us per request':>16}   goal")
    for name, request, goal in (
        ("whole answer, with usage", whole_answer, f"<= {GOAL_US:g}"),
        ("stream of 3 pieces, with usage", stream, f"<= {GOAL_US:g}"),
        ("stream of 130 pieces", long_stream, ""),
        ("refused", refused, f"<= {GOAL_US:g}"),
    ):
        print(f"{name:<32}{measure(request, requests, rounds):>16.2f}   {goal}")


if __name__ == "__main__":
    main()
