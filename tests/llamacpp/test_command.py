from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apps.llamacpp.command import OURS, model_options
from common.engines.contract import EngineAddress
from tests.llamacpp.samples import KINDS, OLD_HELP, engine, load, plan_of, value_of, write

# What each option is set to; False beside True, since false is a value of its own.
VALUES: dict[str, tuple[Any, ...]] = {
    "cli": ("--seed 7",),
    "model": ("/models/b.gguf",),
    "model_endpoint_name": ("other",),
    "tensor_split": ("3,2",),
    "numa": ("distributed", "isolate", "numactl"),
    "split_mode": ("none", "layer", "row"),
    "type_k": ("q8_0",),
    "type_v": ("q4_0",),
}
BY_TYPE: dict[str, tuple[Any, ...]] = {
    "boolean": (True, False),
    "integer": (7,),
    "float": (0.5,),
    "string": ("x",),
}

# What an option cannot do without.
BESIDE = {
    "max_waiting_requests": {"Model/max_concurrent_requests": 2},
    "idle_offload_minutes": {"General/enable_disk_swapping": True},
    "max_queue_seconds": {"Model/max_concurrent_requests": 2, "Model/max_waiting_requests": 2},
}


def samples() -> list[Any]:
    return [
        pytest.param(name, value, id=f"{name}={value}")
        for name, option in model_options().items()
        for value in VALUES.get(name, BY_TYPE[option.type])
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "value"), samples())
def test_every_option_is_passed_translated_or_reported(name: str, value: object, kind: Any) -> None:
    option = model_options()[name]
    plain, command = write(kind), write(kind, **BESIDE.get(name, {}), **{option.path: value})
    told = {item.path for item in (*command.translated, *command.unavailable)}
    if name == "cli":
        assert command.argv[-4:-2] == ("--seed", "7")
    elif name in OURS:
        assert command.argv == plain.argv
        assert not told
    else:
        assert command.argv != plain.argv or option.path in told


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"temperature": "0.7"}, ["--temp", "0.7"]),
        ({"top_k": "20"}, ["--top-k", "20"]),
        ({"top_p": "0.9"}, ["--top-p", "0.9"]),
        ({"min_p": "0.05"}, ["--min-p", "0.05"]),
        ({"typical_p": "0.9"}, ["--typical", "0.9"]),
        ({"repeat_penalty": "1.1"}, ["--repeat-penalty", "1.1"]),
        ({"repeat_last_n": "-1"}, ["--repeat-last-n", "-1"]),
        ({"xtc_probability": "0.5"}, ["--xtc-probability", "0.5"]),
        ({"xtc_threshold": "0.1"}, ["--xtc-threshold", "0.1"]),
        ({"number_of_gpu_layers": "9999"}, ["--gpu-layers", "9999"]),
        ({"rope_scaling": "4"}, ["--rope-scale", "4.0"]),
        ({"rope_frequency_base": "10000"}, ["--rope-freq-base", "10000.0"]),
        ({"rope_frequency_scale": "0.25"}, ["--rope-freq-scale", "0.25"]),
        ({"yarn_extrapolation_mix_factor": "-1"}, ["--yarn-ext-factor", "-1.0"]),
        ({"yarn_attention_factor": "1"}, ["--yarn-attn-factor", "1.0"]),
        ({"yarn_beta_fast": "32"}, ["--yarn-beta-fast", "32.0"]),
        ({"yarn_beta_slow": "1"}, ["--yarn-beta-slow", "1.0"]),
        ({"threads": "2"}, ["--threads", "2"]),
        ({"threads_batch": "4"}, ["--threads-batch", "4"]),
        ({"tensor_split": "3, 2"}, ["--tensor-split", "3,2"]),
        ({"numa": "distributed"}, ["--numa", "distribute"]),
        ({"split_mode": "Layer"}, ["--split-mode", "layer"]),
        ({"main_gpu": "1"}, ["--main-gpu", "1"]),
        ({"verbose": "true"}, ["--verbose"]),
        ({"continuous_batching": "true"}, ["--cont-batching"]),
        ({"continuous_batching": "false"}, ["--no-cont-batching"]),
        ({"Advanced/offload_kqv": "false"}, ["--no-kv-offload"]),
        ({"Advanced/offload_kqv": "true"}, ["--kv-offload"]),
        ({"Advanced/flash_attention": "true"}, ["--flash-attn", "on"]),
        ({"Advanced/flash_attention": "false"}, ["--flash-attn", "off"]),
        ({"Advanced/type_k": "q8_0"}, ["--cache-type-k", "q8_0"]),
        ({"Advanced/type_v": "q8_0"}, ["--cache-type-v", "q8_0"]),
        ({"Advanced/max_batch_total_tokens": "1024"}, ["--batch-size", "1024"]),
        ({"Advanced/max_physical_batch_total_tokens": "256"}, ["--ubatch-size", "256"]),
        ({"Advanced/max_batch_size": "6"}, ["--parallel", "6"]),
        ({"no_mmap": "true"}, ["--load-mode", "none"]),
        ({"no_mmap": "false"}, ["--load-mode", "mmap"]),
        ({"Advanced/use_mmap": "false"}, ["--load-mode", "none"]),
        ({"Advanced/use_mlock": "true"}, ["--load-mode", "mmap+mlock"]),
        ({"Advanced/use_mlock": "true", "no_mmap": "true"}, ["--load-mode", "mlock"]),
        ({"context_size": "4096", "parallel": "4"}, ["--ctx-size", "16384"]),
        ({"context_size": "4096", "parallel": "1"}, ["--ctx-size", "4096"]),
        ({"context_size": "4096"}, ["--ctx-size", "16384"]),
        ({"context_size": "0"}, ["--ctx-size", "0", "--kv-unified"]),
        ({}, ["--ctx-size", "0", "--kv-unified"]),
        ({}, ["--threads", "3"]),
        ({}, ["--parallel", "4"]),
        ({}, ["--model", "/models/a.gguf", "--alias", "tiny", "--host", "/run/e.sock"]),
        ({}, ["--metrics", "--no-ui"]),
        ({"embedding": "true"}, ["--embeddings", "--ubatch-size", "2048"]),
    ],
)
def test_native_server_gets(parameters: dict[str, str], expected: list[str]) -> None:
    argv = list(write(**parameters).argv)
    start = argv.index(expected[0])
    assert argv[start : start + len(expected)] == expected
    assert argv.count(expected[0]) == 1


