from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from apps.vllm.environments.layout import EngineEnvironment
from tests.vllm.engine_environment import installed_environment
from tests.vllm.tiny_models import make_adapter, make_model


@dataclass(frozen=True)
class TinyModels:
    """Folders of the models that tests share; none may be changed."""

    base: Path
    draft: Path
    adapter: Path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    folder = tmp_path_factory.mktemp("tiny-models")
    return TinyModels(
        make_model(folder / "base"),
        make_model(folder / "draft", seed=2, layers=1),
        make_adapter(folder / "adapter"),
    )


@pytest.fixture(scope="session")
def vllm_environment() -> EngineEnvironment:
    """The environment with the CPU build that `make test-engines` installed."""
    return installed_environment()


@pytest.fixture(scope="session")
def vllm_python(vllm_environment: EngineEnvironment) -> Path:
    """Its interpreter."""
    return vllm_environment.python
