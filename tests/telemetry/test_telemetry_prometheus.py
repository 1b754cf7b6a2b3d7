"""The exposition of an instance: its own families, and the engines' passed on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from exposition_rules import check_exposition
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from common.telemetry import names
from common.telemetry.prometheus import render_metrics
from common.telemetry.recorder import Outcome, Recorder

LLAMACPP = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total {0}
# HELP llamacpp:kv_cache_usage_ratio KV-cache usage. 1 means 100 percent usage.
# TYPE llamacpp:kv_cache_usage_ratio gauge
llamacpp:kv_cache_usage_ratio 0.5
"""
VLLM = """\
# HELP python_info Python platform information
# TYPE python_info gauge
python_info{implementation="CPython"} 1.0
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 12.0
# HELP vllm:prompt_tokens_created Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_created gauge
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.76e+09
# HELP vllm:time_to_first_token_seconds Histogram of time to first token in seconds.
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="m"} 0.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="m"} 3.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 3.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 1.5
"""

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples_of(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def busy_recorder() -> Recorder:
    now = [100.0]
    recorder = Recorder(["a", "b"], lambda: now[0])
    for seconds in (0.0195, 0.3, 1000.0):
        record = recorder.open()
        record.assign("a", "ci")
        record.queue()
        record.wake()
        record.start()
        now[0] += seconds / 2
        record.first_token()
        record.saw(b'data: {"choices":[]}\n\n')
        now[0] += seconds / 2
        record.saw(b'data: {"usage":{"prompt_tokens":5,"completion_tokens":3}}\n\n')
        record.close(Outcome.OK, 200)
    recorder.observe_move("a", "load", 12.0)
    still = recorder.open()
    still.assign("b")
    still.start()
    recorder.open().close(Outcome.REFUSED, 401)
    return recorder


def render(**engines: str | None) -> str:
    snapshot = busy_recorder().snapshot()
    statuses = {"a": "ready", "b": "loading"}
    return render_metrics(snapshot, statuses, {"a": 2**30}, engines, {"b": "embeddings"}).decode()


def gen_ai(model: str, operation: str = "chat") -> dict[str, str]:
    return {
        "gen_ai_request_model": model,
        "gen_ai_operation_name": operation,
        "gen_ai_provider_name": "clearml_deploy",
    }


def test_the_text_agrees_with_the_recorder() -> None:
    samples = samples_of(render())
    ours = "clearml_deploy"
    assert samples[key(f"{ours}_requests_total", model="a", outcome="ok", status="200")] == 3
    assert samples[key(f"{ours}_requests_total", model="", outcome="refused", status="401")] == 1
    assert samples[key(f"{ours}_requests_in_flight", model="b")] == 1
    assert samples[key(f"{ours}_model_status", model="b", status="loading")] == 1
    assert samples[key(f"{ours}_model_status", model="b", status="ready")] == 0
    assert samples[key(f"{ours}_model_memory_bytes", model="a")] == 2**30
    tokens = f"{ours}_request_tokens_total"
    assert samples[key(tokens, model="a", type="prompt", estimated="false")] == 15
    assert samples[key(tokens, model="a", type="completion", estimated="false")] == 9
    assert samples[key(tokens, model="a", type="completion", estimated="true")] == 0
    assert samples[key(f"{ours}_key_requests_total", key="ci", model="a")] == 3
    assert samples[key(f"{ours}_key_tokens_total", key="ci", model="a", type="prompt")] == 15
    assert samples[key(f"{ours}_model_move_seconds_count", model="a", kind="load")] == 1
    assert samples[key(f"{ours}_queue_time_seconds_count", model="a")] == 3
    assert samples[key(f"{ours}_wake_time_seconds_count", model="a")] == 3


@dataclass(frozen=True)
class Where:
    tier: str
    waiting: int = 0
    bytes_by_pool: Mapping[str, int] = field(default_factory=dict)


def test_models_that_are_moved_show_tier_pools_and_who_waits() -> None:
    placed = {"a": Where("gpu", 0, {"gpu0": 7, "host": 2}), "b": Where("disk", 3)}
    capacity = {"gpu0": 10, "host": 20}
    text = render_metrics(
        busy_recorder().snapshot(), {}, {}, {}, placed=placed, capacity=capacity
    ).decode()
    check_exposition(text)
    samples = samples_of(text)
    tiers = {
        (model, tier): samples[key("clearml_deploy_model_tier", model=model, tier=tier)]
        for model in ("a", "b")
        for tier in ("gpu", "cpu", "disk")
    }
    assert [place for place, value in tiers.items() if value] == [("a", "gpu"), ("b", "disk")]
    held = "clearml_deploy_model_pool_bytes"
    assert samples[key(held, model="a", pool="gpu0")] == 7
    assert samples[key(held, model="a", pool="host")] == 2
    # A pool that a model has left is 0: without a sample a graph would go on with the last one.
    assert samples[key(held, model="b", pool="gpu0")] == 0
    assert samples[key("clearml_deploy_memory_pool_capacity_bytes", pool="host")] == 20
    assert samples[key("clearml_deploy_requests_waiting_for_load", model="b")] == 3
    assert samples[key("clearml_deploy_requests_waiting_for_load", model="a")] == 0


def test_models_that_are_not_moved_have_no_tier() -> None:
    assert not [name for name, _ in samples_of(render()) if "tier" in name or "pool" in name]


def test_histograms_have_the_names_labels_and_buckets_of_the_convention() -> None:
    samples = samples_of(render())
    name = "gen_ai_server_request_duration_seconds"
    expected = {"0.01": 0, "0.02": 1, "0.32": 2, "655.36": 2, "+Inf": 3}
    assert {le: samples[key(f"{name}_bucket", le=le, **gen_ai("a"))] for le in expected} == expected
    assert samples[key(f"{name}_sum", **gen_ai("a"))] == pytest.approx(1000.3195)
    assert samples[key(f"{name}_count", **gen_ai("b", "embeddings"))] == 0
    for other in ("time_to_first_token", "time_per_output_token"):
        assert samples[key(f"gen_ai_server_{other}_seconds_count", **gen_ai("a"))] == 3


def test_percentiles_are_there_without_a_query_language() -> None:
    samples = samples_of(render())
    name = "clearml_deploy_request_duration_quantile_seconds"
    assert samples[key(name, model="a", quantile="0.5")] == pytest.approx(0.3, rel=0.05)
    assert samples[key(name, model="a", quantile="0.99")] == pytest.approx(1000, rel=0.05)
    assert key(name, model="b", quantile="0.5") not in samples


@pytest.mark.parametrize(
    "engines",
    [
        {},
        {"a": None},
        {"a": VLLM, "b": VLLM},
        {"a": LLAMACPP.format(1), "b": VLLM},
        {"a": VLLM + VLLM, "b": "<html><body>502 Bad Gateway</body></html>"},
        {"a": LLAMACPP.format(1) + LLAMACPP.format(2)},
    ],
    ids=["none", "no-answer", "two-vllm", "mixed", "doubled-and-garbage", "doubled"],
)
def test_the_text_is_valid(engines: dict[str, str | None]) -> None:
    text = render(**engines)
    types = check_exposition(text)
    assert {metric.name for metric in names.METRICS} <= set(types)
    assert list(text_string_to_metric_families(text))


def test_families_of_several_engines_are_merged_with_the_label_model() -> None:
    text = render(a=VLLM, b=VLLM.replace(" 12.0", " 30.0"))
    samples = samples_of(text)
    of = {"engine": "0", "model_name": "m"}
    assert samples[key("vllm:prompt_tokens_total", model="a", **of)] == 12
    assert samples[key("vllm:prompt_tokens_total", model="b", **of)] == 30
    assert samples[key("vllm:time_to_first_token_seconds_count", model="b", **of)] == 3
    assert text.count("# TYPE vllm:prompt_tokens_total counter") == 1


def test_a_label_of_that_name_is_kept_under_another() -> None:
    text = render(a='# TYPE up gauge\nup{model="theirs"} 1\n')
    assert samples_of(text)[key("up", model="a", exported_model="theirs")] == 1


@pytest.mark.parametrize(
    "garbage",
    [
        "<html><body>502 Bad Gateway</body></html>",
        '{"error": "not found"}',
        "<html> 5\n",
        "a b c\n",
        'up{le="0.1" 5\n',
        "# TYPE up nonsense\nup 1\n",
        "up one\n",
        "\x00\x01\x02",
        'up{"quoted.name"="x"} 1\n',
        '{"quoted.metric"} 1\n',
    ],
)
def test_an_engine_that_answers_garbage_is_left_out_and_shown(garbage: str) -> None:
    text = render(a=garbage, b=LLAMACPP.format(7))
    check_exposition(text)
    samples = samples_of(text)
    assert samples[key("clearml_deploy_engine_scrape_success", model="a")] == 0
    assert samples[key("clearml_deploy_engine_scrape_success", model="b")] == 1
    assert samples[key("llamacpp:prompt_tokens_total", model="b")] == 7
    assert not [name for name, labels in samples if name == "up"]


def test_an_engine_that_was_asked_and_gave_nothing_is_shown() -> None:
    samples = samples_of(render(a=None))
    assert samples[key("clearml_deploy_engine_scrape_success", model="a")] == 0


@pytest.mark.parametrize(
    "text",
    [
        "# TYPE clearml_deploy_requests_in_flight gauge\nclearml_deploy_requests_in_flight 9\n",
        "# TYPE clearml_deploy_requests gauge\nclearml_deploy_requests 9\n",
        "gen_ai_server_request_duration_seconds_count 9\n",
    ],
)
def test_an_engine_cannot_take_our_names(text: str) -> None:
    rendered = render(a=text)
    check_exposition(rendered)
    assert samples_of(rendered) == samples_of(render(a=""))


def test_families_that_would_share_a_name_are_not_both_passed_on() -> None:
    text = render(
        a="# TYPE x_total counter\nx_total 1\n# TYPE y histogram\n"
        'y_bucket{le="+Inf"} 2\ny_count 2\ny_sum 2\n',
        b="# TYPE x_total gauge\nx_total 3\n# TYPE y_count gauge\ny_count 5\n",
    )
    check_exposition(text)
    samples = samples_of(text)
    assert samples[key("x_total", model="a")] == 1
    assert samples[key("y_count", model="a")] == 2
    assert key("x_total", model="b") not in samples


LINES = st.lists(
    st.one_of(
        st.sampled_from(["# TYPE x counter", "# TYPE x gauge", "# TYPE x_total gauge"]),
        st.sampled_from(["# TYPE x histogram", "# TYPE x summary", "# HELP x text \\n more"]),
        st.sampled_from(['x{a="1"} 1', 'x_total{model="q"} 2', 'x_bucket{le="1"} 1', "x_sum 1"]),
        st.sampled_from(
            ["x 1 1700000000000", "x NaN", "x +Inf", 'x{a="\\"\\\\\\n"} 1', "x_count 2"]
        ),
        st.text(max_size=20),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=50)
@given(LINES, LINES)
def test_no_text_of_an_engine_makes_the_exposition_unreadable(
    first: list[str], second: list[str]
) -> None:
    text = render(a="\n".join(first) + "\n", b="\n".join(second) + "\n")
    types = [line.split(" ")[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(types) == len(set(types))
    samples = [
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    assert len(samples) == len(set(samples))
    assert key("clearml_deploy_requests_in_flight", model="b") in samples_of(text)


def test_the_table_has_each_public_title_once_and_good_names() -> None:
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
        assert re.fullmatch(r"(clearml_deploy|gen_ai_server)_[a-z_]+", metric.name)
        assert metric.help.endswith(".")
        assert (metric.kind is names.MetricKind.COUNTER) == metric.name.endswith("_total")
        assert (metric.kind is names.MetricKind.HISTOGRAM) == bool(metric.bounds)
        if metric.unit in ("seconds", "bytes"):
            assert metric.name.endswith(f"_{metric.unit}")


def test_every_exported_family_is_in_the_table_and_every_one_of_it_is_exported() -> None:
    assert set(check_exposition(render())) == {metric.name for metric in names.METRICS}
