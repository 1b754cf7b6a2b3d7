"""Records, totals, scalars and the engines' own counters."""

from __future__ import annotations

import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.telemetry.engine_metrics import EngineTokens, parse_engine_tokens
from common.telemetry.recorder import KeyTotals, Outcome, Recorder, RequestUsage
from common.telemetry.scalars import memory_scalars, scalars_between


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recorder(clock: Clock) -> Recorder:
    return Recorder(["a", "b"], clock)


def test_record_of_a_streamed_answer(recorder: Recorder, clock: Clock) -> None:
    record = recorder.open()
    record.assign("a")
    record.wake()
    clock.now += 2
    assert recorder.snapshot().models["a"].waiting == 1
    record.start()
    clock.now += 1
    record.first_token()
    assert (recorder.snapshot().models["a"].waiting, recorder.open_requests) == (0, 1)
    assert recorder.snapshot().models["a"].in_flight == 1
    clock.now += 3
    record.first_token()
    record.close(Outcome.OK, 200)
    record.close(Outcome.ENGINE_DIED, 502)
    totals = recorder.snapshot().models["a"]
    assert dict(totals.results) == {("ok", 200): 1}
    assert (totals.in_flight, totals.waiting, totals.requests) == (0, 0, 1)
    assert (totals.wake.sum, totals.first_token.sum, totals.latency.sum) == (2, 3, 6)
    assert recorder.last_activity == 106
    assert recorder.snapshot().models["b"].requests == 0


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("phase", ["assigned", "waiting", "started"])
def test_every_outcome_in_every_phase_empties_the_gauges(
    recorder: Recorder, outcome: Outcome, phase: str
) -> None:
    record = recorder.open()
    record.assign("a")
    if phase != "assigned":
        record.wake()
    if phase == "started":
        record.start()
    record.close(outcome, 418)
    totals = recorder.snapshot().models["a"]
    assert (totals.in_flight, totals.waiting, recorder.open_requests) == (0, 0, 0)
    assert dict(totals.results) == {(outcome.value, 418): 1}
    assert totals.latency.count == 0
    record.start()
    record.wake()
    assert recorder.snapshot().models["a"].in_flight == 0


def test_only_requests_of_a_model_keep_the_instance_active(
    recorder: Recorder, clock: Clock
) -> None:
    refused = recorder.open()
    refused.close(Outcome.REFUSED, 401)
    assert recorder.last_activity is None
    record = recorder.open()
    record.assign("a")
    assert recorder.open_requests == 1
    clock.now += 1000
    record.close(Outcome.CLIENT_CLOSED, 499)
    assert (recorder.open_requests, recorder.last_activity) == (0, clock.now)
    assert recorder.snapshot().models[""].requests == 1


def test_engine_totals_survive_a_restart_of_the_engine(recorder: Recorder) -> None:
    for tokens in (EngineTokens(10, 5), EngineTokens(10, 9), EngineTokens(3, 1)):
        recorder.observe_engine_tokens("a", tokens)
    totals = recorder.snapshot().models["a"]
    assert (totals.prompt_tokens, totals.generated_tokens) == (13, 10)


USAGE = b'{"usage":{"prompt_tokens":3,"completion_tokens":4}}'


def answered(recorder: Recorder, model: str = "a", key: str = "") -> RequestUsage:
    record = recorder.open()
    record.assign(model, key)
    record.start()
    record.saw(USAGE)
    return record.close(Outcome.OK, 200)


def test_a_restart_that_is_told_counts_from_zero(recorder: Recorder) -> None:
    recorder.observe_engine_tokens("a", EngineTokens(10, 5))
    recorder.engine_ended("a")
    recorder.engine_ended("a")
    recorder.observe_engine_tokens("a", EngineTokens(20, 50))
    totals = recorder.snapshot().models["a"]
    assert (totals.prompt_tokens, totals.generated_tokens) == (30, 55)


