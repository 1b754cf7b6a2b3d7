"""Which flags a llama-server has: read from its own ``--help``, or from a catalogue file.

llama.cpp renames and drops flags every few weeks, so nothing is assumed of a binary: its help is
read once and kept, until the file changes. A catalogue is the same as JSON, for an engine that has
no help (the wheel) and for asking what another version would get (``command --flags FILE``)::

    {"format": 1, "engine": "llama-server", "version": "b7000",
     "flags": [{"name": "--ctx-size", "aliases": ["-c"], "negatives": [], "values": 1,
                "env": "LLAMA_ARG_CTX_SIZE"}, ...]}

``engine`` is ``llama-server``, ``xllamacpp`` or ``llama_cpp.server``; ``aliases``, ``negatives``,
``values`` (0), ``env`` ("") and ``has_effect`` (true; false: accepted and ignored) may be missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.llamacpp.cli_rules import refusal
from common.errors import ConfigurationError, EngineConfigurationError, Problem
from common.options.cli_field import Flag, FlagTable

ENGINE_KINDS = ("llama-server", "xllamacpp", "llama_cpp.server")
BUNDLED_CATALOGUE = Path(__file__).with_name("catalogue.json")

# A CUDA build looks for devices before it prints its help: seconds on a machine with many.
_HELP_TIMEOUT_S = 60
_NAME = r"-{1,2}[A-Za-z][\w.-]*"
# Names from the first column, then what the value is called, then two spaces and the description.
_ENTRY = re.compile(
    rf"^(?P<names>{_NAME}(?:,\s+{_NAME})*)(?: (?P<hint>\S+(?: \S+)*))?(?:\s{{2,}}.*)?$"
)
_ENV = re.compile(r"\(env: (\w+)\)")
_REMOVED = "the argument has been removed"
# Which of a flag's long names is passed: the first that is in this list, else the first long one.
# The longer-lived name of each pair, so that catalogues of different versions agree.
_PREFERRED = frozenset({"--temp", "--typical", "--embeddings", "--gpu-layers"})


class EngineFlags:
    """The flags of the engine that will run, and why it lacks some of llama-server's.

    Args:
        table: Every flag known for this version of llama.cpp.
        supported: Canonical names that this engine can do; None = all of `table`.
        reasons: Why it cannot do some of the others, by canonical name.
        reason: Why it cannot do the rest; ``{flag}`` is filled in.
    """

    def __init__(
        self,
        table: FlagTable,
        supported: Collection[str] | None = None,
        *,
        reasons: Mapping[str, str] | None = None,
        reason: str = "the engine in use has no {flag}",
    ) -> None:
        self.table = table
        self.supported = table if supported is None else table.only(supported)
        self._reasons = reasons or {}
        self._reason = reason

    def __contains__(self, name: str) -> bool:
        return name in self.supported

    def find(self, name: str) -> Flag | None:
        """Return the flag of this name if the engine can do it."""
        return self.supported.find(name)

    def why_not(self, name: str) -> str:
        """Say why a flag cannot be had; only for those that cannot."""
        flag = self.table.find(name)
        return self._reasons.get(flag.name if flag else name) or self._reason.format(flag=name)

    def refuse(self, name: str) -> str | None:
        """Say why a flag may not stand in "CLI": refused for good, or not in this engine."""
        if reason := refusal(name):
            return reason
        if name in self.table and name not in self.supported:
            return f"has no effect: {self.why_not(name)}"
        return None


@dataclass(frozen=True)
class Catalogue:
    """The flags of one engine at one version."""

    engine: str
    version: str
    table: FlagTable


def parse_help(text: str) -> FlagTable:
    """Read the flags from the text that ``llama-server --help`` prints. Pure.

    An entry starts in the first column; its lines of description are indented. Flags that only say
    that they were removed are left out, so that they are reported as unknown.
    """
    flags: list[Flag] = []
    entry: re.Match[str] | None = None
    description: list[str] = []
    for line in [*text.splitlines(), "-----"]:
        match = _ENTRY.match(line)
        if match is None and line[:1].isspace():
            description.append(line)
            continue
        if entry is not None:
            flags += _flag(entry, "\n".join([entry.string, *description]))
        entry, description = match, []
    return FlagTable(flags)


def read_flag_table(binary: Path, environ: Mapping[str, str], cache: Path) -> FlagTable:
    """Read the flags of a llama-server, from `cache` if this very file was asked before.

    Blocks for up to a minute.

    Args:
        binary: The program.
        environ: The environment it needs (library path).
        cache: Folder for what was read; made when missing, done without when it cannot be written.

    Raises:
        EngineConfigurationError: It does not start, or prints no flags; carries its own words.
    """
    status = binary.stat()
    identity = f"{binary.resolve()}\0{status.st_mtime_ns}\0{status.st_size}"
    kept = cache / f"flags-{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"
    try:
        return load_catalogue(kept).table
    except (OSError, ConfigurationError):
        pass  # not asked before, or written by another version of this program
    text = run_briefly([str(binary), "--help"], environ)
    table = parse_help(text)
    if "--model" not in table or "--ctx-size" not in table:
        lines = text.strip().splitlines() or ["(nothing)"]
        raise EngineConfigurationError(
            f"{binary} --help names no flags of llama-server; it printed: {lines[-1]}. "
            'Is "Llama Server Path" (General/llama_server_path) a llama-server?'
        )
    _keep(kept, Catalogue("llama-server", "", table))
    return table


def run_briefly(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """Run an engine that only prints something; returns all it printed.

    Raises:
        EngineConfigurationError: It cannot be executed, or fails; carries its own words.
    """
    try:
        done = subprocess.run(
            argv,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_HELP_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineConfigurationError(f"{argv[0]} cannot be run: {error}.") from error
    text = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "nothing")
        raise EngineConfigurationError(
            f"{' '.join(argv)} failed with exit code {done.returncode}; it printed: {last.strip()}",
            exit_code=done.returncode,
        )
    return text


def load_catalogue(path: Path) -> Catalogue:
    """Read a catalogue file.

    Raises:
        OSError: It cannot be read.
        ConfigurationError: It is no catalogue; says what is wrong.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != 1:
            raise ValueError(f"format {document['format']} is not 1")
        if document["engine"] not in ENGINE_KINDS:
            raise ValueError(f"engine {document['engine']!r} is none of {', '.join(ENGINE_KINDS)}")
        flags = [_flag_from_json(item) for item in document["flags"]]
        return Catalogue(document["engine"], str(document.get("version", "")), FlagTable(flags))
    except (ValueError, TypeError, KeyError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        problem = Problem(f"is no catalogue of llama.cpp flags: {reason}", path=str(path))
        raise ConfigurationError([problem]) from error


def render_catalogue(catalogue: Catalogue) -> str:
    """Write a catalogue as JSON, one flag a line, in the order of the help."""
    lines = [json.dumps(_flag_to_json(flag)) for flag in catalogue.table]
    head = json.dumps({"format": 1, "engine": catalogue.engine, "version": catalogue.version})
    return head[:-1] + ', "flags": [\n' + ",\n".join(lines) + "\n]}\n"


def _flag(entry: re.Match[str], text: str) -> list[Flag]:
    names = re.split(r",\s+", entry["names"])
    if _REMOVED in text:
        return []
    longs = [name for name in names if name.startswith("--")]
    positives = [name for name in longs if not name.startswith("--no-")]
    negatives: list[str] = []
    if positives and len(positives) < len(longs):
        # The negative names follow the positive ones, short ones included.
        after = names.index(positives[-1]) + 1
        negatives = [name for name in names if name not in positives and names.index(name) >= after]
        negatives.sort(key=lambda name: not name.startswith("--"))
    name = next((name for name in longs if name in _PREFERRED), (positives or longs or names)[0])
    aliases = tuple(n for n in names if n != name and n not in negatives)
    values = _count_values(entry["hint"] or "")
    env = _ENV.search(text)
    return [
        Flag(
            name,
            aliases,
            tuple(negatives),
            min_values=values,
            max_values=values,
            env=env[1] if env else "",
            has_effect="(DEPRECATED)" not in text,
        )
    ]


def _count_values(hint: str) -> int:
    """``START END`` are two values; the spaces within ``<tensor name pattern>`` are none."""
    return len(re.sub(r"<[^>]*>", "X", hint).split())


def _flag_to_json(flag: Flag) -> dict[str, Any]:
    document: dict[str, Any] = {"name": flag.name}
    if flag.aliases:
        document["aliases"] = list(flag.aliases)
    if flag.negatives:
        document["negatives"] = list(flag.negatives)
    if flag.min_values:
        document["values"] = flag.min_values
    if flag.env:
        document["env"] = flag.env
    if not flag.has_effect:
        document["has_effect"] = False
    return document


def _flag_from_json(item: Mapping[str, Any]) -> Flag:
    values = int(item.get("values", 0))
    return Flag(
        name=str(item["name"]),
        aliases=tuple(map(str, item.get("aliases", ()))),
        negatives=tuple(map(str, item.get("negatives", ()))),
        min_values=values,
        max_values=values,
        env=str(item.get("env", "")),
        has_effect=bool(item.get("has_effect", True)),
    )


def _keep(path: Path, catalogue: Catalogue) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(render_catalogue(catalogue), encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        # A read-only home costs the time of one --help per start, nothing else.
        temporary.unlink(missing_ok=True)
