"""The legacy Model Deployment app: an older form over vLLM, with no engine code of its own."""

from __future__ import annotations

from apps.legacy_model.options import LegacySettings
from apps.vllm.app import VllmApp


def app() -> VllmApp:
    """Make the app."""
    return VllmApp("legacy_model", "Model Deployment (legacy)", LegacySettings)
