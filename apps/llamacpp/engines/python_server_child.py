"""llama-cpp-python's ``llama_cpp.server`` as a process with llama-server's arguments.

Run by path, isolated, in the interpreter that has llama_cpp, which need not be the one of this
program: so it imports the standard library and what comes with ``llama-cpp-python[server]`` only.
`SETTINGS` is read by the program as the list of what this way can do.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

_SPLIT_MODES = {"none": 0, "layer": 1, "row": 2}
_ROPE_SCALINGS = {"none": 0, "linear": 1, "yarn": 2}
_NUMA = {"distribute": 1, "isolate": 2, "numactl": 3}
_SWITCH = {"on": True, "off": False}
_POOLINGS = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}
# ggml_type, for the types that a cache may have.
_CACHE_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "iq4_nl": 20,
    "bf16": 30,
}
_LOAD_MODES = {
    "none": (False, False),
    "mmap": (True, False),
    "mlock": (False, True),
    "mmap+mlock": (True, True),
}

Reader = Callable[[str], Mapping[str, Any]]


def _one(setting: str, convert: Callable[[str], object] = str) -> Reader:
    return lambda text: {setting: convert(text)}


def _choice(setting: str, choices: Mapping[str, object]) -> Reader:
    def read(text: str) -> Mapping[str, Any]:
        if text not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}")
        return {setting: choices[text]}

    return read


def _load_mode(text: str) -> Mapping[str, Any]:
    if text not in _LOAD_MODES:
        raise ValueError(f"{text!r} is none of {', '.join(_LOAD_MODES)}")
    mmap, mlock = _LOAD_MODES[text]
    return {"use_mmap": mmap, "use_mlock": mlock}


def _gpu_layers(text: str) -> Mapping[str, Any]:
    return {"n_gpu_layers": -1 if text in ("auto", "all") else int(text)}


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


SETTINGS: Mapping[str, Reader] = {
    "--model": _one("model"),
    "--alias": _one("model_alias"),
    "--host": _one("host"),
    "--port": _one("port", int),
    "--ctx-size": _one("n_ctx", int),
    "--batch-size": _one("n_batch", int),
    "--ubatch-size": _one("n_ubatch", int),
    "--threads": _one("n_threads", int),
    "--threads-batch": _one("n_threads_batch", int),
    "--gpu-layers": _gpu_layers,
    "--split-mode": _choice("split_mode", _SPLIT_MODES),
    "--main-gpu": _one("main_gpu", int),
    "--tensor-split": _one("tensor_split", _floats),
    "--rope-scaling": _choice("rope_scaling_type", _ROPE_SCALINGS),
    "--rope-scale": _one("rope_freq_scale", lambda text: 1.0 / float(text)),
    "--rope-freq-base": _one("rope_freq_base", float),
    "--rope-freq-scale": _one("rope_freq_scale", float),
    "--yarn-orig-ctx": _one("yarn_orig_ctx", int),
    "--yarn-ext-factor": _one("yarn_ext_factor", float),
    "--yarn-attn-factor": _one("yarn_attn_factor", float),
    "--yarn-beta-fast": _one("yarn_beta_fast", float),
    "--yarn-beta-slow": _one("yarn_beta_slow", float),
    "--cache-type-k": _choice("type_k", _CACHE_TYPES),
    "--cache-type-v": _choice("type_v", _CACHE_TYPES),
    "--flash-attn": _choice("flash_attn", _SWITCH),
    "--load-mode": _load_mode,
    "--numa": _choice("numa", _NUMA),
    "--seed": _one("seed", lambda text: int(text) % 2**32),
    "--lora": _one("lora_path"),
    "--pooling": _choice("pooling", _POOLINGS),
}
"""How each flag with a value becomes settings of llama_cpp.server, by canonical name."""

SWITCHES: Mapping[str, Mapping[str, Any]] = {
    "--kv-offload": {"offload_kqv": True},
    "--no-kv-offload": {"offload_kqv": False},
    "--embeddings": {"embedding": True},
    "--verbose": {"verbose": True},
}
"""What each flag without a value sets."""


def read_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Turn llama-server's arguments into settings of llama_cpp.server. Pure.

    Raises:
        ValueError: An argument that this way does not have, or a value it cannot take.
    """
    settings: dict[str, Any] = {
        "n_ctx": 0,  # the model's trained context, as llama-server; its own default is 2048
        "n_gpu_layers": -1,
        "use_mlock": False,
        "verbose": False,
        # Keeping the logits of every token of the context costs gigabytes.
        "logits_all": False,
    }
    waiting = list(arguments)
    while waiting:
        name = waiting.pop(0)
        if name in SWITCHES:
            settings.update(SWITCHES[name])
        elif name not in SETTINGS:
            raise ValueError(f"error: invalid argument: {name}")
        elif not waiting:
            raise ValueError(f'error while handling argument "{name}": a value is missing')
        else:
            try:
                settings.update(SETTINGS[name](waiting.pop(0)))
            except (ValueError, ZeroDivisionError) as error:
                raise ValueError(f'error while handling argument "{name}": {error}') from error
    if "n_threads" in settings:
        settings.setdefault("n_threads_batch", settings["n_threads"])
    if settings.get("embedding"):
        # A text is cut off at the logical batch.
        settings.setdefault("n_batch", settings.get("n_ubatch", 2048))
    return settings


