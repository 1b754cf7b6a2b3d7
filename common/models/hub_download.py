"""The bytes of one file of the Hub: received into a partial file, resumed, checked, moved."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import ModelUnavailableError
from common.models.hub_errors import is_transient
from common.models.progress import check_cancelled, render_bytes

_CHUNK_BYTES = 2**20
_CONNECT_TIMEOUT_S = 10.0
# No byte for this long is a dead connection; the next attempt resumes.
_READ_TIMEOUT_S = 30.0
# Attempts in a row that brought nothing; the waits between them are 1, 2, 4, 8 seconds.
_ATTEMPTS = 5
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class BlobRequest:
    """One file to receive.

    Attributes:
        url: Its address on the Hub, which redirects to the storage.
        etag: Its identity, and its name in the cache; the SHA-256 for large files.
        size_bytes: Its size.
        folder: The ``blobs`` folder of the repository in the cache.
        headers: With the authorisation; the client drops that on a redirect to another host.
    """

    url: str
    etag: str
    size_bytes: int
    folder: Path
    headers: Mapping[str, str] = field(repr=False)

    @property
    def blob(self) -> Path:
        """Where the whole file goes."""
        return self.folder / self.etag

    @property
    def partial(self) -> Path:
        """Where it grows."""
        return self.folder / f"{self.etag}.incomplete"

    def received_bytes(self) -> int:
        """Bytes that are there from before."""
        for path in (self.blob, self.partial):
            try:
                return min(path.stat().st_size, self.size_bytes)
            except OSError:
                continue
        return 0


def download_blob(
    request: BlobRequest, report: Callable[[int], None], cancel: threading.Event | None = None
) -> None:
    """Receive one file, resuming what is there. Blocks; the caller holds the download lock.

    Args:
        request: What.
        report: Told the bytes that are there, after each chunk.
        cancel: Ends the waits between attempts; `report` may raise to end the rest.

    Raises:
        ModelUnavailableError: The connection broke again and again without bringing anything.
        OSError: The disk is full, or does not work.
        Exception: The client's own, for an answer that a further attempt would not change.
    """
    if request.blob.exists():
        return
    request.folder.mkdir(parents=True, exist_ok=True)
    was_resumed = request.received_bytes() > 0
    failures = 0
    while (have := _size(request.partial)) != request.size_bytes:
        if have > request.size_bytes:
            request.partial.unlink()
            continue
        try:
            _receive(request, have, report)
        except Exception as error:
            if not is_transient(error):
                raise
            failures = 0 if _size(request.partial) > have else failures + 1
            if failures >= _ATTEMPTS:
                raise ModelUnavailableError(
                    f"The connection to {request.url.split('/resolve/')[0]} broke {failures} times "
                    f"in a row, with {render_bytes(_size(request.partial))} of "
                    f"{render_bytes(request.size_bytes)} received ({type(error).__name__}: "
                    f"{error}). They are kept: the next start goes on from there."
                ) from error
            _wait(2.0 ** max(failures - 1, 0), cancel)
            was_resumed = True
        else:
            failures = 0
    if was_resumed and not _is_whole(request):
        # Parts of different files were joined: once more from nothing, in one go.
        request.partial.unlink()
        return download_blob(request, report, cancel)
    with request.partial.open("rb+") as stream:
        os.fsync(stream.fileno())
    os.replace(request.partial, request.blob)
    return None


def _receive(request: BlobRequest, have: int, report: Callable[[int], None]) -> None:
    from huggingface_hub import get_session
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

    headers = {**request.headers, "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    timeout = (_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S, _READ_TIMEOUT_S, _CONNECT_TIMEOUT_S)
    with get_session().stream("GET", request.url, headers=headers, timeout=timeout) as response:
        if response.status_code == 416:
            request.partial.unlink(missing_ok=True)  # the server's file is shorter than our part
            return
        hf_raise_for_status(response)
        starts_at = _range_start(response.headers.get("Content-Range", ""))
        if response.status_code == 206 and starts_at not in (None, have):
            raise ModelUnavailableError(
                f"The server sent bytes from {starts_at} on when asked for {have}: {request.url}"
            )
        # 200: the server or a proxy does not do ranges, and begins anew.
        with request.partial.open("ab" if response.status_code == 206 else "wb") as stream:
            for chunk in response.iter_bytes(_CHUNK_BYTES):
                stream.write(chunk)
                report(stream.tell())


def _range_start(content_range: str) -> int | None:
    found = re.match(r"bytes (\d+)-", content_range)
    return int(found.group(1)) if found else None


def _is_whole(request: BlobRequest) -> bool:
    """Compare with the SHA-256 that names large files; small ones are named by another hash."""
    if not _SHA256.fullmatch(request.etag):
        return True
    digest = hashlib.sha256()
    with request.partial.open("rb") as stream:
        while chunk := stream.read(8 * _CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == request.etag


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _wait(seconds: float, cancel: threading.Event | None) -> None:
    (cancel or threading.Event()).wait(seconds)
    check_cancelled(cancel)
