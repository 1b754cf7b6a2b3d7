"""What of a llama-server's output is for nobody but who asked for details."""

from __future__ import annotations

import pytest

from apps.llamacpp.engines.output import is_noise
from tests.llamacpp.samples import load

OF_ONE_REQUEST = [
    "0.00.460.843 I slot get_availabl: id  3 | task -1 | selected slot by LRU, t_last = -1",
    "0.00.819.480 I slot print_timing: id  3 | task 0 |    graphs reused =         23",
    "0.00.819.537 I slot      release: id  3 | task 0 | stop processing: n_tokens = 67, truncated = 0",
    "slot launch_slot_: id  0 | task 0 | processing task",
    "0.09.000.000 W slot   operator(): id  0 | task 1133 | n_past was set to 35",
    '0.00.938.965 W srv    operator(): got exception: {"error":{"code":400}}',
    "srv  update_slots: all slots are idle",
    "srv  log_server_r: request: POST /v1/chat/completions 127.0.0.1 200",
    "0.01.000.000 I srv  params_from_: Chat format: Content-only",
    "0.01.000.000 I que          post: new task, id = 1",
    "0.00.002.850 I srv  init_listene: The UI is disabled",
    "0.00.003.120 W srv  llama_server: security: no API key is set and CORS allows all origins",
]
OF_THE_ENGINE = [
    "0.00.004.763 I srv    load_model: loading model '/m.gguf'",
    "0.00.420.634 I srv  llama_server: model loaded",
    "0.00.420.634 E srv  llama_server: exiting due to model loading error",
    "0.00.208.554 E cmn  common_init_: failed to load lora adapter '/nowhere.gguf'",
    "0.00.208.554 E slot update_slots: id  0 | task 1 | failed to decode",
    "llama_model_loader: loaded meta data with 33 key-value pairs",
]


@pytest.mark.parametrize("line", OF_ONE_REQUEST)
def test_what_is_about_one_request_is_noise(line: str) -> None:
    assert is_noise(line)


@pytest.mark.parametrize("line", OF_THE_ENGINE)
def test_what_is_about_the_engine_is_not(line: str) -> None:
    assert not is_noise(line)


@pytest.mark.parametrize(
    ("cli", "is_verbose"),
    [
        ("--verbose", True),
        ("-c 512 -v", True),
        ("-lv 4", True),
        ("--verbosity=99", True),
        ("-lv 3", False),
        ("-c 512", False),
        ("--unclosed '", False),
    ],
)
def test_cli_may_ask_for_details(cli: str, is_verbose: bool) -> None:
    assert load(cli=cli).models[0].is_verbose is is_verbose


def test_the_field_asks_for_details_unless_cli_replaces_it() -> None:
    assert load(verbose="true").models[0].is_verbose
    assert not load(verbose="false").models[0].is_verbose
    assert not load(verbose="true", cli="-c 512").models[0].is_verbose
