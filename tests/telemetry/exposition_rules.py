"""What Prometheus' own checker asks of an exposition, as far as the text alone can tell."""

from __future__ import annotations

import re

SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)"
    r"(?:\{(?P<labels>(?:[a-zA-Z_][a-zA-Z0-9_]*=\"(?:[^\"\\\n]|\\.)*\",?)*)\})? "
    r"(?P<value>[-+]?(?:[0-9.]+(?:e[-+]?[0-9]+)?|Inf|NaN))"
)
LABEL = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)=(\"(?:[^\"\\\n]|\\.)*\")")
ENDINGS = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}

Labels = tuple[tuple[str, str], ...]


def check_exposition(text: str) -> dict[str, str]:
    """Check every line; returns the type of each family by its name in the text."""
    assert text.endswith("\n")
    types: dict[str, str] = {}
    helps: set[str] = set()
    samples: dict[tuple[str, Labels], float] = {}
    current = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            assert name not in helps, f"a second HELP of {name}"
            helps.add(name)
        elif line.startswith("# TYPE "):
            _, _, current, kind = line.split(" ")
            assert current not in types, f"a second TYPE of {current}"
            types[current] = kind
        else:
            match = SAMPLE.fullmatch(line)
            assert match, f"no sample: {line}"
            name = match["name"]
            endings = ENDINGS.get(types[current], ("",))
            assert name in {current + ending for ending in endings}, f"{name} in {current}"
            labels: Labels = tuple(sorted(LABEL.findall(match["labels"] or "")))
            assert len({label for label, _ in labels}) == len(labels), line
            assert (name, labels) not in samples, f"twice: {line}"
            samples[name, labels] = float(match["value"])
    for name, kind in types.items():
        assert (kind == "counter") == name.endswith("_total"), f"{name} is a {kind}"
        if kind == "histogram":
            _check_histogram(name, samples)
        for ending in ("_bucket", "_sum", "_count") if kind == "histogram" else ():
            assert name + ending not in types, f"{name}{ending} is a family of its own"
    return types


def _check_histogram(name: str, samples: dict[tuple[str, Labels], float]) -> None:
    series: dict[Labels, list[tuple[float, float]]] = {}
    for (sample, labels), value in samples.items():
        if sample == f"{name}_bucket":
            others = tuple(label for label in labels if label[0] != "le")
            bound = float(dict(labels)["le"].strip('"'))
            series.setdefault(others, []).append((bound, value))
    for others, buckets in series.items():
        assert buckets == sorted(buckets), f"{name}: buckets out of order or falling"
        assert [count for _, count in buckets] == sorted(count for _, count in buckets)
        assert buckets[-1] == (float("inf"), samples[f"{name}_count", others])
        assert (f"{name}_sum", others) in samples
