"""An engine's own Prometheus text, checked and made ready to be passed on with a label ``model``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

# The names of the classic format: what is not one of them is no exposition but a page of a proxy.
_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*").fullmatch
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*").fullmatch

# Endings of the names under which a family's samples are exposed, by its type.
_ENDINGS: dict[str, tuple[str, ...]] = {
    "counter": ("_total", "_created"),
    "histogram": ("_bucket", "_sum", "_count", "_created"),
    "summary": ("_sum", "_count", "_created"),
    "gauge": (),
    "unknown": (),
}


def parse_exposition(text: str) -> list[Family]:
    """Return the families of an engine's text.

    Raises:
        ValueError: It is no exposition in Prometheus' text format.
    """
    try:
        families = list(text_string_to_metric_families(text))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"no Prometheus exposition: {error}") from error
    for family in families:
        for name in (family.name, *(sample.name for sample in family.samples)):
            if not _METRIC_NAME(name):
                raise ValueError(f"{name[:100]!r} is no name of a metric")
        for sample in family.samples:
            for label in sample.labels:
                if not _LABEL_NAME(label):
                    raise ValueError(f"{label[:100]!r} is no name of a label")
    return families


def merged(
    engines: Mapping[str, Iterable[Family]], reserved: Iterable[Family] = ()
) -> Iterator[Family]:
    """Yield each family once, with the samples of all engines, each with its label ``model``.

    What would make the whole text invalid is left out: a family whose name is taken by another
    type, or would be exposed under a name of another family; a second sample with the same labels.

    Args:
        engines: Families by model.
        reserved: Families that are exposed beside these.
    """
    taken = {name: "" for family in reserved for name in exposed_names(family)}
    families: dict[str, Family] = {}
    seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
    for model, found in engines.items():
        for family in found:
            names = exposed_names(family)
            # A family is its own owner, also over several models. Types of other formats are rare.
            if family.type not in _ENDINGS or any(
                taken.get(name, family.name) != family.name for name in names
            ):
                continue
            whole = families.get(family.name)
            if whole is None:
                whole = Family(family.name, family.documentation, family.type)
                families[family.name] = whole
                taken.update(dict.fromkeys(names, family.name))
            elif whole.type != family.type:
                continue
            for sample in family.samples:
                labels = _with_model(sample.labels, model)
                identity = (sample.name, tuple(sorted(labels.items())))
                if identity not in seen:
                    seen.add(identity)
                    whole.samples.append(Sample(sample.name, labels, sample.value))
    yield from families.values()


def exposed_names(family: Family) -> tuple[str, ...]:
    """Return the names of a family's samples, and its own, in the text format."""
    return (family.name, *(family.name + ending for ending in _ENDINGS.get(family.type, ())))


def _with_model(labels: Mapping[str, str], model: str) -> dict[str, str]:
    """Add the label; one of that name that the engine set itself is renamed as Prometheus does."""
    others = {
        ("exported_model" if name == "model" else name): value for name, value in labels.items()
    }
    return {"model": model} | others