def test_tokens_after_the_last_reading_of_an_engine_are_made_up_for(
    recorder: Recorder, clock: Clock
) -> None:
    answered(recorder)
    clock.now += 1
    running = recorder.open()
    running.assign("a")
    running.start()
    clock.now += 1
    recorder.observe_engine_tokens("a", EngineTokens(5, 4))
    clock.now += 1
    answered(recorder)
    running.saw(USAGE)
    running.close(Outcome.OK, 200)  # partly in the reading, so not counted a second time
    recorder.engine_ended("a")
    recorder.observe_engine_tokens("a", EngineTokens(1, 1))
    totals = recorder.snapshot().models["a"]
    assert (totals.prompt_tokens, totals.generated_tokens) == (5 + 3 + 1, 4 + 4 + 1)


def test_a_reading_that_was_overtaken_is_no_restart(recorder: Recorder, clock: Clock) -> None:
    asked_at = clock.now
    clock.now += 1
    recorder.observe_engine_tokens("a", EngineTokens(20, 20), clock.now)
    clock.now += 1
    recorder.observe_engine_tokens("a", EngineTokens(10, 10), asked_at)
    totals = recorder.snapshot().models["a"]
    assert (totals.prompt_tokens, totals.generated_tokens) == (20, 20)


def test_a_reading_of_an_engine_that_has_ended_counts_no_more(
    recorder: Recorder, clock: Clock
) -> None:
    recorder.observe_engine_tokens("a", EngineTokens(20, 20))
    asked_at = clock.now
    clock.now += 1
    recorder.engine_ended("a")
    recorder.observe_engine_tokens("a", EngineTokens(25, 25), asked_at)
    recorder.observe_engine_tokens("a", EngineTokens(1, 2))
    totals = recorder.snapshot().models["a"]
    assert (totals.prompt_tokens, totals.generated_tokens) == (21, 22)


def test_usage_stands_in_for_engines_that_count_no_tokens(recorder: Recorder) -> None:
    recorder.has_engine_counters = False
    answered(recorder)
    recorder.engine_ended("a")
    answered(recorder)
    totals = recorder.snapshot().models["a"]
    assert (totals.prompt_tokens, totals.generated_tokens) == (6, 8)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 50), st.booleans()), min_size=1, max_size=20
    )
)
def test_engine_totals_are_the_sum_of_its_lives(
    readings: list[tuple[int, int, bool]],
) -> None:
    recorder = Recorder(["a"])
    prompt = generated = in_life = made = 0
    for grown_prompt, grown, is_new in readings:
        if is_new:
            recorder.engine_ended("a")
            in_life = made = 0
        in_life += grown_prompt
        made += grown
        prompt += grown_prompt
        generated += grown
        recorder.observe_engine_tokens("a", EngineTokens(in_life, made))
    totals = recorder.snapshot().models["a"]
    assert (totals.prompt_tokens, totals.generated_tokens) == (prompt, generated)


def test_requests_and_tokens_are_counted_by_key(recorder: Recorder) -> None:
    for key, model in (("ci", "a"), ("ci", "a"), ("ci", "b"), ("", "a"), ("dev", "a")):
        assert answered(recorder, model, key) == (3, 4, False)
    refused = recorder.open()
    refused.assign("b", "dev")
    refused.close(Outcome.REFUSED, 429)
    snapshot = recorder.snapshot()
    assert snapshot.keys == {
        ("ci", "a"): KeyTotals(2, 6, 8),
        ("ci", "b"): KeyTotals(1, 3, 4),
        ("dev", "a"): KeyTotals(1, 3, 4),
        ("dev", "b"): KeyTotals(1, 0, 0),
    }
    totals = snapshot.models["a"]
    assert (totals.usage_prompt_tokens, totals.usage_completion_tokens) == (12, 16)


def test_time_per_token_is_from_the_first_piece_to_the_end(
    recorder: Recorder, clock: Clock
) -> None:
    record = recorder.open()
    record.assign("a")
    record.start()
    clock.now += 5
    record.first_token()
    for _ in range(3):
        record.saw(b'data: {"choices":[]}\n\n')
        clock.now += 1
    record.saw(b"data: " + USAGE + b"\n\n")
    record.close(Outcome.OK, 200)
    totals = recorder.snapshot().models["a"]
    assert (totals.per_token.count, totals.per_token.sum) == (1, 1.0)
    assert totals.first_token.sum == 5


