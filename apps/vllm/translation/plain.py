"""A field and its own flag: what most fields are, in whatever form the version has the flag."""

from __future__ import annotations

from apps.vllm.catalogue import CatalogueFlag
from apps.vllm.history import why_inert, why_missing
from apps.vllm.request import Given
from apps.vllm.translation.values import UnfitValueError, arguments_for
from apps.vllm.translation.writer import CommandWriter


def write_plain(writer: CommandWriter, item: Given) -> None:
    """Settle a field by its flag alone: passed, or told why not."""
    found = writer.catalogue.find(item.flag)
    inert = why_inert(item.flag, writer.version) if found else None
    if inert and item.value is False:
        writer.translate(item, "nothing: it is off unless told otherwise")
    elif inert:
        writer.give_up(item, inert)
    elif isinstance(item.value, bool):
        _write_switch(writer, item, found)
    elif found is None:
        give_up_missing(writer, item)
    else:
        write_value(writer, item, found)


def write_value(writer: CommandWriter, item: Given, found: CatalogueFlag) -> None:
    """Settle a field that is no switch by a flag that is there."""
    try:
        arguments = arguments_for(found, item, writer.version)
    except UnfitValueError as error:
        tell_unfit(writer, item, error)
    else:
        writer.pass_(item, *arguments)


def tell_unfit(writer: CommandWriter, item: Given, error: UnfitValueError) -> None:
    """Settle a field whose value the version does not take."""
    if error.is_mistake:
        writer.refuse(item, str(error))
    else:
        writer.give_up(item, str(error))


def give_up_missing(writer: CommandWriter, item: Given) -> None:
    """Settle a field whose flag the version does not have."""
    writer.give_up(item, why_missing(item.flag, writer.version))


def lives(writer: CommandWriter, flag: str) -> bool:
    """Whether the version has a flag that does something and is not on its way out."""
    return writer.catalogue.lives(flag) and why_inert(flag, writer.version) is None


def _write_switch(writer: CommandWriter, item: Given, found: CatalogueFlag | None) -> None:
    if found is None:
        _write_opposite(writer, item)
    elif found.takes_value == "none":
        if item.value:
            writer.pass_(item, (found.name,))
        elif found.negations:
            writer.pass_(item, (found.negations[0],))
        else:
            writer.translate(item, "nothing: it is off unless told otherwise")
    elif found.type == "bool":
        writer.pass_(item, (found.name, str(item.value)))
    else:
        writer.give_up(item, f"{found.name} of vLLM {writer.version} is no switch")


def _write_opposite(writer: CommandWriter, item: Given) -> None:
    """Write a switch whose name is only the negative of another, or that is there the other way round."""
    if opposite := writer.negated(item.flag):
        writer.translate(item, "", (item.flag if item.value else opposite.name,))
        return
    for one, other in (("--enable-", "--disable-"), ("--disable-", "--enable-")):
        if item.flag.startswith(one):
            found = writer.catalogue.find(other + item.flag.removeprefix(one))
            if found is not None and found.takes_value == "none":
                if not item.value:
                    writer.translate(item, "", (found.name,))
                elif found.negations:
                    writer.translate(item, "", (found.negations[0],))
                else:
                    writer.translate(item, f"nothing: {found.name} is off unless told otherwise")
                return
    if item.value:
        give_up_missing(writer, item)
    else:
        to = f"nothing: vLLM {writer.version} has no {item.flag}, so it is off"
        writer.translate(item, to)