def test_unset_options_leave_the_argv_alone() -> None:
    assert write().argv == (
        *("llama-server", "--model", "/models/a.gguf", "--alias", "tiny", "--host", "/run/e.sock"),
        *("--metrics", "--no-ui", "--parallel", "4", "--threads", "3", "--ctx-size", "0"),
        "--kv-unified",
    )


def test_wheel_gets_the_arguments_of_the_native_server() -> None:
    parameters = {"temperature": "0.5", "context_size": "512", "Advanced/use_mlock": "true"}
    native, wheel = write("llama-server", **parameters), write("xllamacpp", **parameters)
    assert wheel.argv[3:] == native.argv[1:]
    assert wheel.argv[1:3] == ("-m", "apps.llamacpp.engines.wheel_server")


def test_a_port_is_passed_where_there_is_no_socket() -> None:
    settings = load()
    plan = plan_of(settings, address=EngineAddress(port=9000))
    argv = engine().command(plan, settings).argv
    assert argv[argv.index("--host") :][:4] == ("--host", "127.0.0.1", "--port", "9000")


def test_three_fields_of_loading_are_one_flag_and_all_reported() -> None:
    command = write(**{"no_mmap": "true", "Advanced/use_mmap": "false", "Advanced/use_mlock": "1"})
    assert command.argv.count("--load-mode") == 1
    assert {item.path for item in command.translated} == {
        "Model/no_mmap",
        "Advanced/use_mmap",
        "Advanced/use_mlock",
    }


def test_options_without_effect_are_named_with_their_reason() -> None:
    command = write(**{"Advanced/defrag_threshold": "0.1", "Advanced/validation_workers": "2"})
    told = {item.path: (item.title, item.reason) for item in command.unavailable}
    assert told["Advanced/defrag_threshold"][0] == "Defrag Threshold"
    assert "no longer" in told["Advanced/defrag_threshold"][1]
    assert "no such workers" in told["Advanced/validation_workers"][1]


