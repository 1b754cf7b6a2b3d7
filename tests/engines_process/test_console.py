"""Raw output as lines."""

from __future__ import annotations

import pytest

from common.engines.console import MAX_LINE_BYTES, LineSplitter, clean, mask


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\x1b[1;31merror\x1b[0m: no", "error: no"),
        (b"\x1b]0;title\x07text\x1b]8;;http://x\x1b\\link", "textlink"),
        (b"\x1b(Bplain\x1b[K", "plain"),
        (b"a\tb\x00c\x08d  ", "a\tbcd"),
        ("grüße \N{ROCKET}".encode(), "grüße \N{ROCKET}"),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_clean(raw: bytes, text: str) -> None:
    assert clean(raw) == text


def test_mask_hides_secrets_but_not_ordinary_text() -> None:
    assert mask("key hf_abcd, again hf_abcd", ["hf_abcd", ""]) == "key ***, again ***"
    assert mask("a b c", ["a", "", "b c"]) == "a b c"


def feed(*chunks: bytes, at: list[float] | None = None) -> list[str]:
    times = iter(at or [])
    now = 0.0

    def clock() -> float:
        return now

    splitter, lines = LineSplitter(clock), []
    for chunk in chunks:
        now = next(times, now)
        lines.extend(splitter.feed(chunk))
    return lines + splitter.flush()


def test_lines_may_come_in_any_pieces() -> None:
    data = b"one\ntwo\r\n\nthree"
    whole = ["one", "two", "three"]
    assert feed(data) == whole
    assert feed(*(data[i : i + 1] for i in range(len(data)))) == whole
    for cut in range(len(data)):
        assert feed(data[:cut], data[cut:]) == whole


def test_redrawn_line_shows_now_and_then_and_at_its_end() -> None:
    chunks = [b"\r10 %", b"\r20 %", b"\r30 %", b"\r40 %", b"\rdone\n", b"next\n"]
    assert feed(*chunks, at=[0, 1, 2, 8, 9, 9]) == ["10 %", "30 %", "done", "next"]


def test_redraws_at_the_end_of_a_chunk_are_no_line_end() -> None:
    assert feed(b"10 %\r", b"20 %\r", b"30 %\r", b"\n", at=[0, 0, 0, 0]) == ["10 %", "30 %"]


def test_long_line_is_cut_and_memory_bounded() -> None:
    splitter = LineSplitter()
    lines = splitter.feed(b"x" * 3000)
    assert lines == []
    for _ in range(1000):
        lines += splitter.feed(b"x" * 3000)
        assert len(splitter._pending) <= MAX_LINE_BYTES
    assert lines == ["x" * MAX_LINE_BYTES]
    dropped = 1001 * 3000 - MAX_LINE_BYTES
    assert splitter.feed(b"x\nshort\n") == [
        f"... {dropped + 1} more bytes of this line were dropped",
        "short",
    ]


def test_redrawing_for_ever_keeps_memory_bounded() -> None:
    splitter = LineSplitter(lambda: 0.0)
    for number in range(10_000):
        splitter.feed(b"%d %%\r" % number)
        assert len(splitter._pending) < 20
