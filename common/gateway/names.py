"""Which endpoint names can be served. Imports nothing of ours: options use it too."""

from __future__ import annotations

MAX_NAME_LENGTH = 200
"""Characters; a name is part of every URL, and clients and proxies limit those."""

RESERVED_FIRST_PARTS = frozenset({"v1", "admin", "service", "health", "ready", "metrics"})
"""First path parts that the gateway answers itself."""


def check_endpoint_name(name: str) -> str | None:
    """Say what is wrong with an endpoint name.

    A name may contain slashes, dots and capitals; it may not contain what a URL, a proxy or a
    client would read as something else.

    Returns:
        None when the name can be served, else a phrase for the user that names the problem.
    """
    if not name:
        return "the name is empty"
    if len(name) > MAX_NAME_LENGTH:
        return f"the name has {len(name)} characters, at most {MAX_NAME_LENGTH} are allowed"
    for character in name:
        problem = _check_character(character)
        if problem:
            return problem
    if name.startswith("/") or name.endswith("/"):
        return "the name starts or ends with a slash"
    parts = name.split("/")
    if "" in parts:
        return "the name has an empty part (two slashes in a row)"
    for part in parts:
        if part in (".", ".."):
            return f"the name has the part {part!r}, which means a folder in a path"
    if parts[0] in RESERVED_FIRST_PARTS:
        return f"the first part {parts[0]!r} is a route of the gateway itself"
    return None


def _check_character(character: str) -> str | None:
    if character in "\\?#%":
        return f"the character {character!r} has a meaning of its own in a URL"
    if character in "<>\"'`":
        return f"the character {character!r} has a meaning of its own in a page or a shell"
    if character.isspace():
        return "the name contains white space"
    if not character.isprintable():
        return f"the name contains the control character U+{ord(character):04X}"
    return None
