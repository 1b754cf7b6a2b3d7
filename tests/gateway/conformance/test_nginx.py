"""nginx as the oracle: what passes it unchanged passes the gateway unchanged. Needs nginx."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance_rig import RawEngineProcess, Rig, chunked, play, request
from conformance_strategies import CUTS, Sent, pieces, requests
from conformance_wire import Answer, Client, until
from hypothesis import given, settings

pytestmark = pytest.mark.nginx

CONFIGURATION = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error warn;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream engine {{ server 127.0.0.1:{engine}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 64m; underscores_in_headers on; ignore_invalid_headers off;
    large_client_header_buffers 8 64k; merge_slashes off;
    location /m/ {{
      proxy_pass http://engine/;
      proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_request_buffering off; proxy_buffering off;
    }}
  }}
}}
"""


@pytest.fixture(scope="module")
def nginx(engine: RawEngineProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an nginx in front of the raw engine."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    assert Path(program).exists(), "nginx is not installed (make test-nginx installs it as root)"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    folder = tmp_path_factory.mktemp("nginx")
    text = CONFIGURATION.format(folder=folder, engine=engine.port, port=port)
    (folder / "nginx.conf").write_text(text)
    process = subprocess.Popen(
        [program, "-p", str(folder), "-e", str(folder / "error"), "-c", str(folder / "nginx.conf")]
    )

    def listens() -> bool:
        assert process.poll() is None, (folder / "error").read_text()
        try:
            Client(port).close()
        except ConnectionRefusedError:
            return False
        return True

    try:
        until(listens)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def at_engine(answer: Answer) -> Any:
    """What of a request reached the engine, but what each proxy says of itself."""
    seen = answer.json
    ours = ("host", "x-api-key", "x-request-id", "content-length", "transfer-encoding")
    fields = [
        (name, value)
        for name, value in seen["fields"]
        if name.lower() not in ours and not name.lower().startswith("x-forwarded-")
    ]
    return answer.status, seen["method"], seen["target"], seen["body"], fields


@settings(max_examples=100, deadline=None)
@given(sent=requests(), cuts=CUTS)
def test_the_engine_gets_what_it_gets_through_nginx(
    shared: Rig, nginx: int, sent: Sent, cuts: list[float]
) -> None:
    with Client(nginx) as oracle, shared.client() as client:
        expected = at_engine(oracle.ask(*pieces(sent.data(), cuts)))
        assert at_engine(client.ask(*pieces(sent.data(), cuts))) == expected


@pytest.mark.parametrize(
    "fields", [(b"Accept: */*", b"Accept-Encoding: gzip", b"Range: bytes=0-1")]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_usual_fields_pass_as_through_nginx(
    shared: Rig, nginx: int, fields: tuple[bytes, ...], method: str
) -> None:
    with Client(nginx) as oracle:
        data = request(method, "/v1/seen?a=b%20c", *fields, body=b"x" if method == "POST" else b"")
        assert at_engine(shared.ask(data, method)) == at_engine(oracle.ask(data, method=method))


OK = "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
FROM_ENGINE = {
    "length": f"{OK}Content-Length: 5\r\nX-A: 1\r\nX-A: 2\r\nVary: Accept\r\n\r\nhello",
    "chunks": f"{OK}Transfer-Encoding: chunked\r\n\r\n{chunked([b'he', b'llo']).decode()}",
    "error": "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\nRetry-After: 3\r\n\r\nwait",
    "no-content": "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
    "not-modified": 'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\n\r\n',
    "events": f"{OK}Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    f"{chunked([b'data: 1']).decode()}",
    "created": "HTTP/1.1 201 Created\r\nLocation: /v1/x\r\nContent-Length: 0\r\n\r\n",
    "encoded": f"{OK}Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("text", FROM_ENGINE.values(), ids=FROM_ENGINE)
def test_the_client_gets_what_it_gets_through_nginx(
    shared: Rig, nginx: int, text: str, method: str
) -> None:
    data = request(method, play(["send", text]), body=b"x" if method == "POST" else b"")

    def essence(answer: Answer) -> Any:
        own = ("server", "date", "connection", "x-request-id")
        fields = sorted((n.lower(), v) for n, v in answer.fields if n.lower() not in own)
        return answer.status, answer.body, fields

    with Client(nginx) as oracle:
        assert essence(shared.ask(data, method)) == essence(oracle.ask(data, method=method))
