"""After a fixed load of 200 requests all that tells of it agrees with the client's own count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest

from common.local_server import RunningServer
from common.telemetry.histogram import DURATION_BOUNDS
from tests.e2e.load_client import CLIENT_LEFT, answered, nearest_rank, results
from tests.e2e.loaded import Told, llama_setting, loaded, stub_setting
from tests.fixtures_clearml import run_sdk_script

WITHIN = 0.05
# Tokens of the longest prompt, with the template of the chat.
MOST_PROMPT = 64
MODELS = pytest.mark.parametrize("model", ["a", "b"])
LATENCY = "gen_ai_server_request_duration_seconds"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(
    scope="module", params=["stub", pytest.param("llama-server", marks=pytest.mark.engine)]
)
def told(
    request: pytest.FixtureRequest,
    clearml_server: RunningServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Told:
    """The whole load once, and everything that was told of it, by both the engines."""
    folder = tmp_path_factory.mktemp("load")
    setting = stub_setting(folder) if request.param == "stub" else llama_setting(folder)
    with loaded(setting, clearml_server, folder, every_s=1.0) as it:
        it.open()
        it.make_all()
        told = it.told()
        assert it.stop() == 0, it.instance.console
    return told


def about(own: float) -> Any:
    return pytest.approx(own, rel=WITHIN)


def counted_tokens(told: Told, model: str) -> tuple[float, float]:
    """Prompt and generated tokens as the instance counts them."""
    value = told.exposition.value
    return (
        value("clearml_deploy_prompt_tokens_total", model=model),
        value("clearml_deploy_generated_tokens_total", model=model),
    )


def assert_buckets(at_most: Mapping[float, float], own: Sequence[float]) -> None:
    """Counts of answers by the time that they took at most, against the clients' times."""
    for bound, count in at_most.items():
        surely = sum(seconds <= bound * (1 - WITHIN) for seconds in own)
        perhaps = sum(seconds <= bound * (1 + WITHIN) for seconds in own)
        assert surely <= count <= perhaps


def test_the_load_has_everything_in_it(told: Told) -> None:
    assert len(told.seen) == 200
    assert {(outcome, status) for _, outcome, status in results(told.seen)} == {
        ("ok", 200),
        ("ok", 400),
        ("client_closed", 499),
        ("refused", 401),
        ("refused", 404),
        ("refused", 429),
    }
    assert all(len(answered(told.seen, model)) > 10 for model in told.models)


def test_prometheus_counts_requests_by_outcome_and_status(told: Told) -> None:
    counted = {
        (labels["model"], labels["outcome"], int(labels["status"])): value
        for labels, value in told.exposition.of("clearml_deploy_requests_total").items()
    }
    assert counted == results(told.seen)


@MODELS
def test_prometheus_has_nothing_left_over(told: Told, model: str) -> None:
    for gauge in ("requests_in_flight", "requests_waiting"):
        assert told.exposition.value(f"clearml_deploy_{gauge}", model=model) == 0


@MODELS
def test_prometheus_has_the_tokens_that_the_engines_counted(told: Told, model: str) -> None:
    counted = counted_tokens(told, model)
    ledger = told.setting.ledgers.get(model)
    if ledger is not None:
        lines = [map(int, line.split()) for line in ledger.read_text().splitlines()]
        assert counted == tuple(map(sum, zip(*lines, strict=True)))
        return
    # A real engine keeps no other book than its counters, which begin again when it does. Of what
    # the clients were not told it is the requests that they left.
    engine = (
        told.exposition.of("llamacpp:prompt_tokens_total", model=model),
        told.exposition.of("llamacpp:tokens_predicted_total", model=model),
    )
    if model != told.setting.unloaded:
        assert counted == tuple(next(iter(found.values())) for found in engine)
    seen = told.of(model)
    left = [one for one in seen if one.status == CLIENT_LEFT]
    for all_of_them, known, most in (
        (counted[0], sum(one.prompt for one in seen), MOST_PROMPT * len(left)),
        (counted[1], sum(one.completion for one in seen), sum(one.asked.tokens for one in left)),
    ):
        assert known <= all_of_them <= known + most


@MODELS
def test_the_usage_of_requests_is_what_their_clients_were_told(told: Told, model: str) -> None:
    seen = told.of(model)
    value = told.exposition.value
    name = "clearml_deploy_request_tokens_total"
    assert value(name, model=model, type="completion", estimated="false") == sum(
        one.completion for one in seen
    )
    # Streams without a usage are counted by their pieces; of those that their client left more
    # were sent than it got.
    pieces = sum(one.pieces for one in seen if not one.has_usage and one.status == 200)
    left = sum(one.asked.tokens for one in seen if one.status == CLIENT_LEFT)
    assert pieces <= value(name, model=model, type="completion", estimated="true") <= pieces + left


@MODELS
def test_percentiles_of_the_latency_are_the_clients(told: Told, model: str) -> None:
    name = "clearml_deploy_request_duration_quantile_seconds"
    for q in (0.5, 0.95, 0.99):
        own = nearest_rank(answered(told.seen, model), q)
        assert told.exposition.value(name, model=model, quantile=f"{q:g}") == about(own)


@MODELS
def test_the_histogram_of_latencies_has_every_answer(told: Told, model: str) -> None:
    own = answered(told.seen, model)
    assert told.exposition.value(f"{LATENCY}_count", gen_ai_request_model=model) == len(own)
    assert told.exposition.value(f"{LATENCY}_sum", gen_ai_request_model=model) == about(sum(own))
    buckets = told.exposition.of(f"{LATENCY}_bucket", gen_ai_request_model=model)
    assert_buckets({float(labels["le"]): n for labels, n in buckets.items()}, own)


