"""Why a llama.cpp engine ended, from its exit code and its last lines. Pure.

The patterns are the engines' own words; the table of the tests holds real output of each.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence

from common.engines.contract import Diagnosis
from common.engines.diagnosis import diagnose_signal, failure_rule, signal_of

# "0.00.003.983 E llama_model_load: error ..." and, before 2026, no prefix at all.
_PREFIX = re.compile(r"^(?:\d+\.\d\d\.\d{3}\.\d{3} )?(?:[EWIDT] )?")


_SERVING = re.compile(r"model loaded|slot launch_slot|Uvicorn running on")


# In this order: a precise cause before the general failure that the engine prints after it.
_RULES = (
    failure_rule(
        r"unknown model architecture: '(?P<arch>[^']*)'",
        "The engine does not know the model's architecture '{arch}': use a newer llama.cpp, or a "
        "model of an architecture that this one knows.",
    ),
    failure_rule(
        r"(?:error: )?(?:invalid|unknown) argument: (?P<flag>\S+)",
        "The engine has no argument {flag}.",
    ),
    failure_rule(
        r'error while handling argument "(?P<flag>[^"]+)": (?P<why>.*)',
        "The engine refuses the value of {flag}: {why}.",
    ),
    failure_rule(
        r'error while handling environment variable "(?P<name>[^"]+)": (?P<why>.*)',
        "The engine refuses the environment variable {name}: {why}.",
    ),
    failure_rule(
        r"^error: argument (?P<flag>\S+) (?P<why>.*)",
        "The engine refuses {flag}: {why}.",
    ),
    failure_rule(
        r"tensor '(?P<tensor>[^']*)' data is not within the file bounds",
        "The model file is truncated: its tensor '{tensor}' lies beyond the file's end. Fetch the "
        "file again.",
    ),
    failure_rule(
        r"invalid magic characters: (?P<magic>'[^']*')|(?P<old>invalid magic number)",
        "The model file is not GGUF: it does not begin with 'GGUF'.",
    ),
    failure_rule(
        r"failed to read magic|failed to read key-value pairs|failed to read tensor",
        "The model file is damaged or truncated: its header cannot be read. Fetch the file again.",
    ),
    failure_rule(
        r"(?:failed to open GGUF file|error loading model: .*failed to open|"
        r"Model path does not exist).*?(?P<path>'[^']*'|\S+)?$",
        "The engine cannot open the model file.",
    ),
    failure_rule(
        r"failed to allocate|unable to allocate|out of memory|cudaMalloc failed|bad_alloc|"
        r"cannot allocate memory|ErrorOutOfDeviceMemory|MemoryError",
        "The engine did not get the memory it needs: choose a smaller Context Size, fewer parallel "
        "requests, fewer GPU layers, or a smaller quantisation.",
        lacks_memory=True,
    ),
    failure_rule(
        r"address already in use|EADDRINUSE|couldn't bind|could not bind|failed to bind",
        "The address that the engine was to listen on is in use.",
        is_configuration=False,
    ),
    failure_rule(
        r"error while loading shared libraries: (?P<library>[^:]+)",
        "The engine lacks the library {library}: install it, or name its folder in LD_LIBRARY_PATH.",
    ),
    failure_rule(
        r"No module named '?(?P<module>[\w.]+)'?",
        "The engine's Python lacks the module {module}.",
    ),
    failure_rule(
        r"V cache quantization requires flash_?attn|quantized V cache .*requires Flash Attention",
        'A quantised "Type V" needs flash attention: switch "Flash Attention" on, or choose f16.',
    ),
    failure_rule(
        r"no CUDA-capable device|CUDA driver version is insufficient|invalid device ordinal",
        "The engine cannot use the GPU it was told to use.",
    ),
    failure_rule(
        r"(?:error loading model: |common_init_: |load_model: )?(?P<words>"
        r"failed to load (?:the )?model.*)|exiting due to model loading error",
        "The engine could not load the model.",
    ),
)


def diagnose(exit_code: int | None, tail: Sequence[str]) -> Diagnosis:
    """Tell a configuration error, which would fail again, from a crash.

    Args:
        exit_code: Its exit code, 128 + n for signal n; None when it never became ready.
        tail: Its last lines, oldest first.

    Returns:
        The cause, with the engine's own line where that says more than the summary.
    """
    lines = [_PREFIX.sub("", line.strip()) for line in tail if line.strip()]
    number = signal_of(exit_code)
    by_signal = None if number is None else diagnose_signal(number)
    # An abort (SIGABRT) is how ggml ends on errors that it has named before; what an engine said
    # before any other signal is no cause.
    if by_signal is not None and number != signal.SIGABRT:
        return by_signal
    has_served = any(_SERVING.search(line) for line in lines)
    for rule in _RULES:
        for line in lines:
            if match := rule.pattern.search(line):
                values = {name: value or "" for name, value in match.groupdict().items()}
                summary = f"{rule.summary.format(**values)} It says: {line[:300]}"
                # What served once can serve again: then it was the requests, not the settings.
                is_configuration = rule.is_configuration and not has_served
                return Diagnosis(is_configuration, summary, rule.lacks_memory)
    return by_signal or Diagnosis(False, _last_error(lines))


def _last_error(lines: Sequence[str]) -> str:
    def errors() -> Iterator[str]:
        for line in reversed(lines):
            if re.search(r"\b(error|failed|fatal|exception|assert)", line, re.IGNORECASE):
                yield line
        yield from reversed(lines)

    line = next(errors(), "")
    return f"It says: {line[:300]}" if line else "It said nothing."
