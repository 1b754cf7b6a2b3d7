"""The flags that a vLLM is really given, by their own names: whichever field said them."""

from __future__ import annotations

from collections.abc import Sequence

from apps.vllm.catalogue import Catalogue

_CHANGES = (
    "--hf-overrides",
    "--config-format",
    "--hf-config-path",
    "--rope-scaling",
    "--rope-theta",
)


class PassedFlags:
    """The arguments of a command, read back.

    Args:
        argv: The arguments; what stands before the first flag is passed over.
        catalogue: The flags of the vLLM that gets them.
    """

    def __init__(self, argv: Sequence[str], catalogue: Catalogue) -> None:
        self._values: dict[str, str] = {}
        for number, word in enumerate(argv):
            if not word.startswith("-") or word.lstrip("-")[:1].isdigit():
                continue
            name, equals, value = word.partition("=")
            found = catalogue.find(name)
            following = argv[number + 1] if number + 1 < len(argv) else ""
            self._values[found.name if found else name] = value if equals else following

    def text(self, flag: str) -> str | None:
        """The value of a flag; None where it is not passed."""
        return self._values.get(flag)

    def whole(self, flag: str, default: int) -> int:
        """The value as a whole number; the default where it is not passed, or none."""
        text = self._values.get(flag, "")
        return int(text) if text.isdigit() else default

    def number(self, flag: str, default: float) -> float:
        """The value as a number; the default where it is not passed, or none."""
        try:
            return float(self._values[flag])
        except (KeyError, ValueError):
            return default

    def __contains__(self, flag: str) -> bool:
        return flag in self._values

    @property
    def changes_config(self) -> bool:
        """Whether a flag may change what the model's configuration says."""
        return any(name.partition(".")[0] in _CHANGES for name in self._values)