def test_an_answer_in_one_piece_says_nothing_of_time_per_token(recorder: Recorder) -> None:
    record = recorder.open()
    record.assign("a")
    record.start()
    record.first_token()
    record.saw(b"data: " + USAGE + b"\n\n")
    record.close(Outcome.OK, 200)
    assert recorder.snapshot().models["a"].per_token.count == 0


def test_streams_without_usage_are_estimated_apart(recorder: Recorder) -> None:
    record = recorder.open()
    record.assign("a", "k")
    record.start()
    record.first_token()
    for _ in range(5):
        record.saw(b'data: {"choices":[]}\n\n')
    assert record.close(Outcome.CLIENT_CLOSED, 499) == (0, 5, True)
    snapshot = recorder.snapshot()
    totals = snapshot.models["a"]
    assert (totals.usage_completion_tokens, totals.estimated_tokens) == (0, 5)
    assert snapshot.keys["k", "a"].completion_tokens == 5


def test_a_request_may_wait_for_a_place_and_then_for_the_model(
    recorder: Recorder, clock: Clock
) -> None:
    record = recorder.open()
    record.assign("a")
    record.queue()
    clock.now += 1
    record.wake()
    clock.now += 2
    assert recorder.snapshot().models["a"].waiting == 1
    record.start()
    totals = recorder.snapshot().models["a"]
    assert (totals.waiting, totals.in_flight) == (0, 1)
    assert (totals.queue.sum, totals.wake.sum) == (1, 2)
    record.wake()  # the engine was gone when the request came to it
    totals = recorder.snapshot().models["a"]
    assert (totals.waiting, totals.in_flight) == (1, 0)
    clock.now += 4
    record.start()
    record.close(Outcome.OK, 200)
    totals = recorder.snapshot().models["a"]
    assert (totals.queue.sum, totals.wake.sum) == (1, 6)


CALLS = st.sampled_from(["assign", "queue", "wake", "start", "first_token", "saw", "close"])


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), CALLS, st.sampled_from(list(Outcome))), max_size=60),
    st.sampled_from([200, 206, 400, 429, 499, 502]),
)
def test_whatever_the_order_every_record_counts_once_and_the_gauges_return_to_zero(
    calls: list[tuple[int, str, Outcome]], status: int
) -> None:
    recorder = Recorder(["a", "b"])
    records = [recorder.open() for _ in range(4)]
    for index, call, outcome in calls:
        record = records[index]
        if call == "assign":
            record.assign("ab"[index % 2], "key")
        elif call == "saw":
            record.saw(USAGE)
        elif call == "close":
            record.close(outcome, status)
        else:
            getattr(record, call)()
        for totals in recorder.snapshot().models.values():
            assert totals.in_flight >= 0
            assert totals.waiting >= 0
            assert totals.in_flight + totals.waiting <= recorder.open_requests
    for record in records:
        record.close(Outcome.STOPPED, 503)
        assert record.close(Outcome.OK, 200) == (0, 0, False)
        assert record.is_closed
    models = recorder.snapshot().models.values()
    assert recorder.open_requests == 0
    assert sum(totals.requests for totals in models) == 4
    assert [(t.in_flight, t.waiting) for t in models] == [(0, 0)] * len(models)


def test_pieces_are_not_kept_beyond_the_end(recorder: Recorder) -> None:
    record = recorder.open()
    record.assign("a")
    record.first_token()
    piece = bytearray(b"data: x\n\n")
    before = sys.getrefcount(piece)
    for _ in range(5):
        record.saw(piece)  # type: ignore[arg-type]
    record.close(Outcome.OK, 200)
    record.saw(piece)  # type: ignore[arg-type]
    assert sys.getrefcount(piece) == before


