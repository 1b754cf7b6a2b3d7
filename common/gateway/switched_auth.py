"""An authenticator that is exchanged while the gateway serves."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from common.errors import RequestError
from common.gateway.auth import Authenticator, Identity


class SwitchedAuthenticator:
    """Decides as another authenticator does, until `use` names the next one.

    Its calls are those of the other one, so that a request pays nothing for the exchange. Nothing of
    it may be kept by whoever asks: not its methods, and not whether a browser has to log in.
    """

    known: Callable[[str | None], Identity | None]
    identify: Callable[[str | None], Coroutine[Any, Any, Identity | None]]
    refuse: Callable[[str | None], RequestError]
    needs_secret: bool

    def __init__(self, first: Authenticator) -> None:
        self.use(first)

    def use(self, other: Authenticator) -> None:
        """Have `other` decide from now on."""
        self.known = other.known
        self.identify = other.identify
        self.refuse = other.refuse
        self.needs_secret = other.needs_secret
