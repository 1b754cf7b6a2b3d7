"""Names that vLLM looks up among what is registered once it starts, its parser taking any text.

Without a check here a misspelt one is told only after the weights were fetched.
"""

from __future__ import annotations

import difflib
from typing import Final

from apps.vllm.catalogue import SHIPPED, Catalogue, CatalogueFlag, load_catalogue
from apps.vllm.request import EngineRequest

_PLUGINS: Final = {
    "--reasoning-parser": "--reasoning-parser-plugin",
    "--tool-call-parser": "--tool-parser-plugin",
}
"""Flag -> the flag that names a file which registers more of its names."""

# vLLM reads the names of all others in any case. A checkpoint may go by other names than those that
# are registered, and its own code may register some: only what is clearly misspelt is wrong there.
_CLEARLY: Final = 0.8


def unregistered(flag: CatalogueFlag, value: str) -> str | None:
    """Say what is registered in place of a name, with the nearest first; None where nothing is wrong.

    Args:
        flag: The flag; one whose registered names are not known takes any.
        value: The name.

    Returns:
        The end of a sentence that begins with what is wrong, and all that there are.
    """
    # Both leave the choice to vLLM.
    if not flag.registered or value in ("", "None", *flag.registered):
        return None
    is_closed = flag.name in _PLUGINS
    cutoff = 0.5 if is_closed else _CLEARLY
    near = difflib.get_close_matches(value.lower(), flag.registered, n=1, cutoff=cutoff)
    if not is_closed:
        known = {*flag.registered, *shipped_values(flag.name)}
        if not near or value.lower() in known:
            return None
    hint = f"; did you mean {near[0]}?" if near else "."
    more = f". One of your own needs {_PLUGINS[flag.name]}" if is_closed else ""
    return f"{hint} There are {', '.join(flag.registered)}{more}"


def shipped_values(flag: str) -> frozenset[str]:
    """The values that any shipped catalogue enforces, or has registered, for a flag."""
    catalogues = (load_catalogue(path) for path in sorted(SHIPPED.glob("*.json")))
    return frozenset(
        value
        for catalogue in catalogues
        if (found := catalogue.find(flag))
        for value in (*found.choices, *found.registered)
    )


def opened_by_plugins(catalogue: Catalogue, request: EngineRequest) -> Catalogue:
    """The catalogue without the names to which a plugin, in whatever field, may add."""
    said = [request.cli] if request.cli else request.overrides
    text = " ".join(said).replace("_", "-")
    opened = {
        flag
        for flag, plugin in _PLUGINS.items()
        if plugin.lstrip("-") in text or (request.value(plugin) and not request.cli)
    }
    return catalogue.without_values(opened) if opened else catalogue
