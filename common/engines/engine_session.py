"""HTTP to one engine beside the gateway: health questions, and what moves it between the tiers."""

from __future__ import annotations

import aiohttp

from common.engines.contract import EngineAddress


def engine_session(address: EngineAddress) -> aiohttp.ClientSession:
    """Open a session that sends an engine's key with each request; whoever opened it closes it.

    Every request is a connection of its own: engines close those that they promised to keep.

    Args:
        address: Where the engine listens; URLs begin with its `base_url`.
    """
    connector: aiohttp.BaseConnector
    if address.socket_path is not None:
        connector = aiohttp.UnixConnector(path=str(address.socket_path), force_close=True)
    else:
        connector = aiohttp.TCPConnector(force_close=True)
    return aiohttp.ClientSession(connector=connector, headers=address.headers)
