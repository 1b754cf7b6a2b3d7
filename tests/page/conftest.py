from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.page.page_harness import CHAT, OTHER, PageInstance, serving


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[PageInstance]:
    """An instance with two models for text; the first one answers slowly enough to be watched."""
    flags = {CHAT: ("--tokens", "12", "--token-delay", "0.02"), OTHER: ()}
    async with serving(tmp_path, flags) as it:
        yield it
