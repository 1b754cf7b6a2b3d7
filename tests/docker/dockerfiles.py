"""The repository's Dockerfiles, read into instructions and stages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docker"


@dataclass(frozen=True)
class Instruction:
    word: str
    value: str


@dataclass(frozen=True)
class Stage:
    base: str
    name: str
    body: tuple[Instruction, ...]

    def values(self, word: str) -> list[str]:
        return [item.value for item in self.body if item.word == word]

    @property
    def environment(self) -> dict[str, str]:
        pairs = " ".join(self.values("ENV")).split()
        return dict(pair.split("=", 1) for pair in pairs)


class Dockerfile:
    def __init__(self, app: str) -> None:
        self.app = app
        self.path = FOLDER / f"{app}.Dockerfile"

    def __repr__(self) -> str:
        return self.path.name

    @cached_property
    def instructions(self) -> tuple[Instruction, ...]:
        lines = self.path.read_text(encoding="utf-8").splitlines()
        text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
        logical = re.sub(r"\\\n\s*", " ", text).splitlines()
        parts = (line.split(None, 1) for line in logical if line.strip())
        return tuple(Instruction(word.upper(), value.strip()) for word, value in parts)

    @cached_property
    def arguments(self) -> dict[str, str]:
        """The build arguments with their defaults."""
        before = self.instructions[: self._starts[0]]
        assert {item.word for item in before} <= {"ARG"}
        return dict(item.value.split("=", 1) for item in before)

    @cached_property
    def stages(self) -> list[Stage]:
        ends = [*self._starts[1:], len(self.instructions)]
        found = []
        for start, end in zip(self._starts, ends, strict=True):
            base, _, name = self.instructions[start].value.partition(" AS ")
            found.append(Stage(base, name, self.instructions[start + 1 : end]))
        return found

    @property
    def final(self) -> Stage:
        return self.stages[-1]

    def resolve(self, text: str, **given: str) -> str:
        """Put the arguments, as given or by default, into a text."""
        values = self.arguments | given
        for _ in values:  # a default may name another argument
            text = re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], text)
        return text

    @property
    def _starts(self) -> list[int]:
        return [i for i, item in enumerate(self.instructions) if item.word == "FROM"]


LLAMACPP, VLLM, LEGACY = map(Dockerfile, ("llamacpp", "vllm", "legacy_model"))
ALL = (LLAMACPP, VLLM, LEGACY)
OWN = (LLAMACPP, VLLM)
"""Those that begin from others' images; the third begins from the second."""
