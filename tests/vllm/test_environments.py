from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from packaging.version import Version

from apps.vllm.environments import installer, running
from apps.vllm.environments.failures import explain
from apps.vllm.environments.indexes import hide_passwords, parse_pip_settings, uv_environment
from apps.vllm.environments.installer import install_environment
from apps.vllm.environments.layout import EngineEnvironment, own_environment
from common.errors import EngineMissingError
from common.models.progress import FetchCancelledError
from tests.fakes.package_index import PackageIndex, Wheel
from tests.vllm.fake_vllm import environ_of, fill_cpu, vllm

ROOT = Path(__file__).parents[2]
both_tools = pytest.mark.parametrize("tool", ["pip", "uv"])


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with PackageIndex() as running_index:
        running_index.add(*(vllm(version) for version in ("7.0.0", "8.0.0", "9.0.0", "9.5.0")))
        yield running_index


@pytest.fixture(autouse=True)
def small_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fakes are small: a full disk of the machine that tests is no reason to fail."""
    monkeypatch.setattr(installer, "NEEDED_BYTES", {"cpu": 1, "gpu": 1})
    monkeypatch.setattr(installer, "RESERVE_BYTES", 0)


class Said(list[str]):
    def __call__(self, line: str) -> None:
        self.append(line)


def install(
    index_url: str, folder: Path, tool: str = "uv", version: str = "9.0.0", build: str = "gpu"
) -> tuple[EngineEnvironment, Said]:
    environ = environ_of(index_url, folder, tool)
    environment = own_environment(Version(version), build, environ)  # type: ignore[arg-type]
    said = Said()
    install_environment(environment, environ, said, threading.Event())
    return environment, said


def ask(environment: EngineEnvironment, source: str) -> str:
    argv = [str(environment.python), "-c", source]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def distributions(environment: EngineEnvironment) -> dict[str, str]:
    listing = ask(
        environment,
        "import importlib.metadata as m\n"
        "for d in m.distributions(): print(d.metadata['Name'].lower(), d.version)",
    )
    return dict(line.split() for line in listing.splitlines())


def test_a_version_is_installed_once_and_never_into_this_environment(
    index: PackageIndex, tmp_path: Path
) -> None:
    before = {path.name for path in Path(sys.prefix).glob("lib/python3*/site-packages/*")}
    for tool in ("pip", "uv"):
        environment, said = install(index.url, tmp_path / tool, tool)
        assert environment.is_finished
        assert distributions(environment)["vllm"] == "9.0.0"
        helped = subprocess.run(
            [environment.program, "serve", "--help"], capture_output=True, text=True, check=True
        )
        assert "--max-model-len" in helped.stdout
        assert "step" not in said[0]
        assert "vLLM 9.0.0" in said[0]
        assert "on disk" in said[-1]
        again, said = install(index.url, tmp_path / tool, tool)
        assert again == environment
        assert said == []
    assert index.fetched == ["vllm-9.0.0-py3-none-any.whl"] * 2
    after = {path.name for path in Path(sys.prefix).glob("lib/python3*/site-packages/*")}
    assert after == before


@both_tools
def test_the_cpu_build_gets_the_cpu_build_of_what_it_asks_for(
    index: PackageIndex, tmp_path: Path, tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_cpu(index)
    with PackageIndex() as pytorch:
        pytorch.add(Wheel("torch", "9.1.0+cpu"), Wheel("torch", "9.3.0+cpu"))
        monkeypatch.setattr(installer, "PYTORCH_CPU_INDEX", pytorch.url)
        environment, said = install(index.url, tmp_path, tool, build="cpu")
    assert environment.folder.name == "vllm-9.0.0+cpu"
    found = distributions(environment)
    assert found["torch"] == "9.1.0+cpu"
    assert found["xgrammar"] == "1.0"
    assert found["ffi"] == "0.2"
    assert found["friend"] == "1.5"
    assert found["vllm"] == "9.0.0+cpu"
    assert not {"triton", "torchvision", "never"} & found.keys()
    # The first look at the configured index finds PyTorch only as it is built for CUDA.
    assert any(pytorch.url in line for line in said)


def test_a_cpu_build_of_pytorch_on_the_configured_index_is_taken_from_there(
    index: PackageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer, "PYTORCH_CPU_INDEX", "http://127.0.0.1:1/never")
    fill_cpu(index)
    index.add(Wheel("torch", "9.1.0+cpu"))
    environment, _ = install(index.url, tmp_path, build="cpu")
    assert distributions(environment)["torch"] == "9.1.0+cpu"


@both_tools
def test_pytorch_that_nobody_has_is_named(
    index: PackageIndex, tmp_path: Path, tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer, "PYTORCH_CPU_INDEX", "http://127.0.0.1:1/never")
    fill_cpu(index)
    with pytest.raises(EngineMissingError, match=r"needs torch==9\.1\.0\+cpu, which neither"):
        install(index.url, tmp_path, tool, build="cpu")


@both_tools
def test_a_version_that_is_not_there_is_answered_with_the_nearest(
    index: PackageIndex, tmp_path: Path, tool: str
) -> None:
    with pytest.raises(EngineMissingError) as caught:
        install(index.url, tmp_path, tool, "9.1.0")
    message = str(caught.value)
    assert message.startswith("There is no vllm 9.1.0 for Python")
    assert "9.0.0, 9.5.0" in message
    assert not list(tmp_path.glob("cache/engines/*/bin"))


@both_tools
def test_a_version_that_does_not_run_on_this_python_says_so(
    index: PackageIndex, tmp_path: Path, tool: str
) -> None:
    index.add(vllm("9.1.0", requires_python="<3.10,>=3.8"))
    with pytest.raises(
        EngineMissingError, match=r"does not run on Python 3.*needs\s+Python \S*<3\.10"
    ):
        install(index.url, tmp_path, tool, "9.1.0")


@both_tools
def test_a_version_without_a_build_for_this_machine_is_never_built_here(
    index: PackageIndex, tmp_path: Path, tool: str
) -> None:
    index.add(vllm("9.1.0", tag="cp38-cp38-macosx_11_0_arm64"))
    with pytest.raises(
        EngineMissingError, match=r"(no vllm 9\.1\.0|9\.1\.0 has no build) for Python"
    ):
        install(index.url, tmp_path, tool, "9.1.0")


@both_tools
def test_an_index_that_is_away_is_told_from_a_missing_version(tmp_path: Path, tool: str) -> None:
    with pytest.raises(EngineMissingError, match="index cannot be reached"):
        install("http://127.0.0.1:1/simple/", tmp_path, tool)


@both_tools
def test_the_password_of_an_index_is_used_and_never_shown(
    index: PackageIndex, tmp_path: Path, tool: str
) -> None:
    index.password = "s3cret-pass"
    url = index.url.replace("://", "://user:s3cret-pass@")
    environment, said = install(url, tmp_path, tool)
    with pytest.raises(EngineMissingError) as caught:
        install(url, tmp_path, tool, "9.1.0")
    shown = "\n".join([*said, str(caught.value), environment.log.read_text()])
    assert "s3cret" not in shown


@both_tools
def test_a_refused_password_is_named_as_that(
    index: PackageIndex, tmp_path: Path, tool: str
) -> None:
    index.password = "s3cret-pass"
    url = index.url.replace("://", "://user:wr0ng-pass@")
    with pytest.raises(EngineMissingError, match="refuses the worker's credentials") as caught:
        install(url, tmp_path, tool)
    assert "wr0ng" not in str(caught.value)


def test_too_little_disk_is_told_before_anything_is_done(
    index: PackageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer, "NEEDED_BYTES", {"cpu": 1, "gpu": 10**18})
    with pytest.raises(EngineMissingError, match=r"needs about 1000000\.0 TB, and .* are free"):
        install(index.url, tmp_path)
    assert index.fetched == []


@pytest.mark.parametrize(
    "line", ["ERROR: Could not install: [Errno 28] No space left on device", "  (os error 28)"]
)
def test_a_disk_that_fills_up_is_told_by_the_installers_words(line: str, tmp_path: Path) -> None:
    environment = EngineEnvironment(tmp_path, Version("9.0.0"), "gpu")
    told = explain(environment, "vllm", "step 1", ["x", line], free="1.0 MB")
    assert told.startswith("The disk filled up while vLLM 9.0.0 was installed")
    assert "1.0 MB are free" in told


@both_tools
def test_a_cancelled_installation_ends_at_once_and_leaves_nothing(
    index: PackageIndex, tmp_path: Path, tool: str
) -> None:
    waits, _ = index.hold("vllm")
    environ = environ_of(index.url, tmp_path, tool)
    environment = own_environment(Version("9.0.0"), "gpu", environ)
    cancel = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            install_environment(environment, environ, Said(), cancel)
        except FetchCancelledError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert waits.wait(60)
    cancel.set()
    thread.join(20)
    assert not thread.is_alive()
    assert "cancelled" in str(errors[0])
    assert not environment.folder.exists()
    assert not [p for p in psutil.Process().children(recursive=True) if _is_of(p, environment)]


def _is_of(process: psutil.Process, environment: EngineEnvironment) -> bool:
    try:
        return str(environment.folder) in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def start_process(index: PackageIndex, folder: Path) -> subprocess.Popen[str]:
    environ = {**environ_of(index.url, folder, "uv"), "PYTHONPATH": str(ROOT)}
    program = (
        "import apps.vllm.environments.installer as i, apps.vllm.install as m, sys\n"
        "i.NEEDED_BYTES = {'gpu': 1}; i.RESERVE_BYTES = 0\n"
        "sys.exit(m.main(['9.0.0']))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=environ,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_two_processes_one_installs_and_the_other_waits(
    index: PackageIndex, tmp_path: Path
) -> None:
    waits, go_on = index.hold("vllm")
    with start_process(index, tmp_path) as other:
        assert waits.wait(60)
        environ = environ_of(index.url, tmp_path, "uv")
        environment = own_environment(Version("9.0.0"), "gpu", environ)
        said: list[str] = []

        def report(line: str) -> None:
            said.append(line)
            go_on.set()

        install_environment(environment, environ, report, threading.Event())
        output, errors = other.communicate(timeout=60)
    assert "Another instance is installing vLLM 9.0.0" in said[0]
    assert other.returncode == 0, errors
    assert output.strip() == str(environment.folder)
    assert index.fetched == ["vllm-9.0.0-py3-none-any.whl"]


def test_a_killed_installation_is_done_again(index: PackageIndex, tmp_path: Path) -> None:
    waits, go_on = index.hold("vllm")
    with start_process(index, tmp_path) as other:
        assert waits.wait(60)
        os.kill(other.pid, signal.SIGKILL)
        other.communicate(timeout=60)
    environment = own_environment(Version("9.0.0"), "gpu", environ_of(index.url, tmp_path, "uv"))
    assert environment.folder.exists()
    assert not environment.is_finished
    left = environment.folder / "left-behind"
    left.touch()
    go_on.set()
    environment, said = install(index.url, tmp_path)
    assert "Removing" in said[0]
    assert environment.is_finished
    assert not left.exists()


def test_long_steps_report_again_and_again(
    index: PackageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "REPORT_EVERY_S", 0.0)
    waits, go_on = index.hold("vllm")
    environ = environ_of(index.url, tmp_path, "uv")
    environment = own_environment(Version("9.0.0"), "gpu", environ)
    said: list[str] = []

    def report(line: str) -> None:
        said.append(line)
        if waits.is_set() and sum("step 1 of 2" in item for item in said) > 3:
            go_on.set()

    install_environment(environment, environ, report, threading.Event())
    assert environment.is_finished


def test_pips_settings_are_read_and_mapped_to_uvs() -> None:
    listing = (
        "global.index-url='https://user:pass@mirror/simple'\n"
        "global.extra-index-url='https://one/simple\\nhttps://two/simple'\n"
        "install.find-links='/wheels /more'\n"
        ":env:.cert='/etc/ca.pem'\n"
        "freeze.timeout='10'\n"
    )
    settings = parse_pip_settings(listing)
    env = uv_environment({"UV_FIND_LINKS": "/mine", "UV_PYTHON": "3.9"}, settings)
    assert env["UV_DEFAULT_INDEX"] == "https://user:pass@mirror/simple"
    assert env["UV_INDEX"].split() == ["https://one/simple", "https://two/simple"]
    assert env["UV_FIND_LINKS"] == "/mine"
    assert env["SSL_CERT_FILE"] == "/etc/ca.pem"
    assert "UV_PYTHON" not in env
    assert hide_passwords("at https://user:pass@mirror/x ok") == "at https://mirror/x ok"
