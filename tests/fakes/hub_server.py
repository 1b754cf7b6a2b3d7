"""A small Hugging Face Hub: a real HTTP server in a thread, for the real huggingface_hub client.

It speaks model info, ``resolve`` with HEAD and GET (ETag, commit, ranges, a redirect to a second
address that stands for the storage), the refusals with their ``X-Error-Code``, and misbehaves on
request: a connection cut after some bytes, slowness, ranges ignored. Every request is logged.

    with HubServer() as hub:
        hub.add_repo("org/repo", {"model.gguf": data}, gated=True)
        os.environ["HF_ENDPOINT"] = hub.url
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_CHUNK = 64 * 1024


@dataclass(frozen=True)
class HugeFile:
    """A file of which only the size exists: to ask for more than a disk has."""

    size: int


@dataclass(frozen=True)
class LoggedRequest:
    """One request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    status: int

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class _Repo:
    files: dict[str, bytes | HugeFile]
    gated: bool
    private: bool
    branches: dict[str, str] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        names = "".join(f"{name}{etag_of(data)}" for name, data in sorted(self.files.items()))
        return hashlib.sha1(names.encode()).hexdigest()


def etag_of(data: bytes | HugeFile) -> str:
    """The identity of a file: its SHA-256, as for large files of the real Hub."""
    if isinstance(data, HugeFile):
        return hashlib.sha256(str(data.size).encode()).hexdigest()
    return hashlib.sha256(data).hexdigest()


