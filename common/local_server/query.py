"""The `get_all` of every service: filters, order, paging, choice of fields. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from operator import eq, ge, gt, le, lt
from typing import Any

from common.local_server.wire import CallError, JsonDict, parse_iso

#: Keys of a `get_all` request that are no filter on a field.
_CONTROL = frozenset(
    {
        "id",
        "name",
        "only_fields",
        "page",
        "page_size",
        "order_by",
        "size",
        "scroll_id",
        "refresh_scroll",
        "search_text",
        "search_hidden",
        "shallow_search",
        "include_subprojects",
        "allow_public",
        "method",
        "_all_",
        "_any_",
        "_or_",
    }
)
_OPERATORS = frozenset({"__$or", "__$and", "__$all", "__$any", "__$not", "__$nop"})
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {">=": ge, "<=": le, ">": gt, "<": lt, "": eq}


def field(document: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, None where something is missing on the way."""
    value: Any = document
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def select(
    documents: Iterable[JsonDict], request: Mapping[str, Any], fields: Collection[str]
) -> list[JsonDict]:
    """Filter and order documents as a `get_all` request asks; paging comes after.

    Args:
        documents: What the caller may read.
        request: The request's body.
        fields: Known top-level fields of the kind; filters on others are ignored, as the real
            server ignores unknown request fields.

    Raises:
        CallError: A pattern or a date can not be understood.
    """
    # Once without a document: a wrong pattern is refused where there is nothing to search, too.
    _search(str(request.get("name") or ""), "")
    found = [document for document in documents if _matches(document, request, fields)]
    for order in reversed(_order_fields(request.get("order_by"))):
        path = order.lstrip("-")
        found.sort(key=lambda document: _sort_key(field(document, path)), reverse=order[0] == "-")
    return found


def page(documents: list[JsonDict], request: Mapping[str, Any]) -> tuple[list[JsonDict], JsonDict]:
    """Cut out the page or the scroll window; the extra answer fields come second."""
    page_size = request.get("page_size")
    if page_size:
        start = int(request.get("page") or 0) * int(page_size)
        return documents[start : start + int(page_size)], {}
    size = request.get("size")
    if size:
        # The scroll id is the offset: the list is small and made anew for each request.
        text = str(request.get("scroll_id") or "0")
        start = int(text) if text.isdigit() else 0
        end = min(start + int(size), len(documents))
        return documents[start:end], {"scroll_id": str(end)}
    return documents, {}


def project_fields(
    documents: Iterable[JsonDict], only_fields: Any, fields: Collection[str]
) -> list[JsonDict]:
    """Reduce documents to the wanted fields; the id always stays.

    Raises:
        CallError: 400/14, a field that the kind does not have.
    """
    wanted = [only_fields] if isinstance(only_fields, str) else list(only_fields or ())
    for path in wanted:
        if path.split(".")[0] not in fields:
            raise CallError(14, f"Invalid fields (unknown field {path!r})", fields=[path])
    if not wanted:
        return list(documents)
    return [_reduced(document, ["id", *wanted]) for document in documents]


def _reduced(document: JsonDict, paths: Iterable[str]) -> JsonDict:
    result: JsonDict = {}
    for path in paths:
        value = field(document, path)
        if value is None:
            continue
        *parents, last = path.split(".")
        target = result
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = value
    return result


def _matches(document: JsonDict, request: Mapping[str, Any], fields: Collection[str]) -> bool:
    ids = _as_list(request.get("id"))
    if ids and document["id"] not in ids:
        return False
    if (
        not ids
        and not request.get("search_hidden")
        and "hidden" in _as_list(document.get("system_tags"))
    ):
        return False
    if request.get("name") and not _search(str(request["name"]), document.get("name")):
        return False
    text = request.get("search_text")
    if text and not any(
        str(text).lower() in str(document.get(key, "")).lower() for key in ("name", "id", "comment")
    ):
        return False
    for key, wanted in request.items():
        if key in _CONTROL or wanted is None or wanted == [] or key.split(".")[0] not in fields:
            continue
        if not _matches_field(field(document, key), wanted):
            return False
    return _matches_patterns(document, request)


def _matches_patterns(document: JsonDict, request: Mapping[str, Any]) -> bool:
    for key, join in (("_any_", any), ("_or_", any), ("_all_", all)):
        rule = request.get(key)
        if not isinstance(rule, Mapping):
            continue
        pattern = str(rule.get("pattern", ""))
        hits = (
            any(_search(pattern, item) for item in _as_list(field(document, path)))
            for path in rule.get("fields") or ()
        )
        if not join(hits):
            return False
    return True


def _matches_field(value: Any, wanted: Any) -> bool:
    if not isinstance(wanted, list):
        return bool(value == wanted)
    if wanted and all(isinstance(item, str) and item[:1] in "<>" for item in wanted if item):
        return all(_compares(value, str(item)) for item in wanted)
    return _matches_list({str(item) for item in _as_list(value)}, wanted)


def _matches_list(have: set[str], wanted: list[Any]) -> bool:
    """Tag rules: any of the plain ones (all after ``__$all``/``__$and``), none of the `-` ones."""
    include: set[str] = set()
    need_all = negate = False
    for item in map(str, wanted):
        if item in _OPERATORS:
            need_all = need_all or item in ("__$all", "__$and")
            negate = item == "__$not"
        elif item.startswith("-") or negate:
            negate = False
            if item.removeprefix("-") in have:
                return False
        else:
            include.add(item)
    if not include:
        return True
    return include <= have if need_all else bool(include & have)


def _compares(value: Any, rule: str) -> bool:
    match = re.match(r"(>=|<=|>|<|)(.*)", rule, re.DOTALL)
    assert match is not None  # the pattern takes any text
    if value is None:
        return False
    operator, operand = _COMPARE[match[1]], match[2].strip()
    if isinstance(value, (int, float)):
        try:
            return operator(value, float(operand))
        except ValueError as error:
            raise CallError(12, f"Validation error ({rule!r} is no comparison)") from error
    try:
        return operator(parse_iso(str(value)), parse_iso(operand))
    except ValueError as error:
        raise CallError(12, f"Validation error ({operand!r} is no date)") from error


def _search(pattern: str, value: Any) -> bool:
    try:
        return re.search(pattern, str(value or "")) is not None
    except re.error as error:
        raise CallError(12, f"Validation error ({pattern!r} is no regular expression)") from error


def _order_fields(order_by: Any) -> list[str]:
    return [str(item) for item in _as_list(order_by) if str(item).lstrip("-")]


def _sort_key(value: Any) -> tuple[int, float, str]:
    if value is None:
        return (0, 0.0, "")
    if isinstance(value, (int, float)):
        return (1, float(value), "")
    return (2, 0.0, str(value))


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple, set)) else [value]
