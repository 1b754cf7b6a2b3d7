"""Heads that come again on a connection, known by their bytes: they need not be parsed (pure).

A client sends the same fields with each request, an engine with each answer; only the length of the
body changes. The parser reads such a head once. The same bytes in the same place, between two
messages, mean the same to it again.
"""

from __future__ import annotations

import re
from typing import Generic, TypeVar

Head = TypeVar("Head")

MAX_BYTES = 4096
"""A longer head is not kept: every connection has one."""

MAX_DIGITS = 12

TRIES = 8
RETRY_EVERY = 16
"""Where so many heads in a row differed from the one before, only every 16th is kept."""

_find_length = re.compile(rb"\r\ncontent-length: (\d{1,12})\r\n", re.IGNORECASE).search


class KnownHead(Generic[Head]):
    """The bytes of a head around the digits of its Content-Length, and what they mean.

    Attributes:
        head: As it was read.
        before: The bytes up to the digits.
        after: Those behind them, the empty line included.
    """

    __slots__ = ("_begin", "after", "before", "head")

    def __init__(self, head: Head, before: bytes, after: bytes) -> None:
        self.head = head
        self.before = before
        self.after = after
        self._begin = len(before)

    def body_start(self, block: bytes) -> int:
        """Return where the body begins in a block that is one whole message with this head; else -1."""
        if not block.startswith(self.before):
            return -1
        begin = self._begin
        end = block.find(b"\r", begin, begin + MAX_DIGITS)
        digits = block[begin:end]
        if end < 0 or not digits.isdigit() or not block.startswith(self.after, end):
            return -1
        start = end + len(self.after)
        return start if len(block) - start == int(digits) else -1


def is_worth_keeping(misses: int) -> bool:
    """Whether to keep a head that was not known.

    Args:
        misses: Heads in a row that were not known, this one included.
    """
    return misses <= TRIES or misses % RETRY_EVERY == 0


def known_head(head: Head, block: bytes) -> KnownHead[Head] | None:
    """Return how to know a head again.

    Args:
        head: As the parser has read it: with one Content-Length and nothing that depends on the state
            of the connection.
        block: What began with it, between two messages, and holds no byte of another message.

    Returns:
        None: it is too long, or spelled in an unusual way.
    """
    end = block.find(b"\r\n\r\n", 0, MAX_BYTES) + 4
    found = _find_length(block, 0, end) if end > 4 else None
    if found is None or end + int(found[1]) < len(block):
        return None
    return KnownHead(head, block[: found.start(1)], block[found.end(1) : end])
