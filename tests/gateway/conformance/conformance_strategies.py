"""Requests and answers for Hypothesis: proper ones, ways to cut them, and ways to spoil them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from conformance_rig import HEAD, chunked
from hypothesis import strategies as st

TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
VALUE = "".join(chr(c) for c in [*range(33, 127), *range(160, 256)])
TARGET = "abcXYZ019-._~!$&'()*+,;=:@"
NASTY = [b"\r", b"\n", b"\0", b" ", b"\t", b":", b",", b";", b"\x0b", b"\x7f", b"\xff", b"0", b"-"]
NASTY += [b"\r\n", b"\r\n\r\n", b"\r\n ", b"chunked", b"Content-Length: 3\r\n", b"0\r\n\r\n"]
NASTY += [b"Transfer-Encoding: chunked\r\n", b"HTTP/1.1", b"Connection: close\r\n", b"Host: y\r\n"]

LARGE = random.Random(2).randbytes(70_000)
"""Around the size from which bodies are passed on while they come."""


@dataclass(frozen=True, repr=False)
class Sent:
    """A proper request, without what depends on who gets it."""

    method: str
    target: str
    fields: tuple[tuple[str, str], ...]
    body: bytes
    chunks: tuple[bytes, ...] | None

    def __repr__(self) -> str:
        sizes = None if self.chunks is None else [len(chunk) for chunk in self.chunks]
        body = self.body if len(self.body) < 100 else f"{len(self.body)} bytes"
        return f"Sent({self.method} {self.target} {self.fields} body={body!r} chunks={sizes})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # Hypothesis would write out all of a large body

    def data(self, prefix: str = "/m") -> bytes:
        """Return its bytes for the gateway, or with an empty prefix for an engine."""
        head = f"{self.method} {prefix}{self.target} HTTP/1.1\r\n".encode("latin-1") + HEAD
        head += b"".join(f"{n}: {v}\r\n".encode("latin-1") for n, v in self.fields)
        if self.chunks is not None:
            return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(self.chunks)
        return head + b"Content-Length: %d\r\n\r\n" % len(self.body) + self.body


def _values() -> st.SearchStrategy[str]:
    inner = st.text(VALUE + " \t", max_size=20)
    edge = st.text(VALUE, min_size=1, max_size=3)
    return st.builds(lambda a, b, c: a + b + c, edge, inner, edge)


@st.composite
def requests(draw: st.DrawFn, is_large: bool = True) -> Sent:
    bodies = st.binary(max_size=60)
    if is_large:
        bodies |= st.integers(0, 400).map(lambda size: LARGE[: 65_400 + size])
    body = draw(bodies)
    chunks: tuple[bytes, ...] | None = None
    if draw(st.booleans()):
        cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=4)))
        ends = [0, *cuts, len(body)]
        pieces = (body[a:b] for a, b in zip(ends, ends[1:], strict=False))
        chunks = tuple(piece for piece in pieces if piece)
    names = st.text(TOKEN, min_size=1, max_size=12).map(lambda name: "X-T" + name)
    fields = draw(st.lists(st.tuples(names, _values()), max_size=5))
    path = draw(st.lists(st.text(TARGET, min_size=1, max_size=8), min_size=1, max_size=3))
    path = [part for part in path if part not in (".", "..")] or ["seen"]
    query = draw(st.text(TARGET + "/?", max_size=20))
    target = "/v1/x" + "/".join(path) + (f"?{query}" if query else "")
    method = draw(st.sampled_from(["POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS"]))
    return Sent(method, target, tuple(fields), body, chunks)


def pieces(data: bytes, cuts: list[float]) -> list[bytes]:
    """Cut data at these fractions of its length."""
    ends = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in zip(ends, ends[1:], strict=False) if b > a]


CUTS = st.lists(st.floats(0, 1), max_size=6)


@st.composite
def spoiled(draw: st.DrawFn, data: bytes) -> bytes:
    """Change some bytes of something proper."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        what = draw(st.sampled_from(["insert", "replace", "delete", "repeat", "line"]))
        if what == "insert":
            data = data[:at] + draw(st.sampled_from(NASTY)) + data[at:]
        elif what == "replace":
            data = data[:at] + draw(st.binary(min_size=1, max_size=1)) + data[at + 1 :]
        elif what == "delete":
            data = data[:at] + data[at + draw(st.integers(1, 8)) :]
        elif what == "repeat":
            piece = data[at : at + draw(st.integers(1, 60))]
            data = data[:at] + piece + data[at:]
        else:
            end = data.find(b"\r\n", at) + 2
            data = data[:end] + draw(st.sampled_from(NASTY)) + b"\r\n" + data[end:]
    return data
