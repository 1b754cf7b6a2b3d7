"""What the lines of a starting vLLM tell, in the words of real ones."""

from __future__ import annotations

import pytest

from apps.vllm.loading import is_noise, loading_step

CORE = "(EngineCore pid=8471) INFO 11-20 12:56:43"
WORKER = "(Worker pid=8506) INFO 11-20 12:56:53"


@pytest.mark.parametrize(
    ("line", "step"),
    [
        (
            f"{CORE} [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='/m'",
            "pro",
        ),
        (
            f"{WORKER} [cpu_model_runner.py:68] Starting to load model /m/tiny...",
            "loading the weights",
        ),
        ("Loading safetensors checkpoint shards:   0% Completed | 0/1 [00:00<?, ?it/s]", ", 0 %"),
        ("Loading safetensors checkpoint shards:  45% Completed | 9/20 [00:03<00:04]", ", 45 %"),
        ("(Worker pid=1) Loading pt checkpoint shards: 100% Completed | 1/1", "weights, 100 %"),
        (f"{WORKER} [default_loader.py:501] Loading weights took 0.00 seconds", "are loaded"),
        (f"{WORKER} [backends.py:1156] Dynamo bytecode transform time: 3.10 s", "compiling"),
        (
            f"{CORE} [kv_cache_utils.py:2327] CPU KV cache size: 16,777,216 tokens, Maximum",
            "KV cache",
        ),
        (
            "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  52%|#####  | 35/67",
            "graphs, 52 %",
        ),
        (
            f"{CORE} [core.py:402] init engine (profile, create kv cache, warmup model) took 2 s",
            "HTTP",
        ),
    ],
)
def test_steps(line: str, step: str) -> None:
    assert step in loading_step(line)


@pytest.mark.parametrize(
    "line",
    [
        "(APIServer pid=1) INFO 11-20 12:57:17 [launcher.py:195] Route: /load, Methods: GET",
        "[engine] starting vLLM 0.32.0: /opt/vllm serve /m",
        "INFO:     Waiting for application startup.",
        "",
    ],
)
def test_other_lines_say_nothing(line: str) -> None:
    assert loading_step(line) == ""


API = "(APIServer pid=8436) INFO 11-20 12:57:17"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"{API} [launcher.py:195] Route: /v1/models, Methods: GET", True),
        (f"{API} [launcher.py:186] Available routes are:", True),
        (f"{API} [api_utils.py:347]  ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.32.0", True),
        (f"{API} [api_utils.py:347]", True),
        ("INFO:     Application startup complete.", True),
        ("(APIServer pid=8) INFO:     Started server process [8]", True),
        ('INFO:      - "GET /health HTTP/1.1" 200 OK', True),
        ('(APIServer pid=8) INFO:     127.0.0.1:0 - "GET /metrics HTTP/1.1" 200 OK', True),
        (f"{API} [entry.py:140] Starting vLLM server on unix:/tmp/1.sock", False),
        ("(Worker pid=1) ERROR 11-20 12:57:17 [core.py:1] Route: /x was refused", False),
        (f"{API} [model.py:2152] Using max model len 256", False),
        ("Loading safetensors checkpoint shards: 100% Completed | 1/1", False),
        ("Capturing CUDA graphs (decode, FULL):  52%|█████▏    | 35/67", False),
        ('INFO:     127.0.0.1:0 - "POST /v1/completions HTTP/1.1" 200 OK', False),
        ("ValueError: no", False),
        ("", False),
    ],
)
def test_lines_that_nobody_needs(line: str, expected: bool) -> None:
    assert is_noise(line) is expected
