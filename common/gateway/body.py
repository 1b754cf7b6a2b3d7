"""One request's body: passed on while it arrives, or kept (in memory, on disk) to look inside."""

from __future__ import annotations

import asyncio
import mmap
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import IO, Any, TypeVar

from common.errors import RequestError
from common.gateway import model_field
from common.gateway.http.incoming_body import IncomingBody
from common.gateway.http.request import RequestHead

T = TypeVar("T")

INLINE_BYTES = 64 * 1024
"""Bodies up to here are read whole first: an engine is not kept waiting for a slow client."""

MEMORY_BYTES = 1024 * 1024
"""A kept body beyond this goes to a temporary file without a name."""

FILE_BLOCK_BYTES = 256 * 1024


class RequestBody:
    """The body of one request; belongs to one exchange.

    Args:
        head: The request's head.
        incoming: What comes from the wire; nothing of it has been taken.

    Attributes:
        memory: The kept body; None when it is not kept, or in a file.
    """

    def __init__(self, head: RequestHead, incoming: IncomingBody) -> None:
        self._head = head
        self._incoming = incoming
        self._file: IO[bytes] | None = None
        self.memory: bytes | None = None
        self._file_size = 0

    @property
    def is_present(self) -> bool:
        """Whether the request has a body at all."""
        return self._head.has_body

    @property
    def can_repeat(self) -> bool:
        """Whether the body may be sent again: nothing of a stream has been used up."""
        return self.memory is not None or self._file is not None

    @property
    def size(self) -> int | None:
        """Length of what `blocks` gives; None: unknown before its end."""
        if self.memory is not None:
            return len(self.memory)
        return self._file_size if self._file is not None else self._head.content_length

    async def prepare(self) -> None:
        """Read a small body at once; leave a large or unannounced one on the wire.

        Raises:
            RequestError: It broke off.
        """
        if self._incoming.is_complete and self.memory is None and self._file is None:
            self.memory = self._incoming.take()
            return
        length = self._head.content_length
        if length is not None and length <= INLINE_BYTES:
            await self.keep()

    async def keep(self) -> None:
        """Read the whole body, so that fields can be looked up; does nothing the second time.

        Raises:
            RequestError: 413 when it grows beyond the limit.
        """
        if self.memory is not None or self._file is not None:
            return
        blocks: list[bytes] = []
        pending = size = 0
        file: IO[bytes] | None = None
        try:
            while block := await self._incoming.read():
                blocks.append(block)
                pending += len(block)
                size += len(block)
                if file is None and size > MEMORY_BYTES:
                    # A temporary file without a name vanishes with its last handle.
                    file = await asyncio.to_thread(tempfile.TemporaryFile)
                if file is not None and pending >= FILE_BLOCK_BYTES:
                    await asyncio.to_thread(file.writelines, blocks)
                    blocks, pending = [], 0
            if file is not None:
                await asyncio.to_thread(file.writelines, blocks)
                await asyncio.to_thread(file.flush)
        except BaseException:
            if file is not None:
                file.close()
            raise
        if file is None:
            self.memory = blocks[0] if len(blocks) == 1 else b"".join(blocks)
        else:
            self._file, self._file_size = file, size

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yield a body that is not in memory; that on the wire once only.

        Raises:
            RequestError: It broke off.
        """
        file = self._file
        if file is None:
            while block := await self._incoming.read():
                yield block
            return
        await asyncio.to_thread(file.seek, 0)
        while block := await asyncio.to_thread(file.read, FILE_BLOCK_BYTES):
            yield block

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
        if is_multipart(self._head):
            content_type = self._head.content_type.decode("latin-1")
            return await self._look(
                lambda data: model_field.multipart_field(data, content_type, "model")
            )
        return model_name((await self.json_fields("model")).get("model"))

    async def asks_for_stream(self) -> bool:
        """Whether a JSON body says ``"stream": true``; a body that cannot be read does not.

        Raises:
            RequestError: 413.
        """
        if not self.is_present or is_multipart(self._head):
            return False
        try:
            return (await self.json_fields("stream")).get("stream") is True
        except RequestError as error:
            if error.http_status in (408, 413):
                raise
            return False

    def close(self) -> None:
        """Free the temporary file."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self.memory = b""

    async def _look(self, read: Callable[[model_field.Buffer], T]) -> T:
        check_encoding(self._head)
        await self.keep()
        file = self._file
        if file is None:
            memory = self.memory or b""
            if len(memory) <= model_field.SMALL_BODY_BYTES:
                return read(memory)
            return await asyncio.to_thread(read, memory)

        def mapped() -> T:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return read(data)

        return await asyncio.to_thread(mapped)


def is_multipart(head: RequestHead) -> bool:
    """Whether the body is a form with parts."""
    return head.content_type[:10].lower() == b"multipart/"


def check_encoding(head: RequestHead) -> None:
    """Refuse to look into a compressed body.

    Raises:
        RequestError: 415.
    """
    encoding = head.content_encoding.strip().lower()
    if encoding not in (b"", b"identity"):
        raise RequestError(
            f"The gateway has to look into this request's body and cannot read the encoding "
            f"{encoding.decode('latin-1')!r}; send it uncompressed, or use the model's own path.",
            status=415,
            code="unsupported_encoding",
        )


def model_name(value: Any) -> str | None:
    """Return the value of a `model` field.

    Raises:
        RequestError: 400; it is not a string.
    """
    if value is not None and not isinstance(value, str):
        raise RequestError(
            f"The field 'model' must be a string, not {type(value).__name__}.",
            code="invalid_model",
            param="model",
        )
    return value


def too_large(max_bytes: int) -> RequestError:
    """Return the 413 for a body above the limit."""
    return RequestError(
        f"The request's body is larger than the {max_bytes / 2**20:g} MiB that this instance takes "
        "(General/max_body_mib).",
        status=413,
        code="body_too_large",
    )
