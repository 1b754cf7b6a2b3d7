"""A small package index: a real HTTP server (simple API) with wheels that are made on the spot.

    with PackageIndex() as index:
        index.add(Wheel("vllm", "9.0.0", program="..."))
        environ["PIP_INDEX_URL"] = index.url

Run as a thread of the test's process; pip and uv speak to it over loopback. It can hold an answer back
until it is told (`hold`), ask for a password, and logs what was fetched.
"""

from __future__ import annotations

import base64
import hashlib
import io
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote

from packaging.utils import canonicalize_name


@dataclass(frozen=True)
class Wheel:
    """One package; `program` is the source of a module whose ``main`` becomes a console script."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    requires_python: str = ""
    program: str = ""
    tag: str = "py3-none-any"

    @property
    def filename(self) -> str:
        return f"{self._stem}-{self.tag}.whl"

    @property
    def _stem(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}"

    @property
    def metadata(self) -> str:
        text = f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n"
        text += f"Requires-Python: {self.requires_python}\n" if self.requires_python else ""
        return text + "".join(f"Requires-Dist: {line}\n" for line in self.requires)

    def build(self) -> bytes:
        module = self.name.replace("-", "_")
        info = f"{self._stem}.dist-info"
        files = {
            f"{module}_fake.py": self.program or f"VERSION = {self.version!r}\n",
            f"{info}/METADATA": self.metadata,
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {self.tag}\n",
        }
        if self.program:
            script = f"[console_scripts]\nvllm = {module}_fake:main\n"
            files[f"{info}/entry_points.txt"] = script
        record = "".join(
            f"{name},sha256={_digest(text.encode())},{len(text.encode())}\n"
            for name, text in files.items()
        )
        files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as wheel:
            for name, text in files.items():
                # The same bytes each time: installers compare them with the page's hash.
                wheel.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), text)
        return archive.getvalue()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


@dataclass
class PackageIndex:
    """The server; its attributes may be changed while it runs.

    Attributes:
        password: Clients must log in as ``user`` with it; empty = nobody must.
        fetched: The file names of the wheels that were downloaded.
    """

    password: str = ""
    fetched: list[str] = field(default_factory=list)
    _wheels: dict[str, list[Wheel]] = field(default_factory=dict)
    _held: dict[str, tuple[threading.Event, threading.Event]] = field(default_factory=dict)

    def add(self, *wheels: Wheel) -> None:
        for wheel in wheels:
            self._wheels.setdefault(canonicalize_name(wheel.name), []).append(wheel)

    def hold(self, name: str) -> tuple[threading.Event, threading.Event]:
        """Keep downloads of a package waiting; returns (somebody waits, let them go)."""
        return self._held.setdefault(name, (threading.Event(), threading.Event()))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/simple/"

    def __enter__(self) -> PackageIndex:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for _, go_on in self._held.values():
            go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def page(self, name: str) -> str | None:
        if name not in self._wheels:
            return None
        links = []
        for wheel in self._wheels[name]:
            digest = hashlib.sha256(wheel.build()).hexdigest()
            needs = wheel.requires_python.replace(">", "&gt;").replace("<", "&lt;")
            python = f' data-requires-python="{needs}"' if needs else ""
            address = f"/files/{wheel.filename}#sha256={digest}"
            known = hashlib.sha256(wheel.metadata.encode()).hexdigest()
            told = f' data-core-metadata="sha256={known}" data-dist-info-metadata="sha256={known}"'
            links.append(f'<a href="{address}"{python}{told}>{wheel.filename}</a>')
        return f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>"

    def file(self, filename: str) -> bytes | None:
        for wheels in self._wheels.values():
            for wheel in wheels:
                if filename == f"{wheel.filename}.metadata":
                    return wheel.metadata.encode()
                if wheel.filename == filename:
                    if wheel.name in self._held:
                        waits, go_on = self._held[wheel.name]
                        waits.set()
                        go_on.wait(60)
                    self.fetched.append(filename)
                    return wheel.build()
        return None


def _handler(index: PackageIndex) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            expected = base64.b64encode(f"user:{index.password}".encode()).decode()
            if index.password and self.headers.get("Authorization") != f"Basic {expected}":
                self._answer(401, b"", "text/plain")
                return
            parts = [unquote(part) for part in self.path.split("?")[0].split("/") if part]
            body: bytes | None = None
            if parts[:1] == ["simple"] and len(parts) == 2:
                page = index.page(str(canonicalize_name(parts[1])))
                body = page.encode() if page is not None else None
            elif parts[:1] == ["files"] and len(parts) == 2:
                body = index.file(parts[1])
            kind = "text/html" if parts[:1] == ["simple"] else "application/octet-stream"
            self._answer(200 if body is not None else 404, body or b"", kind)

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="index"')
            self.end_headers()
            if self.command == "GET":
                try:
                    self.wfile.write(body)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the client was cancelled

        do_HEAD = do_GET

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler
