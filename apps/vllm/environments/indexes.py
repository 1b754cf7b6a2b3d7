"""Where packages come from: pip's settings, for pip and for uv, and no password in what is shown."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping

PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own index of the builds without CUDA, which PyPI does not have."""

_SETTING = re.compile(
    r"^(?P<section>[\w:-]+?)\.(?P<name>[\w-]+)=(?P<quote>['\"])(?P<value>.*)(?P=quote)$"
)
# Later ones win, as in pip.
_SECTIONS = ("global", "download", "install", ":env:")
_PASSWORD = re.compile(r"(?<=://)[^/\s@'\"]+@")
_ASK_PIP_S = 60.0

# They would send packages elsewhere than into the environment that is made here.
_ELSEWHERE = (
    "PIP_TARGET",
    "PIP_PREFIX",
    "PIP_ROOT",
    "PIP_USER",
    "PIP_PYTHON",
    "PIP_REQUIRE_VIRTUALENV",
)
_UV_ELSEWHERE = (
    "UV_SYSTEM_PYTHON",
    "UV_PROJECT_ENVIRONMENT",
    "UV_PYTHON",
    "UV_TARGET",
    "UV_PREFIX",
)


def hide_passwords(text: str) -> str:
    """Take user names and passwords out of the URLs in a text."""
    return _PASSWORD.sub("", text)


def read_pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Ask pip for its settings, from its files and variables. Blocks for a second.

    Returns:
        Name, such as ``index-url``, to value; empty where there is no pip.
    """
    try:
        asked = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ASK_PIP_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_pip_settings(asked.stdout) if asked.returncode == 0 else {}


def parse_pip_settings(listing: str) -> dict[str, str]:
    """Read the output of ``pip config list``."""
    by_section: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in listing.splitlines():
        match = _SETTING.match(line.strip())
        if match and match["section"] in by_section:
            value = match["value"].replace("\\n", "\n").replace("\\'", "'")
            by_section[match["section"]][match["name"]] = value
    merged: dict[str, str] = {}
    for section in _SECTIONS:
        merged.update(by_section[section])
    return merged


def pip_environment(
    environ: Mapping[str, str], *, extra_index: str | None = None
) -> dict[str, str]:
    """The environment of a pip that installs into an environment of its own.

    Args:
        environ: The worker's environment.
        extra_index: A further index to look at.
    """
    kept = {name: value for name, value in environ.items() if name not in _ELSEWHERE}
    if extra_index:
        configured = read_pip_settings(environ).get("extra-index-url", "")
        kept["PIP_EXTRA_INDEX_URL"] = f"{configured} {extra_index}".strip()
    return {
        **kept,
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_PROGRESS_BAR": "off",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def uv_environment(
    environ: Mapping[str, str], pip: Mapping[str, str], *, extra_index: str | None = None
) -> dict[str, str]:
    """The environment of a uv that takes packages from where pip would. Pure.

    Args:
        environ: The worker's environment; what it says to uv itself wins.
        pip: pip's settings.
        extra_index: A further index to look at.
    """
    indexes = pip.get("extra-index-url", "").split()
    own = {
        "UV_DEFAULT_INDEX": pip.get("index-url", ""),
        "UV_INDEX": " ".join(indexes),
        "UV_FIND_LINKS": ",".join(pip.get("find-links", "").split()),
        "UV_NO_INDEX": "1" if pip.get("no-index", "").lower() in ("1", "true", "yes", "on") else "",
        "UV_HTTP_TIMEOUT": pip.get("default-timeout", "") or pip.get("timeout", ""),
        "UV_INSECURE_HOST": " ".join(pip.get("trusted-host", "").split()),
        "SSL_CERT_FILE": pip.get("cert", ""),
        # pip looks at all indexes for the best version; uv, else, at the first that has the name.
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    older_names = {"UV_DEFAULT_INDEX": "UV_INDEX_URL", "UV_INDEX": "UV_EXTRA_INDEX_URL"}
    kept = {name: value for name, value in environ.items() if name not in _UV_ELSEWHERE}
    for name, value in own.items():
        if value and name not in kept and older_names.get(name) not in kept:
            kept[name] = value
    if extra_index:
        name = "UV_EXTRA_INDEX_URL" if "UV_EXTRA_INDEX_URL" in kept else "UV_INDEX"
        kept[name] = f"{kept.get(name, '')} {extra_index}".strip()
    return {**kept, "UV_NO_PROGRESS": "1"}
