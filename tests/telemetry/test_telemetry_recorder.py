"""Records, totals, scalars, Prometheus text and the engines' own counters."""

from __future__ import annotations

import re
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.telemetry import names
from common.telemetry.engine_metrics import EngineTokens, parse_engine_tokens
from common.telemetry.prometheus import PrometheusExporter
from common.telemetry.recorder import Outcome, Recorder
from common.telemetry.scalars import scalars_between


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
    assert recorder.idle_s(90) == 10
    refused = recorder.open()
    refused.close(Outcome.REFUSED, 401)
    assert recorder.last_activity is None
    record = recorder.open()
    record.assign("a")
    clock.now += 1000
    assert recorder.idle_s(90) == 0
    record.close(Outcome.CLIENT_CLOSED, 499)
    clock.now += 7
    assert recorder.idle_s(90) == 7
    assert recorder.snapshot().models[""].requests == 1


def test_engine_totals_survive_a_restart_of_the_engine(recorder: Recorder) -> None:
    for tokens in (EngineTokens(10, 5), EngineTokens(10, 9), EngineTokens(3, 1)):
        recorder.observe_engine_tokens("a", tokens)
    totals = recorder.snapshot().models["a"]
    assert (totals.prompt_tokens, totals.generated_tokens) == (13, 10)


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


def test_prometheus_text_agrees_with_the_recorder(recorder: Recorder, clock: Clock) -> None:
    for seconds in (0.02, 0.3, 1000.0):
        record = recorder.open()
        record.assign("a")
        record.start()
        clock.now += seconds
        record.first_token()
        record.close(Outcome.OK, 200)
    still = recorder.open()
    still.assign("b")
    still.start()
    exporter = PrometheusExporter(recorder.snapshot, lambda: {"a": "ready", "b": "loading"})
    text = exporter.render().decode()
    samples = {
        (s.name, *sorted(s.labels.items())): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }
    model = ("model", "a")
    key = ("clearml_deploy_requests_total", model, ("outcome", "ok"), ("status", "200"))
    assert samples[key] == 3
    name = "clearml_deploy_request_duration_seconds"
    assert samples[(f"{name}_bucket", ("le", "0.04"), model)] == 1
    assert samples[(f"{name}_bucket", ("le", "0.64"), model)] == 2
    assert samples[(f"{name}_bucket", ("le", "655.36"), model)] == 2
    assert samples[(f"{name}_bucket", ("le", "+Inf"), model)] == 3
    assert samples[(f"{name}_count", model)] == 3
    assert samples[(f"{name}_sum", model)] == pytest.approx(1000.32)
    assert samples[("clearml_deploy_requests_in_flight", ("model", "b"))] == 1
    status = ("clearml_deploy_model_status", ("model", "b"), ("status", "loading"))
    assert samples[status] == 1
    assert exporter.render() == text.encode()


def test_table_has_each_public_title_once_and_good_names() -> None:
    titles = [metric.scalar_title for metric in names.METRICS if metric.scalar_title]
    assert sorted(titles) == [
        "Latency (ms)",
        "Memory (GiB)",
        "Model Moves (s)",
        "Queue",
        "Requests in Flight",
        "Time to First Token (ms)",
        "Tokens per Second",
        "Total Number of Requests",
    ]
    assert len({metric.name for metric in names.METRICS}) == len(names.METRICS)
    for metric in names.METRICS:
        assert re.fullmatch(r"clearml_deploy_[a-z_]+", metric.name)
        assert metric.help.endswith(".")
        assert (metric.kind is names.MetricKind.COUNTER) == metric.name.endswith("_total")
        if metric.unit in ("seconds", "bytes"):
            assert metric.name.endswith(f"_{metric.unit}")


def test_every_exported_family_is_in_the_table(recorder: Recorder) -> None:
    exporter = PrometheusExporter(recorder.snapshot, dict)
    known = {metric.name.removesuffix("_total") for metric in names.METRICS}
    exported = {f.name for f in text_string_to_metric_families(exporter.render().decode())}
    not_yet = {names.MEMORY.name, names.MODEL_MOVES.name}  # fed by the memory manager
    assert exported == known - not_yet


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
