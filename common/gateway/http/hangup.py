"""Notices that clients leave from whom nothing is read: a transport sees that only by reading."""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Callable
from typing import Protocol


class Watched(Protocol):
    """A connection from which nothing is read for now."""

    transport: asyncio.Transport

    def abort(self) -> None:
        """End it: its client is gone."""


class HangupWatch:
    """Ends connections whose client closed them while their reading is held. One event loop.

    Linux tells of a closed direction apart from data (``EPOLLRDHUP``, epoll_ctl(2)). An epoll of its
    own holds these connections and is itself watched by the event loop. Elsewhere nothing is watched:
    the connection ends when it is read from or written to again.
    """

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._watched: dict[int, Watched] = {}
        self._close_reader: Callable[[], object] | None = None

    def add(self, connection: Watched) -> None:
        """Watch a connection until `remove`."""
        number = _descriptor(connection)
        if number < 0 or not hasattr(select, "epoll"):
            return
        if self._epoll is None:
            self._epoll = select.epoll()
            loop = asyncio.get_running_loop()
            descriptor = self._epoll.fileno()
            loop.add_reader(descriptor, self._look)
            self._close_reader = lambda: loop.remove_reader(descriptor)
        try:
            self._epoll.register(number, select.EPOLLRDHUP | select.EPOLLONESHOT)
        except FileExistsError:
            self._epoll.modify(number, select.EPOLLRDHUP | select.EPOLLONESHOT)
        self._watched[number] = connection

    def remove(self, connection: Watched) -> None:
        """Watch it no more; does nothing for one that is not watched."""
        numbers = [n for n, watched in self._watched.items() if watched is connection]
        for number in numbers:
            del self._watched[number]
            if self._epoll is not None:
                with contextlib.suppress(OSError):  # it is closed already
                    self._epoll.unregister(number)

    def close(self) -> None:
        """Watch nothing any more."""
        if self._close_reader is not None:
            self._close_reader()
            self._close_reader = None
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
        self._watched.clear()

    def _look(self) -> None:
        assert self._epoll is not None
        for number, _ in self._epoll.poll(0):
            connection = self._watched.get(number)
            if connection is not None:
                connection.abort()


def _descriptor(connection: Watched) -> int:
    socket = connection.transport.get_extra_info("socket")
    return -1 if socket is None else int(socket.fileno())
