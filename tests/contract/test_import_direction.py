"""The rule of imports of docs/architecture.md, read from the sources."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Package of ours -> packages of ours that it may import. A file of `common` itself is its stem.
ALLOWED: dict[str, set[str]] = {
    "common.errors": set(),
    "common.options": {"common.errors"},
    "common.engines": {"common.errors"},
    "common.memory": {"common.errors", "common.engines"},
    "common.models": {"common.errors"},
    "common.telemetry": {"common.errors"},
    "common.gateway": {"common.errors", "common.engines", "common.telemetry"},
    "common.local_server": {"common.errors"},
    "common.clearml": {"common.errors", "common.options"},
    "common.forms": {"common.errors", "common.options"},
    "common.runtime": {
        "common.errors",
        "common.options",
        "common.engines",
        "common.memory",
        "common.models",
        "common.telemetry",
        "common.gateway",
        "common.clearml",
    },
    "common.launch": {
        "common.errors",
        "common.options",
        "common.forms",
        "common.clearml",
        "common.runtime",
    },
    "common.cli": {"*"},
    "common.demo": {"*"},
}


def sources() -> list[Path]:
    return [*sorted((ROOT / "common").rglob("*.py")), *sorted((ROOT / "apps").rglob("*.py"))]


def imported_modules(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.append(node.module)
    return found


def package_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_direction(path: Path) -> None:
    own = package_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module in imported_modules(path):
        if module.split(".")[0] not in ("common", "apps"):
            continue
        target = package_of(module)
        if own.startswith("apps."):
            of_vllm = own == "apps.legacy_model" and target == "apps.vllm"
            assert target == own or target.startswith("common.") or of_vllm, (
                f"{path} imports {module}"
            )
            continue
        if target in (own, "common") or own == "common.__init__":
            continue
        assert not target.startswith("apps"), f"{path}: common never imports an app ({module})"
        allowed = ALLOWED[own]
        assert "*" in allowed or target in allowed, f"{path}: {own} may not import {module}"


def test_only_one_module_imports_clearml_task() -> None:
    importers = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clearml"):
                if any(alias.name == "Task" for alias in node.names):
                    importers.append(str(path.relative_to(ROOT)))
    assert set(importers) == {"common/clearml/task.py"}


def test_no_module_of_an_app_hides_a_module_of_python_or_of_a_dependency() -> None:
    """A script's folder first on the path would replace it."""
    taken = set(sys.stdlib_module_names) | {"vllm", "clearml", "xllamacpp", "llama_cpp", "aiohttp"}
    packages = {path.stem for path in (ROOT / "apps").glob("*.py")}
    assert not packages & taken
    assert [path.name for path in (ROOT / "apps").glob("*.py")] == ["__init__.py"]


def test_no_work_is_done_at_import() -> None:
    """Calls at the top level of a module, other than definitions of constants and types."""
    offenders = []
    for path in sources():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                offenders.append(f"{path.name}: {ast.unparse(node)}")
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                name = ast.unparse(node.value.func)
                if name in ("open", "subprocess.run", "os.environ.get", "threading.Thread"):
                    offenders.append(f"{path.name}: {ast.unparse(node)}")
    assert not offenders
