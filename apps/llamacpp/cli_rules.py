"""What the field "CLI" may not say to llama.cpp, and why."""

from __future__ import annotations

_LISTENING = (
    "cannot be set here: the engine listens for this instance alone; "
    '"Host" (General/host) and "Port" (General/port) say where clients reach it'
)
_KEYS = 'cannot be set here: keys are the instance\'s own, see "API Key" (General/api_key)'
_TLS = "cannot be set here: put TLS into a proxy in front of the instance"
_TOKEN = (
    'cannot be set here: "Hugging Face Token" (General/hugging_face_token) or HF_TOKEN in the '
    "worker's environment hold the token"
)
_SOURCE = 'cannot be set here: the "Model" field says which model is served'
_ROUTER = "cannot be set here: this instance starts one engine for each of its models"
_PRINTS = "only prints something and ends; it starts no server"

REFUSED = {
    "--host": _LISTENING,
    "--port": _LISTENING,
    "--reuse-port": _LISTENING,
    "--api-prefix": _LISTENING,
    "--path": _LISTENING,
    "--api-key": _KEYS,
    "--api-key-file": _KEYS,
    "--ssl-key-file": _TLS,
    "--ssl-cert-file": _TLS,
    "--hf-token": _TOKEN,
    "--model-url": _SOURCE,
    "--docker-repo": _SOURCE,
    "--hf-repo": _SOURCE,
    "--hf-file": _SOURCE,
    "--hf-repo-v": _SOURCE,
    "--hf-file-v": _SOURCE,
    "--models-dir": _ROUTER,
    "--models-preset": _ROUTER,
    "--models-max": _ROUTER,
    "--models-autoload": _ROUTER,
    "--help": _PRINTS,
    "--version": _PRINTS,
    "--list-devices": _PRINTS,
    "--cache-list": _PRINTS,
    "--completion-bash": _PRINTS,
    # llama_cpp.server's own names of the same.
    "--ssl-keyfile": _TLS,
    "--ssl-certfile": _TLS,
    "--config-file": "cannot be set here: the engine is started from this instance's fields alone",
}
"""Canonical flag -> why it may not stand in "CLI"."""


def refusal(name: str) -> str | None:
    """Say why a flag may not stand in "CLI"; None where it may.

    Args:
        name: Its canonical name, or an unknown one as the user gave it.
    """
    name = name.replace("_", "-")
    if reason := REFUSED.get(name):
        return reason
    if name.startswith(("--ssl", "--tls")):
        return _TLS
    # Shortcuts such as --gpt-oss-20b-default fetch a model of their own.
    if name.endswith(("-default", "b-spec")) and name != "--spec-default":
        return _SOURCE
    return None
