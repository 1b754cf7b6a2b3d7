"""The xllamacpp wheel as a server process with llama-server's arguments.

``python -m apps.llamacpp.engines.wheel_server --model FILE --host PATH.sock ...``. A process of its
own since the wheel holds the interpreter's lock while it loads, and since a crash in it must not
take the instance along. Ends with llama-server's own words and a non-zero code when an argument, the
model or the address cannot be used; ends at once on SIGTERM and SIGINT.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from apps.llamacpp.engines.wheel_params import apply_items, wheel_flags
from common.options.cli_field import ParsedCli, parse_cli

_LAST_WORDS_S = 2.0


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Serve until a signal ends it."""
    parsed = _parse(sys.argv[1:] if arguments is None else arguments)
    import xllamacpp

    params = xllamacpp.CommonParams()
    try:
        apply_items(xllamacpp, params, parsed.items)
    except ValueError as error:
        _fail(str(error))
    # Until the model is loaded no Python code runs, so the signals' default action is what ends it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        server = xllamacpp.Server(params)
    except (RuntimeError, MemoryError) as error:
        _fail(f"error: {error}")
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while not stopping.wait(3600):
        pass
    _leave(list(params.hostnames), server)


def _parse(arguments: Sequence[str]) -> ParsedCli:
    flags = wheel_flags()

    def refuse(name: str) -> str | None:
        if name in flags or name not in flags.table:
            return None
        return f"has no effect: {flags.why_not(name)}"

    parsed = parse_cli(shlex.join(arguments), flags.table, refuse=refuse)
    if parsed.problems:
        for problem in parsed.problems:
            print(f"error: argument {problem}", file=sys.stderr)  # noqa: T201 - the engine's console
        sys.exit(1)
    return parsed


def _fail(message: str) -> NoReturn:
    print(message, file=sys.stderr, flush=True)  # noqa: T201 - the engine's console
    # The wheel prints from a thread of its own: the ordinary end lets it finish. Whatever else it
    # may have left running must not keep a failed engine alive.
    watchdog = threading.Timer(_LAST_WORDS_S, os._exit, (1,))
    watchdog.daemon = True
    watchdog.start()
    sys.exit(1)


def _leave(hosts: Sequence[str], server: object) -> NoReturn:
    # Requests were drained by whoever sent the signal. The orderly end of `server` would wait for
    # those that still run, for as long as they want.
    for host in hosts:
        if host.endswith(".sock"):
            with suppress(OSError):
                os.unlink(host)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
