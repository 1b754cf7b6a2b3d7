"""The lines of a llama-server: which of them tell nothing unless detailed logging was asked for. Pure."""

from __future__ import annotations

import re
from typing import Final

# "0.00.460.843 I slot launch_slot_: id  3 | task 0 | ...", function names cut at twelve characters;
# older builds have neither time nor level.
_HEAD: Final = r"^(?:\d+\.\d\d\.\d{3}\.\d{3} )?(?:[DIW] )?"
_NOISE: Final = re.compile(
    # What a slot does for a request, warnings included: the client has the answer.
    rf"{_HEAD}slot +[\w()]+: id +-?\d+ \|"
    r"|"
    # The queue of requests, the prompt cache, answers to a client's mistake.
    rf"{_HEAD}srv +(?:log_server_r|log_server_request|params_from_|params_from_json_cmpl"
    r"|update_slots|get_availabl|get_available_slot|prompt_save|prompt_load|cancel_tasks|stop)\w*:"
    rf"|{_HEAD}srv +(?:alloc|load|update): +- "
    rf"|{_HEAD}srv +operator\(\): (?:got exception|http: |cleaning up|operator\(\): cleaning up)"
    rf"|{_HEAD}que +\w+: "
    # Its page and its own keys are off because the gateway has them.
    rf"|{_HEAD}srv +\w+: (?:The UI is disabled|Use --ui|security: no API key)"
)


def is_noise(line: str) -> bool:
    """Tell whether a line is about one request, or worth showing to nobody."""
    return _NOISE.search(line) is not None
