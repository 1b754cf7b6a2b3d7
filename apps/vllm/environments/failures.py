"""Why an installer gave up, read from what it printed, in words for the user. Pure."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence

from packaging.version import InvalidVersion, Version

from apps.vllm.environments.layout import EngineEnvironment

SHOWN_LINES = 6
_NEAR = 4

_DISK_FULL = re.compile(
    r"no space left on device|disk quota exceeded|os error (28|122)\b|errno (28|122)\b", re.I
)
_UNREACHABLE = re.compile(
    r"failed to establish a new connection|max retries exceeded|connection (refused|reset|timed out)"
    r"|temporary failure in name resolution|name or service not known|nameresolutionerror"
    r"|error sending request|dns error|failed to fetch|could not connect|tcp connect error"
    r"|read timed out|connecttimeout|certificate verify failed|proxyerror",
    re.I,
)
_DENIED = re.compile(r"\b(401|403) (client error|unauthorized|forbidden)|http error 40[13]\b", re.I)
_NONE_FOUND = re.compile(
    r"no matching distribution found for|could not find a version that satisfies"
    r"|no solution found when resolving|there (is|are) no versions? of",
    re.I,
)
_FROM_VERSIONS = re.compile(
    r"satisfies the requirement [^(]+\(from versions: (?P<versions>[^)]*)\)"
)
_NEEDS_PYTHON = re.compile(
    r"(?P<version>\S+) Requires-Python (?P<needs>[<>=!~0-9.,*]+)"
    r"|current Python version \([^)]*\) does not satisfy Python(?P<uv>[<>=!~0-9.,*]+)"
)
_NO_WHEEL = re.compile(r"has no wheels with a matching|no wheels are available for your", re.I)


def says_none_found(output: Sequence[str]) -> bool:
    """Whether the installer found no package of the version that it was asked for."""
    return any(_NONE_FOUND.search(line) for line in output)


def says_unreachable(output: Sequence[str]) -> bool:
    """Whether the installer did not reach an index."""
    return any(_UNREACHABLE.search(line) for line in output)


def versions_found(output: Sequence[str]) -> list[str]:
    """The versions that pip lists where it found others than the wanted one."""
    for line in output:
        if match := _FROM_VERSIONS.search(line):
            return [item.strip() for item in match["versions"].split(",") if item.strip() != "none"]
    return []


def nearest_versions(wanted: Version, versions: Sequence[str]) -> list[str]:
    """The versions around the wanted one, in order."""
    known = set()
    for text in versions:
        try:
            known.add(Version(text))
        except InvalidVersion:
            continue
    known.discard(wanted)
    below = sorted(version for version in known if version < wanted)[-_NEAR // 2 :]
    above = sorted(version for version in known if version > wanted)[: _NEAR // 2]
    return [str(version) for version in (*below, *above)]


def explain(
    environment: EngineEnvironment,
    package: str,
    doing: str,
    output: Sequence[str],
    *,
    free: str,
    others: Sequence[str] = (),
) -> str:
    """Say why a step failed and what to do.

    Args:
        environment: What was to be installed.
        package: The name of vLLM's package for the wanted build.
        doing: The step, in words.
        output: Its last lines.
        free: How much disk is free, for people.
        others: Versions of the package that there are, where the wanted one is not.
    """
    text = "\n".join(output)
    if _DISK_FULL.search(text):
        return (
            f"The disk filled up while {environment.title} was installed into {environment.folder} "
            f"({free} are free). Free some space, or put the cache on a larger disk "
            "(CLEARML_DEPLOY_CACHE)."
        )
    if trouble := _index_trouble(output):
        return f"{environment.title} cannot be installed: {trouble}"
    is_it = says_none_found(output) and re.search(
        rf"\b{re.escape(package)}=={re.escape(str(environment.version))}(?![\w.])", text
    )
    if is_it:
        return _no_such_version(environment, package, output, others)
    last = "\n".join(f"  {line}" for line in output[-SHOWN_LINES:])
    return (
        f"{environment.title} cannot be installed: {doing} failed. The installer's output is in "
        f"{environment.log}; its last lines:\n{last}"
    )


def _index_trouble(output: Sequence[str]) -> str:
    """What is wrong with the package index itself, and what to do; empty where it answers."""
    if any(_DENIED.search(line) for line in output):
        return (
            "the package index refuses the worker's credentials (401 or 403). See the settings of pip "
            "on the worker."
        )
    if says_unreachable(output) and not versions_found(output):
        return (
            f"the package index cannot be reached ({_first_match(_UNREACHABLE, output)}). See the worker's "
            "network, or name a mirror for pip (PIP_INDEX_URL)."
        )
    return ""


def wrong_python(environment: EngineEnvironment, needs: str) -> str:
    """Say that a version does not run on this Python."""
    return (
        f"{environment.title} does not run on Python {platform.python_version()}, which this instance "
        f"runs on: it needs Python {needs}. Use a worker with that Python, or another version."
    )


def _no_such_version(
    environment: EngineEnvironment, package: str, output: Sequence[str], others: Sequence[str]
) -> str:
    here = f"Python {platform.python_version()} on {platform.machine()}"
    for line in output:
        for match in _NEEDS_PYTHON.finditer(line):
            needs = match["uv"] or match["needs"]
            if match["uv"] or match["version"].lstrip("'\";, ") == str(environment.version):
                return wrong_python(environment, needs)
    near = nearest_versions(environment.version, [*versions_found(output), *others])
    nearest = f" The nearest that there are: {', '.join(near)}." if near else ""
    if any(_NO_WHEEL.search(line) for line in output):
        return f"{package} {environment.version} has no build for {here}.{nearest}"
    if near:
        return f"There is no {package} {environment.version} for {here}.{nearest}"
    # Installers say no more than this of an index that is away or refuses them.
    return (
        f"{environment.title} cannot be installed: no {package} at all was found for {here}. The package "
        "index of this worker (the settings of pip) does not have it, cannot be reached, or refuses the "
        f"worker's credentials. The installer's output is in {environment.log}."
    )


def _first_match(pattern: re.Pattern[str], output: Sequence[str]) -> str:
    found = next((line.strip() for line in output if pattern.search(line)), "")
    return found if len(found) <= 200 else f"{found[:200]}..."
