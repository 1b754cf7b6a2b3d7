"""Whether a browser's request comes from the instance's own page (pure).

The session cookie is `SameSite=Strict`, which keeps it out of requests of other sites. Another port
of the same host is the same site, though, and one worker runs several things: what changes
anything is therefore taken from the page's own origin only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

Origin = Literal["own", "foreign", "unknown"]


def origin_of(headers: Mapping[str, str], public_url: str | None) -> Origin:
    """Return where a request comes from; unknown when no browser says so.

    Args:
        headers: The request's; looked up by their usual names.
        public_url: What clients use instead of the instance's own address.
    """
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        # "none": typed into the address bar or a bookmark.
        return "own" if site in ("same-origin", "none") else "foreign"
    origin = headers.get("Origin")
    if origin is None:
        return "unknown"
    # A page of another origin cannot set these: the browser would ask with OPTIONS first.
    hosts = {headers.get("Host"), headers.get("X-Forwarded-Host")}
    if public_url:
        hosts.add(urlsplit(public_url).netloc)
    host = urlsplit(origin).netloc
    return "own" if host and host.lower() in {h.lower() for h in hosts if h} else "foreign"
