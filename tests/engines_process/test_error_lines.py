"""Errors among an engine's lines."""

from __future__ import annotations

import pytest

from common.engines.console import without_time
from common.engines.error_lines import ErrorLines


@pytest.mark.parametrize(
    "line",
    [
        "(EngineCore pid=12) ERROR 11-20 15:10:53 [core.py:96] EngineCore failed to start.",
        "ERROR:    [Errno 98] address already in use",
        "0.00.208.529 E llama_adapter_lora_init: failed to open '/nowhere.gguf'",
        "error: invalid argument: --x",
        "vllm: error: unrecognized arguments: --x",
        "llama-server: error: argument --ctx-size",
        "terminate called after throwing an instance of 'std::runtime_error'",
        "torch.OutOfMemoryError: CUDA out of memory",
        "/src/ggml.c:12: GGML_ASSERT(x) failed",
    ],
)
def test_errors_are_told(line: str) -> None:
    assert ErrorLines().is_error(line)


@pytest.mark.parametrize(
    "line",
    [
        "(APIServer pid=1) INFO 11-20 15:10:53 [api.py:1] errors are logged",
        "WARNING 11-20 15:10:53 [system_utils.py:255] failed with error current limit",
        "0.00.938.965 W srv    operator(): got exception: {}",
        "llama_model_loader: loaded",
        'INFO:     - "GET /health HTTP/1.1" 200 OK',
    ],
)
def test_other_lines_are_not(line: str) -> None:
    assert not ErrorLines().is_error(line)


def test_a_traceback_is_one_error_to_its_last_line() -> None:
    lines = [
        "before",
        "Traceback (most recent call last):",
        '  File "x.py", line 1, in <module>',
        "    raise ValueError",
        "ValueError: no",
        "The above exception was the direct cause of the following exception:",
        "after",
    ]
    errors = ErrorLines()
    assert [errors.is_error(line) for line in lines] == [False, *[True] * 5, False]


def test_tracebacks_of_two_processes_do_not_mix() -> None:
    errors = ErrorLines()
    lines = [
        ("(Worker pid=1) Traceback (most recent call last):", True),
        ("(Other pid=2)   indented but nothing", False),
        ("loaded", False),
        ('(Worker pid=1)   File "x.py"', True),
        ("(Worker pid=1) KeyError: 1", True),
        ("(Worker pid=1) goes on", False),
    ]
    assert [errors.is_error(line) for line, _ in lines] == [is_error for _, is_error in lines]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("0.00.460.843 I slot release: id", "I slot release: id"),
        ("INFO 11-20 15:10:53 [core.py:96] text", "INFO [core.py:96] text"),
        ("(Worker pid=3) WARNING 11-20 15:10:53 [a.py:1] x", "(Worker pid=3) WARNING [a.py:1] x"),
        ("0.00 I", "0.00 I"),
        ("at INFO 11-20 15:10:53 [x]", "at INFO 11-20 15:10:53 [x]"),
    ],
)
def test_an_engines_own_time_is_dropped(line: str, shown: str) -> None:
    assert without_time(line) == shown