@MODELS
def test_the_time_to_the_first_piece_is_measured_for_every_stream(told: Told, model: str) -> None:
    own = sorted(one.first_s for one in told.of(model) if one.first_s is not None)
    name = "gen_ai_server_time_to_first_token_seconds_count"
    assert told.exposition.value(name, gen_ai_request_model=model) == len(own)


def test_waits_are_counted_where_requests_had_to_wait(told: Told) -> None:
    value = told.exposition.value
    # Those that came while the models loaded, and the first after one was unloaded.
    waking = "clearml_deploy_wake_time_seconds_count"
    assert sum(value(waking, model=model) for model in told.models) >= 2
    moves = "clearml_deploy_model_move_seconds_count"
    assert value(moves, model="b", kind="load") == 2
    assert value(moves, model="b", kind="stop") == 1


@MODELS
def test_model_endpoints_count_every_request(told: Told, model: str) -> None:
    row, details = told.rows[model], told.details[model]
    assert (row["requests"], details["requests"]) == (len(told.of(model)),) * 2


@MODELS
def test_model_endpoints_have_the_last_minute(told: Told, model: str) -> None:
    for report in (told.rows[model], told.details[model]):
        reported = datetime.fromisoformat(report["last_update"]).timestamp()
        seen = told.of(model)
        times = answered(told.seen, model)
        if reported - told.began < 59:
            assert report["requests_min"] == len(seen)
            # In whole milliseconds.
            assert report["latency_ms"] == pytest.approx(sum(times) / len(times) * 1000, rel=WITHIN)
        else:  # only the newest of them are in that minute
            recent = [one for one in seen if one.ended > reported - 67]
            assert 0 <= report["requests_min"] <= len(recent)
            assert report["latency_ms"] <= max(times) * 1000 * (1 + WITHIN)


@MODELS
def test_the_page_shows_the_same_counts(told: Told, model: str) -> None:
    (shown,) = [entry for entry in told.page["models"] if entry["name"] == model]
    seen = told.of(model)
    assert shown["requests"] == len(seen)
    assert shown["failed"] == sum(one.status >= 400 for one in seen)
    assert (shown["in_flight"], shown["waiting"]) == (0, 0)
    assert (shown["prompt_tokens"], shown["generated_tokens"]) == counted_tokens(told, model)


@MODELS
def test_the_pages_charts_add_up_to_the_counts(told: Told, model: str) -> None:
    charts = told.page["charts"]
    series = charts["models"][model]
    assert sum(series["requests"]) == len(told.of(model))
    starts = [charts["times"][0] - charts["every_s"], *charts["times"]]
    tokens = sum(
        rate * (end - start)
        for rate, (start, end) in zip(series["tokens_per_s"], pairwise(starts), strict=True)
    )
    assert tokens == about(counted_tokens(told, model)[1])
    own = answered(told.seen, model)
    shown = [p for name in ("latency_p50_ms", "latency_p95_ms") for p in series[name] if p]
    assert min(shown) / 1000 >= own[0] * (1 - WITHIN)
    assert max(shown) / 1000 <= own[-1] * (1 + WITHIN)


def test_scalars_read_by_the_sdk_have_every_request(
    told: Told, clearml_server: RunningServer, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("read_scalars.py")
    scalars = run_sdk_script(clearml_server, script, told.reports.task, cache=tmp_path)
    for model in told.models:
        totals = scalars["Total Number of Requests"][model]["y"]
        assert totals == sorted(totals)
        assert totals[-1] == len(told.of(model))
        for gauge in ("Requests in Flight", "Queue"):
            assert scalars[gauge][model]["y"][-1] == 0


@MODELS
def test_the_rates_of_tokens_add_up_to_all_tokens(told: Told, model: str) -> None:
    """A rate times the distance to the point before; stamps are whole milliseconds."""
    points = told.reports.curve("Tokens per Second", model)
    tokens = sum(rate * (at - before) / 1000 for (before, _), (at, rate) in pairwise(points))
    assert points[0][1] == 0
    assert tokens == about(counted_tokens(told, model)[1])


@MODELS
def test_the_scalars_of_latency_are_means_of_what_the_clients_saw(told: Told, model: str) -> None:
    own = answered(told.seen, model)
    means = [value / 1000 for _, value in told.reports.curve("Latency (ms)", model)]
    assert means
    assert min(means) >= own[0] * (1 - WITHIN)
    assert max(means) <= own[-1] * (1 + WITHIN)


def test_the_table_that_is_left_has_the_counts(told: Told) -> None:
    (table,) = told.reports.plot("Models")["data"]
    cells = dict(zip(table["header"]["values"], table["cells"]["values"], strict=True))
    assert cells["Model"] == list(told.models)
    assert cells["Requests"] == [len(told.of(model)) for model in told.models]
    tokens = [counted_tokens(told, model) for model in told.models]
    assert list(zip(cells["Prompt Tokens"], cells["Generated Tokens"], strict=True)) == tokens


def test_the_latency_plot_that_is_left_has_every_answer(told: Told) -> None:
    for bars in told.reports.plot("Latency Histogram")["data"]:
        own = answered(told.seen, bars["name"])
        assert sum(bars["y"]) == len(own)
        ends = [float(label.split()[-1]) for label in bars["x"]]
        assert set(ends) <= set(DURATION_BOUNDS)
        assert_buckets(dict(zip(ends, accumulate(bars["y"]), strict=True)), own)


def test_the_property_that_is_left_counts_the_requests_of_all_models(told: Told) -> None:
    total = sum(len(told.of(model)) for model in told.models)
    assert told.reports.hyperparameter("properties", "requests") == str(total)
