"""A form with its assets as the archive that a server takes: the same bytes for the same input. Pure."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

ASSETS = "assets"
# The oldest time that the format knows.
_NO_TIME = (1980, 1, 1, 0, 0, 0)
_REGULAR_FILE = 0o100644 << 16
_UNIX = 3


def pack_files(files: Mapping[str, bytes]) -> bytes:
    """Pack files into a zip archive.

    They are stored as they are: what a compression yields differs between versions of its library.

    Args:
        files: Path within the archive -> content.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, _NO_TIME)
            info.external_attr = _REGULAR_FILE
            info.create_system = _UNIX
            archive.writestr(info, files[name])
    return packed.getvalue()