def test_moves_are_observed_and_reported_by_kind(recorder: Recorder) -> None:
    recorder.observe_move("a", "load", 10.0)
    before = recorder.snapshot()
    recorder.observe_move("a", "load", 2.0)
    recorder.observe_move("a", "load", 4.0)
    recorder.observe_move("a", "wake", 0.5)
    recorder.observe_move("a", "sleep", 1.5)
    recorder.observe_move("a", "stop", 1.0)
    after = recorder.snapshot()
    assert {k: (h.count, h.sum) for k, h in after.models["a"].moves.items()} == {
        "load": (3, 16.0),
        "wake": (1, 0.5),
        "sleep": (1, 1.5),
        "stop": (1, 1.0),
    }
    points = [p for p in scalars_between(before, after, 1.0) if p.title == "Model Moves (s)"]
    assert {series: value for _, series, value in points} == {
        "a (load)": 3.0,
        "a (wake)": 0.5,
        "a (sleep)": 1.5,
        "a (stop)": 1.0,
    }
    after_that = scalars_between(after, recorder.snapshot(), 1.0)
    assert not [point for point in after_that if point.title == "Model Moves (s)"]


def test_memory_is_reported_in_gib_where_there_is_any() -> None:
    assert memory_scalars({"a": 3 * 2**30, "b": 0}) == [("Memory (GiB)", "a", 3.0)]


def test_memory_by_pool_says_when_a_pool_was_left() -> None:
    by_pool = {"a": {"gpu0": 0, "host": 2**29}}
    assert memory_scalars({"a": 2**30}, by_pool) == [
        ("Memory (GiB)", "a", 1.0),
        ("Memory (GiB)", "a (gpu0)", 0.0),
        ("Memory (GiB)", "a (host)", 0.5),
    ]


def test_snapshots_may_be_taken_from_another_thread(recorder: Recorder) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        while not stop.is_set():
            try:
                recorder.snapshot()
            except RuntimeError as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for index in range(3000):
        record = recorder.open()
        record.assign(f"model {index}")
        record.close(Outcome.OK, 200 + index)
    stop.set()
    reader.join()
    assert failures == []


def test_scalars_are_means_of_the_interval_and_totals(recorder: Recorder, clock: Clock) -> None:
    def request(seconds: float) -> None:
        record = recorder.open()
        record.assign("a")
        record.start()
        clock.now += seconds / 2
        record.first_token()
        clock.now += seconds / 2
        record.close(Outcome.OK, 200)

    request(10.0)
    recorder.observe_engine_tokens("a", EngineTokens(1, 100))
    before = recorder.snapshot()
    request(1.0)
    request(3.0)
    clock.now += 6
    recorder.observe_engine_tokens("a", EngineTokens(1, 150))
    recorder.open().close(Outcome.REFUSED, 401)
    points = {(p.title, p.series): p.value for p in scalars_between(before, recorder.snapshot())}
    assert points == {
        ("Total Number of Requests", "a"): 3,
        ("Requests in Flight", "a"): 0,
        ("Queue", "a"): 0,
        ("Tokens per Second", "a"): 5,
        ("Latency (ms)", "a"): 2000,
        ("Time to First Token (ms)", "a"): 1000,
        ("Total Number of Requests", "b"): 0,
        ("Requests in Flight", "b"): 0,
        ("Queue", "b"): 0,
        ("Tokens per Second", "b"): 0,
    }
    assert scalars_between(before, recorder.snapshot(), 0.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "# TYPE llamacpp:prompt_tokens_total counter\nllamacpp:prompt_tokens_total 12\n"
            "# TYPE llamacpp:tokens_predicted_total counter\nllamacpp:tokens_predicted_total 34\n",
            EngineTokens(12, 34),
        ),
        (
            "# TYPE vllm:prompt_tokens counter\n"
            'vllm:prompt_tokens_total{model_name="a",engine="0"} 1.0\n'
            'vllm:prompt_tokens_total{model_name="a",engine="1"} 2.0\n'
            "# TYPE vllm:generation_tokens counter\n"
            'vllm:generation_tokens_total{model_name="a",engine="0"} 5e+06\n',
            EngineTokens(3, 5_000_000),
        ),
        ("# TYPE up gauge\nup 1\n", None),
        ("", None),
    ],
)
def test_engine_token_totals(text: str, expected: EngineTokens | None) -> None:
    assert parse_engine_tokens(text) == expected


def test_engine_text_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="."):
        parse_engine_tokens("<html>{nothing here</html>\n")