def test_python_server_reports_sampling_and_slots() -> None:
    command = write("llama_cpp.server", temperature="0.5", parallel="4", context_size="2048")
    assert value_of(command, "--ctx-size") == "2048"
    reasons = {item.path: item.reason for item in command.unavailable}
    assert "from each request" in reasons["Model/temperature"]
    assert "one request after the other" in reasons["Model/parallel"]
    assert engine("llama_cpp.server").notice.startswith("WARNING")


@pytest.mark.parametrize(
    ("parameters", "expected", "absent"),
    [
        ({"no_mmap": "true"}, ["--no-mmap"], "--load-mode"),
        ({"Advanced/use_mlock": "true"}, ["--mlock"], "--load-mode"),
        ({"Advanced/flash_attention": "true"}, ["--flash-attn"], "on"),
        ({"Advanced/flash_attention": "false"}, ["--metrics"], "--flash-attn"),
        ({"Advanced/offload_kqv": "false"}, ["--no-kv-offload"], "--kv-offload"),
        ({"Advanced/offload_kqv": "true"}, ["--metrics"], "--no-kv-offload"),
        ({"Advanced/defrag_threshold": "0.2"}, ["--defrag-thold", "0.2"], "--load-mode"),
        ({}, ["--no-webui"], "--no-ui"),
        ({}, ["--ctx-size", "0"], "--kv-unified"),
    ],
)
def test_older_server_gets_its_own_flags(
    parameters: dict[str, str], expected: list[str], absent: str
) -> None:
    settings = load(**parameters)
    command = engine(help_text=OLD_HELP).command(plan_of(settings), settings)
    argv = list(command.argv)
    start = argv.index(expected[0])
    assert argv[start : start + len(expected)] == expected
    assert absent not in argv


def test_an_option_that_an_older_server_lacks_is_reported() -> None:
    settings = load(top_k="3")
    (item,) = engine(help_text=OLD_HELP).command(plan_of(settings), settings).unavailable
    assert (item.path, item.reason) == ("Model/top_k", "the engine in use has no --top-k")


def test_cli_replaces_the_form_and_names_what_it_replaces() -> None:
    command = write(cli="--ctx-size 512 --temp=0.1", temperature="0.9", top_k="5")
    assert value_of(command, "--ctx-size") == "512"
    assert value_of(command, "--temp") == "0.1"
    assert "--top-k" not in command.argv
    assert "--parallel" not in command.argv
    assert value_of(command, "--threads") == "3"
    assert {item.path for item in command.unavailable} == {"Model/temperature", "Model/top_k"}


def test_cli_threads_win_over_the_default() -> None:
    command = write(cli="-t 5")
    assert command.argv.count("--threads") == 1
    assert value_of(command, "--threads") == "5"


def test_cli_model_is_ignored_with_a_note() -> None:
    command = write(cli="--model /other.gguf --temp 0.2")
    assert value_of(command, "--model") == "/models/a.gguf"
    assert command.argv.count("--model") == 1
    (note,) = command.unavailable
    assert (note.title, note.path) == ("CLI", "Model/cli")
    assert "--model /other.gguf is ignored" in note.reason


