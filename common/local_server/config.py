"""`clearml.conf` for the SDK and for the agent, and the environment that points to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from common.local_server.credentials import Credentials
from common.local_server.data_dir import DataDir, write_private


@dataclass(frozen=True)
class Addresses:
    """URLs of the two servers."""

    api_url: str
    files_url: str


def write_configs(data_dir: DataDir, addresses: Addresses, credentials: Credentials) -> None:
    """Write both files, mode 600."""
    common = [_api(addresses, credentials), _sdk(data_dir, addresses)]
    write_private(data_dir.config_file, "\n".join(common))
    write_private(data_dir.agent_config_file, "\n".join([*common, _agent(data_dir)]))


def environment(data_dir: DataDir) -> Mapping[str, str]:
    """Variables that make the SDK and `clearml-agent` use the local server."""
    return {"CLEARML_CONFIG_FILE": str(data_dir.config_file)}


def _quoted(value: object) -> str:
    # A JSON string is a HOCON string.
    return json.dumps(str(value))


def _api(addresses: Addresses, credentials: Credentials) -> str:
    # The local server is up or down: the SDK's hours of back-off would only hide which. With short
    # pauses it is back at once after a restart.
    return f"""api {{
    # There is no web server: links printed by the SDK lead to the API, which says so.
    web_server: {_quoted(addresses.api_url)}
    api_server: {_quoted(addresses.api_url)}
    files_server: {_quoted(addresses.files_url)}
    verify_certificate: true
    credentials {{
        access_key: {_quoted(credentials.access_key)}
        secret_key: {_quoted(credentials.secret_key)}
    }}
    http.retries {{
        total: 20
        connect: 20
        read: 20
        status: 20
        backoff_factor: 0.2
        backoff_max: 2.0
    }}
}}
"""


def _sdk(data_dir: DataDir, addresses: Addresses) -> str:
    # Looking for the repository in a thread can hang the process's end: the SDK forks its reporting
    # process meanwhile, which inherits, and never closes, the pipe on which that thread waits.
    return f"""sdk {{
    storage.cache.default_base_dir: {_quoted(data_dir.cache / "sdk")}
    development.default_output_uri: {_quoted(addresses.files_url)}
    development.suppress_update_message: true
    development.vcs_repo_detect_async: false
}}
"""


def _agent(data_dir: DataDir) -> str:
    home = data_dir.agent_home
    return f"""agent {{
    disable_agent_update_check: true
    bootstrap.use_bootstrap: false
    package_manager {{
        type: pip
        system_site_packages: true
    }}
    venvs_dir: {_quoted(home / "venvs-builds")}
    venvs_cache.path: {_quoted(home / "venvs-cache")}
    vcs_cache {{
        enabled: true
        path: {_quoted(home / "vcs-cache")}
    }}
    pip_download_cache {{
        enabled: true
        path: {_quoted(home / "pip-download-cache")}
    }}
    docker_pip_cache: {_quoted(home / "pip-cache")}
    docker_apt_cache: {_quoted(home / "apt-cache")}
}}
"""
