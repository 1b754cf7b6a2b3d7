"""Which lines of an engine's output tell of an error, tracebacks included."""

from __future__ import annotations

import re
from typing import Final

# vLLM marks the lines of its processes: "(EngineCore pid=12) ".
_PROCESS: Final = re.compile(r"^(\([\w. ]{1,60} pid=\d+[^)]{0,40}\) )")
_ERROR: Final = re.compile(
    # Python's logging, vLLM's and uvicorn's: "ERROR 11-20 15:10:53 [core.py:96]", "ERROR:    ...".
    r"^(?:ERROR|CRITICAL|FATAL)\b"
    # llama.cpp's: minutes.seconds.ms.us, then the level.
    r"|^\d+\.\d\d\.\d{3}\.\d{3} E "
    # What programs say before they give up.
    r"|^(?:[\w./-]+: )?(?:fatal |unrecoverable )?error\b"
    r"|^(?:ggml|llama|gguf)\w*: (?:error|failed)\b|^GGML_ASSERT|GGML_ASSERT\(.*\) failed"
    r"|^(?:terminate called|Segmentation fault|Aborted|Killed|CUDA error|Fatal Python error)\b"
    r"|\bOutOfMemoryError\b",
    re.IGNORECASE,
)
_TRACEBACK: Final = "Traceback (most recent call last)"
_BETWEEN: Final = (
    "During handling of the above exception",
    "The above exception was the direct cause",
)


class ErrorLines:
    """Tells errors from other lines, one line after the other, of one engine.

    A traceback is an error from its head to the line that names the exception; the processes of one
    engine may print theirs at the same time.
    """

    def __init__(self) -> None:
        self._in_traceback: set[str] = set()

    def is_error(self, line: str) -> bool:
        """Whether this line, the next of the engine, tells of an error."""
        found = _PROCESS.match(line)
        process = found[1] if found else ""
        text = line[len(process) :]
        if _TRACEBACK in text:
            self._in_traceback.add(process)
            return True
        if process in self._in_traceback:
            # Empty lines never come here; what is not indented names the exception.
            if not text.startswith((" ", "\t")):
                self._in_traceback.discard(process)
            return True
        return text.startswith(_BETWEEN) or _ERROR.search(text) is not None
