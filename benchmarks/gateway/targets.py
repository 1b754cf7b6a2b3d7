"""The proxies that are measured: whether each is installed, and the command that runs it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gateway import wire
from benchmarks.gateway.peers.own_gateway import KEY_VARIABLE

_ASK_S = 30.0
# The distribution whose version is told, and a module that only a complete installation has: both
# `litellm` and `clearml` come without what their proxies need unless it is asked for.
_DISTRIBUTIONS = {
    "sglang-router": ("sglang-router", "sglang_router"),
    "litellm": ("litellm", "apscheduler"),
    "http-router": ("clearml", "fastapi"),
}
_ASK = (
    "import importlib.metadata, importlib.util, sys\n"
    "assert importlib.util.find_spec(sys.argv[2])\n"
    "print(importlib.metadata.version(sys.argv[1]))"
)


@dataclass(frozen=True)
class Place:
    """Where a proxy is to listen, and what it is to stand in front of.

    Attributes:
        port: Its own, on loopback.
        metrics_port: For a proxy that wants a second one.
        engine_port: The stub engine's.
        engine_socket: The same engine's Unix socket.
        folder: For its files; empty.
        key: What its clients send.
    """

    port: int
    metrics_port: int
    engine_port: int
    engine_socket: Path
    folder: Path
    key: str = field(repr=False)

    @property
    def engine_url(self) -> str:
        """URL of the engine."""
        return f"http://127.0.0.1:{self.engine_port}"


@dataclass(frozen=True)
class Command:
    """What to run; secrets are in `env`."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """A way to the engine.

    Attributes:
        name: As it is chosen.
        about: In a few words.
        version: Given the Pythons of peers by name: the version that would run.
            Raises `NotInstalledError`.
        command: How it is run; None: the engine direct.
        is_control: Measured only when asked for: it checks the benchmark.
        may_rewrite: It is known to write the engine's JSON anew, so that its text is compared.
    """

    name: str
    about: str
    version: Callable[[Mapping[str, str]], str]
    command: Callable[[Place, Mapping[str, str]], Command] | None
    is_control: bool = False
    may_rewrite: bool = False


class NotInstalledError(Exception):
    """Why a target cannot be run, and what to do."""


def all_targets() -> dict[str, Target]:
    """Return every target by its name, in the order of the table."""
    targets = [
        Target("direct", "no proxy", lambda _: "", None),
        Target("nginx", "no buffering, keep-alive upstream, one worker", _nginx_version, _nginx),
        Target("gateway", "key, limit, telemetry", lambda _: "", _gateway("tcp")),
        Target("gateway-unix", "the same, engine on a Unix socket", lambda _: "", _gateway("unix")),
        Target("sglang-router", "Rust", _peer_version("sglang-router"), _sglang_router),
        Target("aiohttp", "least server and client", _aiohttp_version, aiohttp_command()),
        Target("http-router", "the ClearML SDK's", _peer_version("http-router"), _http_router),
        Target("litellm", "its proxy", _peer_version("litellm"), _litellm, may_rewrite=True),
        Target("aiohttp-again", "the same", _aiohttp_version, aiohttp_command(), is_control=True),
        Target(
            "aiohttp-50us",
            "50 us wasted in each request",
            _aiohttp_version,
            aiohttp_command("--busy-us", "50"),
            is_control=True,
        ),
    ]
    return {target.name: target for target in targets}


def _aiohttp_version(peers: Mapping[str, str]) -> str:
    return _version_in(sys.executable, "aiohttp", "aiohttp")


def _peer_version(name: str) -> Callable[[Mapping[str, str]], str]:
    def version(peers: Mapping[str, str]) -> str:
        python = peers.get(name, sys.executable)
        distribution, module = _DISTRIBUTIONS[name]
        try:
            return _version_in(python, distribution, module)
        except NotInstalledError as error:
            raise NotInstalledError(f"{error}; name its Python by --peer {name}=PYTHON") from None

    return version


def _version_in(python: str, distribution: str, module: str) -> str:
    try:
        done = subprocess.run(
            [python, "-c", _ASK, distribution, module],
            capture_output=True,
            text=True,
            timeout=_ASK_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalledError(f"{python} does not run: {error}") from error
    if done.returncode != 0:
        raise NotInstalledError(f"{module} is not installed in {python}")
    return done.stdout.strip()


def _nginx_version(peers: Mapping[str, str]) -> str:
    program = shutil.which("nginx")
    if program is None:
        raise NotInstalledError("nginx is not installed (Debian: apt-get install nginx-light)")
    done = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=_ASK_S)
    return done.stderr.strip().rpartition("/")[2]


def _nginx(place: Place, peers: Mapping[str, str]) -> Command:
    program = shutil.which("nginx") or "nginx"
    config = place.folder / "nginx.conf"
    config.write_text(nginx_config(place), encoding="utf-8")
    return Command((program, "-p", str(place.folder), "-c", str(config)))


def nginx_config(place: Place) -> str:
    """Return a configuration for streams: nothing is buffered, connections are kept."""
    temporary = "".join(
        f"    {kind}_temp_path {place.folder}/{kind};\n" for kind in ("client_body", "proxy")
    )
    return f"""\
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {place.folder}/nginx.pid;
error_log stderr warn;
events {{
    worker_connections 16384;
}}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_max_body_size 64m;
{temporary}\
    upstream engine {{
        server 127.0.0.1:{place.engine_port};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{place.port} backlog=4096;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""


def _gateway(way: str) -> Callable[[Place, Mapping[str, str]], Command]:
    def command(place: Place, peers: Mapping[str, str]) -> Command:
        engine = (
            ("--engine-port", str(place.engine_port))
            if way == "tcp"
            else ("--engine-socket", str(place.engine_socket))
        )
        module = "benchmarks.gateway.peers.own_gateway"
        argv = (sys.executable, "-m", module, "--port", str(place.port), "--model", wire.MODEL)
        return Command((*argv, *engine), {KEY_VARIABLE: place.key})

    return command


def aiohttp_command(*options: str) -> Callable[[Place, Mapping[str, str]], Command]:
    """Return how the aiohttp proxy is run with further options."""

    def command(place: Place, peers: Mapping[str, str]) -> Command:
        module = "benchmarks.gateway.peers.aiohttp_proxy"
        argv = (sys.executable, "-m", module, "--port", str(place.port))
        return Command((*argv, "--engine", place.engine_url, *options))

    return command


def _sglang_router(place: Place, peers: Mapping[str, str]) -> Command:
    python = peers.get("sglang-router", sys.executable)
    argv = (python, "-m", "sglang_router.launch_router", "--host", "127.0.0.1")
    return Command(
        (*argv, "--port", str(place.port), "--worker-urls", place.engine_url)
        + ("--policy", "round_robin", "--log-level", "warn", "--disable-retries")
        + ("--max-concurrent-requests", "16384", "--prometheus-port", str(place.metrics_port))
    )


def _http_router(place: Place, peers: Mapping[str, str]) -> Command:
    program = Path(__file__).parent / "peers" / "http_router.py"
    argv = (peers.get("http-router", sys.executable), str(program), "--port", str(place.port))
    return Command((*argv, "--engine", place.engine_url))


def _litellm(place: Place, peers: Mapping[str, str]) -> Command:
    python = peers.get("litellm", sys.executable)
    config = place.folder / "litellm.json"  # JSON is YAML
    parameters = {
        "model": f"openai/{wire.MODEL}",
        "api_base": f"{place.engine_url}/v1",
        "api_key": "none",
    }
    models = [{"model_name": wire.MODEL, "litellm_params": parameters}]
    config.write_text(json.dumps({"model_list": models}), encoding="utf-8")
    program = str(Path(python).with_name("litellm"))
    argv = (program, "--config", str(config), "--host", "127.0.0.1", "--port", str(place.port))
    return Command(
        (*argv, "--num_workers", "1", "--telemetry", "False"),
        # It keeps nothing of the network: prices come with it, and the key is the one of its clients.
        {
            "LITELLM_MASTER_KEY": place.key,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
        },
    )
