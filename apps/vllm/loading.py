"""The lines of a starting vLLM: what they tell of its start, and which of them tell nothing. Pure."""

from __future__ import annotations

import re
from typing import Final

_LOADING: Final = re.compile(r"Loading [^:]*:\s+(\d{1,3})% Completed")
_CAPTURING: Final = re.compile(r"Capturing CUDA graphs?[^:]*:\s+(\d{1,3})%")

# In the order of a start; a line is the first of them whose words it holds. Versions word them
# differently, and one that is not known leaves what was said before.
_STEPS: Final = (
    (("Initializing a V1 LLM engine", "Initializing an LLM engine"), "starting its processes"),
    (("Starting to load model",), "loading the weights"),
    (
        ("Loading weights took", "Model loading took", "model weights take"),
        "the weights are loaded",
    ),
    (
        ("Dynamo bytecode transform", "torch.compile takes", "Compiling a graph"),
        "compiling the model",
    ),
    (("for KV cache", "KV cache size", "CPU blocks:"), "filling the KV cache and warming up"),
    (("Warming up model",), "warming up"),
    (("Capturing CUDA graph", "Capturing cudagraphs"), "capturing CUDA graphs"),
    (("init engine (profile",), "starting its HTTP server"),
)

# A picture of the program's name, its routes, one a line, and its HTTP server's life.
_NOISE: Final = re.compile(
    r" INFO \S+ \S+ \[\w+\.py:\d+\]( +[▀▄█].*| Route: /.*| Available routes are:)?$"
    r"|^(?:\([^()]{1,80}\) )?INFO: +(?:"
    r"Started server process|Waiting for application|Application |Shutting down"
    # Asked by this program, again and again.
    r'|\S* - "GET /(?:health|metrics) HTTP)'
)


def is_noise(line: str) -> bool:
    """Tell whether a line is worth showing to nobody but who looks for a mistake."""
    return _NOISE.search(line) is not None


def loading_step(line: str) -> str:
    """Tell what a line of a starting vLLM means for its model.

    Returns:
        Words that follow "the engine is", such as ``loading the weights, 45 %``; empty where it says
        nothing.
    """
    if found := _LOADING.search(line):
        return f"loading the weights, {found[1]} %"
    if found := _CAPTURING.search(line):
        return f"capturing CUDA graphs, {found[1]} %"
    return next((step for words, step in _STEPS if any(word in line for word in words)), "")
