"""Collects one model's command: arguments, variables, and what became of each field."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from packaging.version import Version

from apps.vllm.catalogue import Catalogue, CatalogueFlag
from apps.vllm.cli import base_name, engine_argv
from apps.vllm.cli_values import value_problem
from apps.vllm.facts import EngineFacts
from apps.vllm.history import why_missing
from apps.vllm.request import EngineRequest, Given
from common.engines.contract import Translated, Unavailable
from common.errors import Problem
from common.options.cli_field import CliItem
from common.runtime.app import ModelPlan

Fields = Given | Sequence[Given]
Argument = tuple[str, ...]
"""A flag of the catalogue, by any of its names, and its values."""


@dataclass
class CommandWriter:
    """The command as it grows. Every field that was set is settled once, by one of the verbs.

    Attributes:
        plan: The model.
        request: What was asked for.
        facts: The vLLM that will run.
        overridden: Flags that "Model Overrides" say, by their names in the catalogue.
    """

    plan: ModelPlan
    request: EngineRequest
    facts: EngineFacts
    overridden: frozenset[str] = frozenset()
    arguments: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    translated: list[Translated] = field(default_factory=list)
    unavailable: list[Unavailable] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    _settled: set[str] = field(default_factory=set)
    _said: set[str] = field(default_factory=set)
    _last: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def catalogue(self) -> Catalogue:
        """The flags of the vLLM that will run."""
        return self.facts.catalogue

    @property
    def version(self) -> str:
        """Its version, for words."""
        return self.catalogue.version

    @property
    def release(self) -> Version:
        """The release that it is, or leads to, to compare: a candidate has what its release has."""
        return Version(self.catalogue.release.base_version)

    def open(self, *flags: str) -> list[Given]:
        """The fields of these flags (all, without any) that are not settled, in the form's order."""
        return [
            item
            for item in self.request.given
            if item.option.path not in self._settled and (not flags or item.flag in flags)
        ]

    def one(self, flag: str) -> Given | None:
        """The field of a flag, unless there is none or it is settled."""
        return next(iter(self.open(flag)), None)

    def passed(self, flag: str) -> tuple[str, ...] | None:
        """The values that a flag was passed with so far; None where it was not."""
        found = self.catalogue.find(flag)
        return self._last.get(found.name if found else flag)

    def is_said(self, flag: str) -> bool:
        """Whether the user said a flag, on or off, in whatever field."""
        found = self.catalogue.find(flag)
        name = found.name if found else flag
        return name in self._said or name in self._last or name in self.overridden

    def names_files(self, flags: frozenset[str]) -> bool:
        """Whether "CLI" or "Model Overrides" say one of these flags."""
        return bool(self._said & flags)

    def is_overridden(self, flag: str) -> bool:
        """Whether "Model Overrides" say a flag, or another that it cannot stand beside."""
        found = self.catalogue.find(flag) or self.negated(flag)
        names = {found.name if found else flag}
        if "--speculative-config" in names:
            names |= {"--spec-method", "--spec-model", "--spec-tokens"}
        return bool(names & self.overridden)

    def negated(self, flag: str) -> CatalogueFlag | None:
        """The boolean that a name switches off, None where it is no such name."""
        return next((found for found in self.catalogue if flag in found.negations), None)

    def pass_(self, fields: Fields, *arguments: Argument) -> None:
        """Pass fields under their own flag."""
        if not self._cannot_pass(fields, arguments):
            self.add(*arguments)
            self._settle(fields)

    def translate(self, fields: Fields, to: str = "", *arguments: Argument) -> None:
        """Pass fields in another form.

        Args:
            fields: The fields.
            to: What the user is told; empty: the arguments as they are.
            arguments: What is passed, if anything.
        """
        if self._cannot_pass(fields, arguments):
            return
        self.add(*arguments)
        shown = to or " ".join(" ".join(argument) for argument in arguments)
        for item in self._settle(fields):
            self.translated.append(Translated(item.option.title, item.option.path, shown))

    def give_up(self, fields: Fields, reason: str) -> None:
        """Tell that fields have no effect."""
        for item in self._settle(fields):
            self.unavailable.append(Unavailable(item.option.title, item.option.path, reason))

    def refuse(self, item: Given, message: str) -> None:
        """Tell that a field cannot be what it is."""
        path = item.option.name if item.option.per_model else item.option.path
        shown = None if item.option.secret else item.value
        self.problems.append(Problem(message, item.option.title, path, shown))
        self._settle(item)

    def set_env(self, item: Given, value: str) -> None:
        """Pass a field as the variable that it was made for."""
        self.env[item.flag] = value
        self._settle(item)

    def add(self, *arguments: Argument) -> None:
        """Pass arguments that no field stands for, or whose fields are settled otherwise."""
        for name, *values in arguments:
            found = self.catalogue.find(name)
            self._last[found.name if found else name] = tuple(values)
            # A value that begins with a dash would be read as a flag, and one that may be left out
            # as an argument of its own, unless it is attached.
            is_optional = found is not None and found.takes_value == "optional"
            if len(values) == 1 and (is_optional or values[0].startswith("-")):
                self.arguments.append(f"{name}={values[0]}")
            else:
                self.arguments += [name, *values]

    def add_item(self, item: CliItem) -> None:
        """Pass a flag of "CLI" or "Model Overrides"."""
        self.arguments += engine_argv(item)
        self._said.add(base_name(item))
        if item.is_negated:
            self._last.pop(base_name(item), None)
        else:
            self._last[base_name(item)] = item.values

    def offer(self, argument: Argument) -> None:
        """Pass an argument of ours, if this vLLM takes it."""
        if self.obstacle(argument) is None:
            self.add(argument)

    def obstacle(self, argument: Argument) -> str | None:
        """Why an argument cannot be passed: "Model Overrides" say it, or the parser would refuse it."""
        name, *values = argument
        if self.is_overridden(name):
            return f'"Model Overrides" say {name}, and win'
        found = self.catalogue.find(name)
        if found is None and self.negated(name) is None:
            return why_missing(name, self.version)
        most = 1 if found and found.takes_value != "none" else 0
        least = 1 if found and found.takes_value == "required" else 0
        has_dash = len(values) > 1 and any(value.startswith("-") for value in values)
        is_list = found is not None and found.is_list
        if len(values) < least or has_dash or (len(values) > most and not is_list):
            return f"vLLM {self.version} has {name} in another form, which is not known here"
        wrong = (value_problem(found, value) for value in values if found)
        return next((f"{name} {problem}" for problem in wrong if problem), None)

    def _cannot_pass(self, fields: Fields, arguments: Sequence[Argument]) -> bool:
        reasons = (self.obstacle(argument) for argument in arguments)
        reason = next((reason for reason in reasons if reason), None)
        if reason:
            self.give_up(fields, reason)
        return reason is not None

    def _settle(self, fields: Fields) -> list[Given]:
        settled = [fields] if isinstance(fields, Given) else list(fields)
        for item in settled:
            if item.option.path in self._settled:
                raise AssertionError(f"{item.option.path} is settled twice")
            self._settled.add(item.option.path)
        return settled


def compact(value: object) -> str:
    """Write JSON as an argument."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