def main() -> NoReturn:
    """Load the model and serve until a signal ends it."""
    try:
        settings = read_arguments(sys.argv[1:])
    except ValueError as error:
        _fail(str(error))
    host, port = settings.pop("host", "127.0.0.1"), settings.pop("port", 0)
    verbose = settings["verbose"]
    app = _create_app(settings)

    import uvicorn

    address = {"uds": host} if host.endswith(".sock") else {"host": host, "port": port}
    code: int | str | None = 0
    try:
        uvicorn.run(
            app,
            **address,
            log_level="info" if verbose else "warning",
            access_log=verbose,
            # Requests were drained by whoever sent the signal.
            timeout_graceful_shutdown=1,
        )
    except SystemExit as error:
        code = error.code
    # llama.cpp still logs while it is taken down, into a function that is gone by then.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def _create_app(settings: dict[str, Any]) -> Any:
    try:
        import llama_cpp._internals
        import llama_cpp.llama
        from llama_cpp.server import app as server
        from llama_cpp.server.settings import ModelSettings, ServerSettings
    except ImportError as error:
        _fail(f"error: {error}; install llama-cpp-python[server] in {sys.executable}")
    # Its settings are also read from variables as common as HOST, MODEL, SEED and CACHE.
    known = {*ModelSettings.model_fields, *ServerSettings.model_fields, "config_file"}
    for name in [name for name in os.environ if name.lower() in known]:
        del os.environ[name]
    verbose, pooling = settings["verbose"], settings.pop("pooling", None)
    log = None if verbose else _log_problems(llama_cpp)
    if pooling is not None:
        # Its settings have no pooling; the class they are handed to has.
        llama_cpp.Llama.__init__.__kwdefaults__["pooling_type"] = pooling
    # A client's X-Request-Id that is no UUID would be answered with an empty 400.
    plugin = getattr(server, "RequestIdPlugin", None)
    if plugin is not None:
        server.RequestIdPlugin = lambda: plugin(validate=False)
    try:
        app = server.create_app(
            # Streams in flight are never cut off for the sake of a new request.
            server_settings=ServerSettings(interrupt_requests=False),
            model_settings=[ModelSettings(**settings)],
        )
    except (ValueError, RuntimeError, MemoryError, OSError) as error:
        _fail(f"error: {error}")

    # llama.cpp holds the bare function: it must live as long as the server.
    app.state.log = log

    # Its other routes wait for the request that is being served.
    @app.get("/health")  # type: ignore[untyped-decorator,unused-ignore]
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def _log_problems(llama_cpp: Any) -> object:
    """Print llama.cpp's warnings and errors, and nothing else of it.

    Without `verbose` the library closes the output while it loads, and takes llama.cpp's errors for
    its chatter: its table of levels is that of an older version.
    """
    warning, error, continued = 3, 4, 5
    last = 0

    def show(level: int, text: bytes, data: object) -> None:
        nonlocal last
        last = last if level == continued else level
        if last in (warning, error):
            print(text.decode(errors="replace"), end="", file=sys.stderr, flush=True)  # noqa: T201

    for module in (llama_cpp.llama, llama_cpp._internals):
        module.suppress_stdout_stderr = lambda disable=True: contextlib.nullcontext()
    callback = llama_cpp.llama_log_callback(show)
    llama_cpp.llama_log_set(callback, None)
    return callback


def _fail(message: str) -> NoReturn:
    print(message, file=sys.stderr, flush=True)  # noqa: T201 - the engine's console
    os._exit(1)


if __name__ == "__main__":
    main()
