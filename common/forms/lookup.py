"""Finding the option that a file means, by whichever name it uses: title, parameter path or wizard name."""

from __future__ import annotations

import difflib
from typing import Any

from common.forms.names import field_name
from common.options.declaration import Option, parameter_name
from common.options.settings import AppSettings


class FieldNames:
    """Every name that an app's options have been known by."""

    def __init__(self, settings_cls: type[AppSettings[Any, Any]]) -> None:
        self.options = tuple(settings_cls.options())
        self.sections = {o.group.lower(): o.group for o in self.options if o.group}

    def section(self, name: str) -> str | None:
        """The section called `name`, in any case, or as the form titles it (``LoRA Configuration``)."""
        return self.sections.get(parameter_name(name).removesuffix("_configuration"))

    def find(self, name: str, section: str = "") -> list[Option]:
        """The options that `name` may mean, the most exact way of reading it alone; empty: none.

        Args:
            name: Wizard name, parameter path, title or bare parameter name; case does not matter.
            section: Only those of this section.
        """
        known = [o for o in self.options if not section or section in _sections_of(o)]
        if not section:
            exact = [o for o in known if field_name(o) == name]
            if exact:
                return exact
            head, slash, rest = name.partition("/")
            found = self.section(head) if slash else None
            if found:
                return self.find(rest.strip(), found)
        bare = parameter_name(name)
        return [o for o in known if bare in (o.name, parameter_name(o.title))]

    def find_of_model(self, name: str) -> Option | None:
        """The per-model option that `name` means, inside an item of the models' list."""
        found = [option for option in self.options if option.per_model and option.name == name]
        found = found or [option for option in self.find(name) if option.per_model]
        return found[0] if len(found) == 1 else None

    def hint(self, name: str, *, per_model: bool = False) -> str:
        """A clause with the known name that is nearest to a misspelt one, or an empty string."""
        known: dict[str, Option] = {}
        for option in self.options:
            if per_model and not option.per_model:
                continue
            for spelling in (option.title, option.name, option.path, field_name(option)):
                known.setdefault(spelling.lower(), option)
        known.pop("", None)
        elsewhere = self.find(name.rpartition("/")[2]) if "/" in name else []
        if elsewhere:
            return f"; did you mean {' or '.join(shown_path(option) for option in elsewhere)}?"
        close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
        return f"; did you mean {shown_path(known[close[0]])}?" if close else ""


def shown_path(option: Option) -> str:
    """How a person writes an option: its title and its parameter's path, where it has one."""
    return f'"{option.title}" ({option.path})' if option.path else f'"{option.title}"'


def _sections_of(option: Option) -> tuple[str, ...]:
    # Every option of a model may also stand in the section Model.
    return (option.group, "Model") if option.per_model else (option.group,)