class HubServer:
    """The server; a context manager. Everything may be changed while it runs.

    Attributes:
        requests: Every request so far.
        valid_tokens: Tokens that exist; those in `allowed_tokens` may read gated and private ones.
        cuts: File path -> bytes after which the next connections for it are cut, one per entry.
        bytes_per_second: Speed of every file, None = full.
        ignores_ranges: Answer 200 with the whole file to a range.
        fail_status: Answer this status to the next requests, one per entry.
    """

    def __init__(self) -> None:
        self.requests: list[LoggedRequest] = []
        self.valid_tokens = {"hf_good", "hf_stranger"}
        self.allowed_tokens = {"hf_good"}
        self.cuts: dict[str, list[int]] = {}
        self.bytes_per_second: float | None = None
        self.ignores_ranges = False
        self.fail_status: list[int] = []
        self.connections: set[socket.socket] = set()
        self._repos: dict[str, _Repo] = {}
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Be away; a second call does nothing."""
        if not self._thread.is_alive():
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
        # Kept-alive connections would go on being served by their threads.
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add_repo(
        self,
        name: str,
        files: Mapping[str, bytes | HugeFile],
        *,
        gated: bool = False,
        private: bool = False,
        branches: tuple[str, ...] = (),
    ) -> str:
        """Add or replace a repository; returns its commit."""
        repo = _Repo(dict(files), gated, private)
        repo.branches = {branch: repo.commit for branch in ("main", *branches)}
        self._repos[name] = repo
        return repo.commit

    def gets(self, path: str) -> list[LoggedRequest]:
        """The GET requests for the content of a file, in order."""
        return [
            item
            for item in list(self.requests)
            if item.method == "GET" and item.path.startswith("/storage/") and path in item.path
        ]

    def repo(self, name: str) -> _Repo | None:
        return self._repos.get(name)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def handle(self) -> None:
        self.hub.connections.add(self.connection)
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        finally:
            self.hub.connections.discard(self.connection)

    def _route(self) -> None:
        path = urlsplit(self.path).path
        if self.hub.fail_status:
            self._answer(self.hub.fail_status.pop(0), b"{}")
            return
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._info(found.group(1), unquote(found.group(2) or "main"))
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(found.group(1), unquote(found.group(2)), unquote(found.group(3)))
        elif found := re.fullmatch(r"/storage/([^/]+/[^/]+)/(.+)", path):
            self._content(found.group(1), unquote(found.group(2)))
        else:
            self._answer(404, b"{}")

    # -- the API ---------------------------------------------------------------------------------

    def _info(self, name: str, revision: str) -> None:
        repo = self._readable(name, is_file=False)
        if repo is None:
            return
        commit = self._commit(repo, revision)
        if commit is None:
            return
        wants_sizes = "blobs" in parse_qs(urlsplit(self.path).query)
        siblings = []
        for path, data in repo.files.items():
            size = data.size if isinstance(data, HugeFile) else len(data)
            item: dict[str, Any] = {"rfilename": path}
            if wants_sizes:
                lfs = {"size": size, "sha256": etag_of(data), "pointerSize": 134}
                item |= {"size": size, "blobId": commit, "lfs": lfs}
            siblings.append(item)
        body = {
            "_id": "1",
            "id": name,
            "modelId": name,
            "sha": commit,
            "private": repo.private,
            "gated": "manual" if repo.gated else False,
            "tags": [],
            "siblings": siblings,
        }
        self._answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self._readable(name, is_file=True)
        if repo is None:
            return
        commit = self._commit(repo, revision)
        if commit is None:
            return
        data = repo.files.get(path)
        if data is None:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        size = data.size if isinstance(data, HugeFile) else len(data)
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{etag_of(data)}"',
            "X-Linked-Size": str(size),
            "ETag": f'"{etag_of(data)}"',
            # Another host to the client, which must not carry the token there.
            "Location": f"{self.hub.url.replace('127.0.0.1', 'localhost')}/storage/{name}/{path}",
        }
        self._answer(302, b"", headers)

    def _content(self, name: str, path: str) -> None:
        repo = self.hub.repo(name)
        data = repo.files.get(path) if repo else None
        if not isinstance(data, bytes):
            self._answer(404, b"")
            return
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        headers = {"ETag": f'"{etag_of(data)}"', "Accept-Ranges": "bytes"}
        status = 200
        if asked and not self.hub.ignores_ranges:
            start = int(asked.group(1))
            if start >= len(data):
                self._answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._log(status)
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "GET":
            cuts = self.hub.cuts.get(path)
            self._send(memoryview(data)[start:], cuts.pop(0) if cuts else None)

    def _send(self, body: memoryview, cut_after: int | None) -> None:
        sent = 0
        end = len(body) if cut_after is None else min(cut_after, len(body))
        while sent < end:
            size = min(_CHUNK, end - sent)
            self.wfile.write(body[sent : sent + size])
            sent += size
            if self.hub.bytes_per_second:
                time.sleep(size / self.hub.bytes_per_second)
        if cut_after is not None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    # -- access ----------------------------------------------------------------------------------

    def _readable(self, name: str, *, is_file: bool) -> _Repo | None:
        """The repository, or None after a refusal; the rules are those of the real Hub."""
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given and given not in self.hub.valid_tokens:
            self._refuse(401, None, "Invalid credentials in Authorization header")
            return None
        may_read = given in self.hub.allowed_tokens
        repo = self.hub.repo(name)
        if repo is None or (repo.private and not may_read):
            self._refuse(404 if given else 401, "RepoNotFound", "Repository not found")
            return None
        # The listing of a gated repository is public, its files are not.
        if repo.gated and is_file and not may_read:
            self._refuse(
                403 if given else 401, "GatedRepo", f"Access to model {name} is restricted"
            )
            return None
        return repo

    def _commit(self, repo: _Repo, revision: str) -> str | None:
        commit = repo.branches.get(revision)
        if commit is None and revision in repo.branches.values():
            commit = revision
        if commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _refuse(self, status: int, code: str | None, message: str) -> None:
        headers = {"X-Error-Message": message}
        if code:
            headers["X-Error-Code"] = code
        self._answer(status, json.dumps({"error": message}).encode(), headers)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._log(status)
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _log(self, status: int) -> None:
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.hub.requests.append(LoggedRequest(self.command, self.path, headers, status))
