"""The SDK's own progress of uploads and downloads, which would be told twice and break a console's lines."""

from __future__ import annotations

import logging

_LOGGER = "clearml.storage"


def hush_sdk_progress() -> None:
    """Have the SDK's storage tell warnings and errors alone; to be called before it is used."""
    from clearml.storage import callbacks

    # Without tqdm, which it may lack, it logs its progress instead of drawing it: as information.
    callbacks.tqdm = None
    logger = logging.getLogger(_LOGGER)
    if _is_worth_a_line not in logger.filters:
        logger.addFilter(_is_worth_a_line)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
