"""One request's body: passed on while it arrives, or kept (in memory, on disk) to look inside."""

from __future__ import annotations

import asyncio
import mmap
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import IO, Any, TypeVar

from aiohttp import web

from common.errors import RequestError
from common.gateway import model_field

T = TypeVar("T")

INLINE_BYTES = 64 * 1024
"""Bodies up to here are read at once: cheaper than streaming them, and they can be sent again."""

MEMORY_BYTES = 1024 * 1024
"""A kept body beyond this goes to a temporary file without a name."""

FILE_BLOCK_BYTES = 256 * 1024


class RequestBody:
    """The body of one request; belongs to one handler.

    Args:
        request: The request, nothing of whose body has been read.
        max_bytes: A larger body is refused.

    Attributes:
        failure: Why the upload was broken off while it was passed on; None when it was not.

    Raises:
        RequestError: 413; the announced length is too large already.
    """

    def __init__(self, request: web.BaseRequest, max_bytes: int) -> None:
        self._request = request
        self._max_bytes = max_bytes
        self._memory: bytes | None = None
        self._file: IO[bytes] | None = None
        self._size = 0
        self._taken = False
        self.failure: RequestError | None = None
        length = request.content_length
        if length is not None and length > max_bytes:
            raise self._too_large()

    @property
    def content_type(self) -> str:
        """Content-Type as the client wrote it."""
        return self._request.headers.get("Content-Type", "")

    @property
    def is_present(self) -> bool:
        """Whether the request has a body at all."""
        return bool(self._memory) or self._file is not None or self._request.can_read_body

    @property
    def can_repeat(self) -> bool:
        """Whether `payload` may be asked for again: nothing of a stream has been used up."""
        return self._memory is not None or self._file is not None or not self._taken

    async def prepare(self) -> None:
        """Read a small body at once; leave a large or unannounced one on the wire."""
        if self._memory is not None or self._file is not None:
            return
        length = self._request.content_length
        if not self._request.can_read_body:
            self._memory = b""
        elif length is not None and length <= INLINE_BYTES:
            await self.keep()

    async def keep(self) -> None:
        """Read the whole body, so that fields can be looked up; does nothing the second time.

        Raises:
            RequestError: 413 when it grows beyond the limit.
        """
        if self._memory is not None or self._file is not None:
            return
        blocks: list[bytes] = []
        pending = 0
        async for chunk in self._limited():
            blocks.append(chunk)
            pending += len(chunk)
            if self._file is None and self._size > MEMORY_BYTES:
                # Closed in close(); a temporary file without a name vanishes with its last handle.
                self._file = await asyncio.to_thread(tempfile.TemporaryFile)
            if self._file is not None and pending >= FILE_BLOCK_BYTES:
                await asyncio.to_thread(self._file.writelines, blocks)
                blocks, pending = [], 0
        if self._file is None:
            self._memory = b"".join(blocks)
        else:
            await asyncio.to_thread(self._file.writelines, blocks)
            await asyncio.to_thread(self._file.flush)

    def payload(self) -> bytes | AsyncIterator[bytes] | None:
        """Return what an HTTP client sends; None for no body."""
        if self._memory is not None:
            return self._memory or None
        if self._file is not None:
            return self._from_file(self._file)
        return self._from_wire()

    async def json_fields(self, *names: str) -> dict[str, Any]:
        """Return plain top-level fields of a JSON body, which is kept for it.

        Raises:
            RequestError: 400 when it is not a JSON object, 413, 415 when it is compressed.
        """
        wanted = frozenset(names)
        return await self._look(lambda data: model_field.json_fields(data, wanted))

    async def json_object(self) -> dict[str, Any]:
        """Return the whole JSON body, which is kept for it.

        Raises:
            RequestError: As `json_fields`.
        """
        return await self._look(model_field.parse_object)

    async def model(self) -> str | None:
        """Return the `model` field of a JSON or multipart body, None when it has none.

        Raises:
            RequestError: As `json_fields`; 400 when the field is not a string.
        """
        content_type = self.content_type
        if content_type.lower().startswith("multipart/"):
            return await self._look(
                lambda data: model_field.multipart_field(data, content_type, "model")
            )
        value = (await self.json_fields("model")).get("model")
        if value is not None and not isinstance(value, str):
            raise RequestError(
                f"The field 'model' must be a string, not {type(value).__name__}.",
                code="invalid_model",
                param="model",
            )
        return value

    async def asks_for_stream(self) -> bool:
        """Whether a JSON body says ``"stream": true``; a body that cannot be read does not.

        Raises:
            RequestError: 413.
        """
        if not self.is_present or self.content_type.lower().startswith("multipart/"):
            return False
        try:
            return (await self.json_fields("stream")).get("stream") is True
        except RequestError as error:
            if error.http_status == 413:
                raise
            return False

    def close(self) -> None:
        """Free the temporary file."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._memory = b""

    async def _look(self, read: Callable[[model_field.Buffer], T]) -> T:
        encoding = self._request.headers.get("Content-Encoding", "identity").lower()
        if encoding not in ("", "identity"):
            raise RequestError(
                f"The gateway has to look into this request's body and cannot read the encoding "
                f"{encoding!r}; send it uncompressed, or use the model's own path.",
                status=415,
                code="unsupported_encoding",
            )
        await self.keep()
        file = self._file
        if file is None:
            memory = self._memory or b""
            if len(memory) <= model_field.SMALL_BODY_BYTES:
                return read(memory)
            return await asyncio.to_thread(read, memory)

        def mapped() -> T:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return read(data)

        return await asyncio.to_thread(mapped)

    async def _limited(self) -> AsyncIterator[bytes]:
        self._taken = True
        if not self._request.can_read_body:
            return
        await self._continue()
        async for chunk in self._request.content.iter_any():
            self._size += len(chunk)
            if self._size > self._max_bytes:
                self.failure = self._too_large()
                raise self.failure
            yield chunk

    async def _continue(self) -> None:
        """Answer ``Expect: 100-continue``: only now, so that a refused body is never sent."""
        expects = self._request.headers.get("Expect", "").lower() == "100-continue"
        if expects and self._request.transport is not None:
            self._request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def _from_wire(self) -> AsyncIterator[bytes]:
        async for chunk in self._limited():
            yield chunk

    async def _from_file(self, file: IO[bytes]) -> AsyncIterator[bytes]:
        await asyncio.to_thread(file.seek, 0)
        while block := await asyncio.to_thread(file.read, FILE_BLOCK_BYTES):
            yield block

    def _too_large(self) -> RequestError:
        limit = self._max_bytes / 2**20
        return RequestError(
            f"The request's body is larger than the {limit:g} MiB that this instance takes "
            "(General/max_body_mib).",
            status=413,
            code="body_too_large",
        )