def test_cli_alias_names_the_endpoint_if_the_field_is_empty() -> None:
    assert load(cli="--alias first,second").models[0].endpoint_name == "first"
    assert load(cli="-a=one").models[0].endpoint_name == "one"
    assert load(cli="--temp 1").models[0].endpoint_name is None
    both = load(cli="--alias other", model_endpoint_name="mine")
    assert both.models[0].endpoint_name == "mine"
    command = engine().command(plan_of(both, name="mine"), both)
    assert value_of(command, "--alias") == "mine"
    assert "--alias other is ignored" in command.unavailable[0].reason


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("cli", "words"),
    [
        ("--host 0.0.0.0", "--host cannot be set here"),
        ("--port 80", "--port cannot be set here"),
        ("--api-key secret-key", "--api-key cannot be set here"),
        ("--api-key-file f", "--api-key-file cannot be set here"),
        ("--ssl-key-file f", "--ssl-key-file cannot be set here"),
        ("-hft tok", "-hft cannot be set here"),
        ("--model-url http://x", "--model-url cannot be set here"),
        ("--gpt-oss-20b-default", "--gpt-oss-20b-default cannot be set here"),
        ("--help", "--help only prints something"),
        ("--ctx-sise 5", "did you mean --ctx-size?"),
        ("--temp", "--temp needs a value"),
        ("--temp 'a", "a quote that is never closed"),
        ("--metrics=on", "--metrics takes no value"),
        ("loose --temp 1", "'loose' is not a flag"),
    ],
)
def test_cli_problems_are_found_beforehand(cli: str, words: str, kind: Any) -> None:
    settings = load(cli=cli)
    if kind == "llama_cpp.server" and cli.startswith("--temp"):
        cli = cli.replace("--temp", "--seed")
        settings = load(cli=cli)
        words = words.replace("--temp", "--seed")
    (problem, *_) = engine(kind).check("Model", settings.models[0], settings)
    assert problem.path == "cli"
    assert words in problem.message
    assert "secret-key" not in problem.message


@pytest.mark.parametrize(
    ("kind", "cli", "words"),
    [
        ("xllamacpp", "--rpc host:1", "--rpc has no effect: the xllamacpp wheel cannot do --rpc"),
        ("xllamacpp", "--top-nsigma 1", "--top-nsigma has no effect"),
        ("llama_cpp.server", "--temp 1", "--temp has no effect: llama_cpp.server takes sampling"),
        ("llama_cpp.server", "--parallel 2", "one request after the other"),
    ],
)
def test_cli_flags_that_an_engine_lacks_are_refused_by_name(
    kind: Any, cli: str, words: str
) -> None:
    settings = load(cli=cli)
    (problem,) = engine(kind).check("Model", settings.models[0], settings)
    assert words in problem.message


def test_all_cli_problems_come_together() -> None:
    settings = load(cli="--host x --nonsense y z --temp")
    problems = engine().check("Model", settings.models[0], settings)
    assert [p.message.split()[0] for p in problems] == ["--host", "--nonsense", "--temp"]


def test_pooling_comes_from_the_file(tmp_path: Path) -> None:
    from tests.models.gguf_files import write_gguf

    settings = load(embedding="true")
    text = write_gguf(tmp_path / "text.gguf")
    pooled = write_gguf(tmp_path / "pooled.gguf", arch="bert", metadata={"bert.pooling_type": 2})
    native = engine()
    plain = native.command(plan_of(settings, files=(text,)), settings)
    own = native.command(plan_of(settings, files=(pooled,)), settings)
    assert value_of(plain, "--pooling") == "mean"
    assert value_of(own, "--pooling") is None


@pytest.mark.parametrize(
    ("parameters", "context"),
    [
        ({"max_total_tokens": "300", "parallel": "2"}, "600"),
        ({"max_total_tokens": "300", "context_size": "512", "parallel": "2"}, "600"),
        ({"max_total_tokens": "600", "context_size": "512", "parallel": "2"}, "1024"),
        ({"parallel": "2"}, "0"),
    ],
)
def test_the_context_bounds_answers_that_name_no_limit(
    parameters: dict[str, str], context: str
) -> None:
    command = write(**parameters)
    assert value_of(command, "--ctx-size") == context
    assert command.argv.count("--ctx-size") == 1


@pytest.mark.parametrize(
    "parameters",
    [
        {"number_of_gpu_layers": "9999", "context_size": "512"},
        {"cli": "-ngl 9999 -c 512 --temp 0.5"},
        {},
    ],
)
def test_what_makes_a_model_fit_wins(parameters: dict[str, str]) -> None:
    settings = load(**parameters)
    plan = plan_of(settings, fitted={"--gpu-layers": "7", "--ctx-size": "4096", "--unknown": "1"})
    argv = engine().command(plan, settings).argv
    assert argv[-4:] == ("--gpu-layers", "7", "--ctx-size", "4096")
    assert not {"9999", "512", "-ngl", "-c", "--unknown"} & set(argv)
    assert argv.count("--ctx-size") == 1
    assert ("--temp" in argv) is ("cli" in parameters)
