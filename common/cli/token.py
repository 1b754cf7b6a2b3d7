"""``clearml-deploy token``: a ClearML token for instances that ask for one."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import click

from common.clearml.api import ClearMLApi
from common.errors import ControlPlaneError
from common.gateway.clearml_auth import read_claims


@click.command()
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: token, user, and expires in Unix seconds."
)
def token(as_json: bool) -> None:
    """Print a ClearML token of your account, for instances with General/auth = clearml.

    It is made with the credentials that are configured here (clearml.conf or the environment). Whoever
    has it may do on the ClearML server what you may, until it expires: keep it as you keep them. Its end
    is said on stderr.

    \b
    Examples:
      curl -H "Authorization: Bearer $(clearml-deploy token)" http://worker:8800/v1/models
      clearml-deploy token --json
    """
    found = ClearMLApi().call("auth", "login").get("token")
    claims = read_claims(found) if isinstance(found, str) else None
    if claims is None:
        raise ControlPlaneError("The ClearML server answered the login without a token.")
    if as_json:
        expires = None if claims.expires is None else int(claims.expires)
        click.echo(json.dumps({"token": found, "user": claims.name, "expires": expires}, indent=2))
        return
    click.echo(found)
    if claims.expires is None:
        click.echo("It does not expire.", err=True)
    else:
        end = datetime.fromtimestamp(claims.expires, tz=timezone.utc)
        click.echo(f"Expires: {end:%Y-%m-%d %H:%M} UTC", err=True)
