"""The keys generated at first start: the owner's access and secret key, and the token secret."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass

from common.errors import ControlPlaneError
from common.local_server.data_dir import DataDir, write_private
from common.local_server.wire import new_id


@dataclass(frozen=True, repr=False)
class Credentials:
    """Secrets of one local server.

    Attributes:
        access_key: The owner's key, as in `clearml.conf`.
        secret_key: The owner's secret.
        token_secret: Signs the login tokens.
        company: Id of the one company that all objects belong to.
        owner: User id of the owner.
    """

    access_key: str
    secret_key: str
    token_secret: str
    company: str
    owner: str


def new_key_pair() -> tuple[str, str]:
    """Make an access key and a secret key."""
    return secrets.token_hex(15).upper(), secrets.token_urlsafe(36)


def load_or_create(data_dir: DataDir) -> Credentials:
    """Read the credentials of a data directory, or generate them (mode 600).

    Raises:
        ControlPlaneError: The file exists and can not be understood.
    """
    path = data_dir.credentials
    if not path.exists():
        access_key, secret_key = new_key_pair()
        content = {
            "access_key": access_key,
            "secret_key": secret_key,
            "token_secret": secrets.token_urlsafe(48),
            "company": new_id(),
            "owner": new_id(),
        }
        write_private(path, json.dumps(content, indent=1) + "\n")
    try:
        return Credentials(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ControlPlaneError(
            f"The local server's credentials in {path} can not be read ({type(error).__name__})."
            " Restore the file, or delete it to have new ones made; every clearml.conf with the"
            " old ones then stops working."
        ) from error
