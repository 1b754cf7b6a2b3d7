"""What the fields "CLI" and "Model Overrides" may not say to vLLM, and why."""

from __future__ import annotations

_LISTENING = (
    "cannot be set here: the engine listens for this instance alone; "
    '"Host" (General/host) and "Port" (General/port) say where clients reach it'
)
_KEYS = 'cannot be set here: keys are the instance\'s own, see "API Key" (General/api_key)'
_TLS = "cannot be set here: put TLS into a proxy in front of the instance"
_TOKEN = (
    'cannot be set here: "Hugging Face Token" (General/hugging_face_token) or HF_TOKEN in the '
    "worker's environment hold the token; an argument can be read by every user of the machine"
)
_FILE = "cannot be set here: a file would bring flags that nobody has checked; name them here"
_NO_SERVER = "cannot be set here: with it the process serves no HTTP, so the model has no endpoint"
_GRPC = "cannot be set here: clients reach the model through this instance, which speaks HTTP"
_PRINTS = "only prints something and ends; it starts no server"

REFUSED = {
    "--host": _LISTENING,
    "--port": _LISTENING,
    "--uds": _LISTENING,
    "--root-path": _LISTENING,
    "--data-parallel-multi-port-external-lb": _LISTENING,
    "-dpm": _LISTENING,
    "--data-parallel-supervisor-port": _LISTENING,
    "--api-key": _KEYS,
    "--enable-ssl-refresh": _TLS,
    "--disable-ssl-refresh": _TLS,
    "--no-enable-ssl-refresh": _TLS,
    "--hf-token": _TOKEN,
    "--config": _FILE,
    "--headless": _NO_SERVER,
    "--omni": "cannot be set here: it starts another program in place of vLLM",
    "--help": _PRINTS,
    "-h": _PRINTS,
    "--version": _PRINTS,
    "-v": _PRINTS,
}
"""Canonical flag -> why it may not be given; also for a vLLM that does not know it."""

IGNORED = {
    "--model": 'is ignored: the "Model" field says which model is served',
    "--served-model-name": "is not passed on: the engine gets the name of the endpoint",
}
"""Canonical flag -> what becomes of it, where it is read but never passed on."""


def refusal(name: str) -> str | None:
    """Say why a flag may not be given; None where it may.

    Args:
        name: Its canonical name, or an unknown one as the user gave it.
    """
    name = name.partition(".")[0].replace("_", "-")
    if name.startswith("--ssl"):
        return _TLS
    return REFUSED.get(name) or (_GRPC if name.startswith("--grpc") else None)
