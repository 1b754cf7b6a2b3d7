"""From what was measured to one row per target. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.gateway.load import Result
from benchmarks.gateway.rounds import CLOSED_STREAMS, Measured
from benchmarks.report import Goal, Table

# Headers that tell of one connection or moment (RFC 9110, 7.6.1), or frame the body.
_OF_THE_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
)
# With less than this of its processor in use, the proxy was not what limited the requests.
SATURATED = 0.9

GOALS: Mapping[str, float] = {
    "request_us": 30.0,
    "paced_us": 28.0,
    "burst_us": 8.0,
    "added_p50_ms": 0.14,
    "added_p99_ms": 0.22,
    "held_kb": 20.0,
}
"""Of our gateway, at most."""

GOAL_OVER_NGINX = 0.5
"""Of our gateway's requests per second, at least."""


@dataclass(frozen=True)
class Row:
    """One target; None: not measured, or it has no such figure.

    Attributes:
        name: With its version.
        request_us: Processor time of the proxy per request.
        paced_us: The same per event of streams with pauses.
        burst_us: The same per event of streams without.
        added_p50_ms: Median latency above the direct one of the same round.
        added_p99_ms: 99th percentile above the direct one of the same round.
        per_s: Requests per second.
        over_nginx: The same over nginx's in the same round.
        busy: Share of its processor that the proxy used meanwhile.
        held_kb: Memory (USS) per open stream, in 1000 bytes.
        held: Streams that were open at once.
        bytes_kept: Whether bodies and headers came as from the engine; else what differs.
        reused: Requests answered after the engine closed a socket that it had promised to keep.
    """

    name: str
    request_us: float | None = None
    paced_us: float | None = None
    burst_us: float | None = None
    added_p50_ms: float | None = None
    added_p99_ms: float | None = None
    per_s: float | None = None
    over_nginx: float | None = None
    busy: float | None = None
    held_kb: float | None = None
    held: int | None = None
    bytes_kept: str = ""
    reused: int = 0


def summarize(measured: Sequence[Measured]) -> dict[str, Row]:
    """Return a row for each target by its name; medians over its rounds."""
    by_name = {each.running.target.name: each for each in measured}
    return {
        name: _row(each, by_name.get("direct"), by_name.get("nginx"))
        for name, each in by_name.items()
    }


def percentile(ascending: Sequence[float], share: float) -> float:
    """Return the value below which a share of the values lies (nearest rank)."""
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]


def header_changes(direct: Mapping[str, str], through: Mapping[str, str]) -> list[str]:
    """Return how the headers of an answer differ, those of the hop aside."""
    before = {name: value for name, value in direct.items() if name not in _OF_THE_HOP}
    after = {name: value for name, value in through.items() if name not in _OF_THE_HOP}
    return [
        *(f"-{name}" for name in sorted(before.keys() - after.keys())),
        *(f"+{name}" for name in sorted(after.keys() - before.keys())),
        *(
            f"{name}={after[name]}"
            for name in sorted(before.keys() & after.keys())
            if before[name] != after[name]
        ),
    ]


def table(rows: Mapping[str, Row]) -> Table:
    """Return the table of RESULTS.md."""
    columns = (
        "proxy",
        "us/request",
        "us/chunk paced / burst",
        "added ms p50 / p99",
        "req/s of nginx",
        "KB/stream",
        "held",
        "bytes",
    )
    return Table("Medians of interleaved rounds", columns, [_cells(row) for row in rows.values()])


def goals_of(row: Row, held_wanted: int) -> list[Goal]:
    """Return what our gateway is to reach; what was not measured is not judged."""
    found: list[Goal] = []
    for name, limit in GOALS.items():
        value = getattr(row, name)
        if value is not None:
            found.append(Goal(f"{name} at most {limit:g}: {value:.3g}", value <= limit))
    if row.over_nginx is not None:
        text = f"requests per second over nginx's at least {GOAL_OVER_NGINX:g}"
        found.append(Goal(f"{text}: {row.over_nginx:.2f}", row.over_nginx >= GOAL_OVER_NGINX))
    if row.held is not None:
        found.append(Goal(f"{held_wanted} streams held: {row.held}", row.held >= held_wanted))
    return [*found, Goal("bytes as from the engine", row.bytes_kept.startswith("same"))]


def _row(each: Measured, direct: Measured | None, nginx: Measured | None) -> Row:
    target, version = each.running.target, each.running.version
    is_proxy = target.command is not None
    busy = [_busy(one.answers) for one in each.rounds]
    return Row(
        name=f"{target.name} {version}".strip(),
        request_us=_median(_cpu_us(one.answers) for one in each.rounds) if is_proxy else None,
        paced_us=_median(_cpu_us(one.paced) for one in each.rounds) if is_proxy else None,
        burst_us=_median(_cpu_us(one.burst) for one in each.rounds) if is_proxy else None,
        added_p50_ms=_added_ms(each, direct, 0.5),
        added_p99_ms=_added_ms(each, direct, 0.99),
        per_s=_median(_per_s(one.answers) for one in each.rounds),
        over_nginx=_over(each, nginx),
        busy=_median(busy) if is_proxy else None,
        held_kb=_held_kb(each) if is_proxy else None,
        held=each.held.held if each.held else None,
        bytes_kept=_bytes_kept(each, direct),
        reused=each.compared.reused,
    )


def _median(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return median(found) if found else None


def _cpu_us(result: Result) -> float | None:
    return result.cpu_s / result.done * 1e6 if result.done else None


def _per_s(result: Result) -> float | None:
    return result.done / result.wall_s if result.wall_s else None


def _busy(result: Result) -> float | None:
    return result.cpu_s / result.wall_s if result.wall_s else None


def _paired(
    each: Measured, other: Measured | None, of: Callable[[Result, Result], float | None], part: str
) -> float | None:
    """Median over the rounds that both have; a drift of the machine falls out of a pair."""
    if other is None or other is each:
        return None
    pairs = zip(each.rounds, other.rounds, strict=False)
    return _median(of(getattr(one, part), getattr(two, part)) for one, two in pairs)


def _added_ms(each: Measured, direct: Measured | None, share: float) -> float | None:
    def added(through: Result, before: Result) -> float | None:
        if not through.latencies_s or not before.latencies_s:
            return None
        pair = (percentile(result.latencies_s, share) for result in (through, before))
        return (next(pair) - next(pair)) * 1e3

    return _paired(each, direct, added, "latency")


def _over(each: Measured, nginx: Measured | None) -> float | None:
    def over(own: Result, its: Result) -> float | None:
        a, b = _per_s(own), _per_s(its)
        return a / b if a is not None and b else None

    if each is nginx:
        return 1.0 if each.rounds else None
    return _paired(each, nginx, over, "answers")


def _held_kb(each: Measured) -> float | None:
    if each.held is None or not each.held.held:
        return None
    return each.held.held_bytes / each.held.held / 1000


def _bytes_kept(each: Measured, direct: Measured | None) -> str:
    if each.failure is not None:
        return "failed"
    if each.faults:
        return "FAULTS"
    if not each.running.is_exact:
        return "rewritten"
    if each.compared.reused < CLOSED_STREAMS:
        return "FAULTS"
    if direct is None or direct is each:
        return "same"
    changes = {
        change
        for kind, before in direct.compared.headers.items()
        for change in header_changes(before, each.compared.headers.get(kind, {}))
    }
    # A missing or other header is a fault; one more, such as a request ID, is not.
    # Which ones stands in the notes.
    other = [change for change in changes if not change.startswith("+")]
    if all(change.startswith("x-stub-body=") for change in other):
        return "request rewritten" if other else "same"
    return "headers differ"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        _shown(row.request_us, 1) + ("*" if _is_unsaturated(row) else ""),
        f"{_shown(row.paced_us, 1)} / {_shown(row.burst_us, 1)}",
        f"{_shown(row.added_p50_ms, 2)} / {_shown(row.added_p99_ms, 2)}",
        _shown(row.over_nginx, 3 if row.over_nginx and row.over_nginx < 0.1 else 2),
        _shown(row.held_kb, 1),
        "-" if row.held is None else str(row.held),
        row.bytes_kept,
    )


def _is_unsaturated(row: Row) -> bool:
    return row.busy is not None and row.busy < SATURATED


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
