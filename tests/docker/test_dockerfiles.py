"""What can be told about the images without building them."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

from apps.llamacpp.build_native import CMAKE_ARGS
from apps.llamacpp.engines.native import PROGRAM
from apps.vllm.environments.layout import own_environment
from apps.vllm.worker_engine import VARIABLE
from common.cli.inputs import load_app
from common.engines.places import cache_folder
from common.gateway.routing import OWN_ROUTES
from common.options.shared import GeneralOptions
from tests.docker.dockerfiles import ALL, FOLDER, LEGACY, LLAMACPP, OWN, ROOT, VLLM, Dockerfile

TOOLS = Path(sys.executable).parent
each = pytest.mark.parametrize("dockerfile", ALL, ids=repr)
each_own = pytest.mark.parametrize("dockerfile", OWN, ids=repr)


@each
def test_linter_finds_nothing(dockerfile: Dockerfile) -> None:
    command = [TOOLS / "hadolint", "--config", FOLDER / "hadolint.yaml", dockerfile.path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@each
def test_shell_lines_parse(dockerfile: Dockerfile) -> None:
    for stage in dockerfile.stages:
        for line in stage.values("RUN"):
            subprocess.run(["bash", "-n", "-c", line], check=True)


def test_every_app_has_an_image_that_runs_it() -> None:
    apps = {folder.parent.name for folder in (ROOT / "apps").glob("*/__main__.py")}
    assert {dockerfile.app for dockerfile in ALL} == apps
    assert {path.name for path in FOLDER.glob("*.Dockerfile")} == {repr(one) for one in ALL}
    for dockerfile in ALL:
        assert load_app(dockerfile.app).name == dockerfile.app
        assert json.loads(dockerfile.final.values("CMD")[0]) == ["run", dockerfile.app]


@each
def test_every_argument_is_used(dockerfile: Dockerfile) -> None:
    used = {name for stage in dockerfile.stages for name in _named(stage.base)}
    for stage in dockerfile.stages:
        others = " ".join(item.value for item in stage.body if item.word != "ARG")
        for name in stage.values("ARG"):
            assert name in dockerfile.arguments, f"{name} has no default in front of the stages"
            assert name in _named(others), f"{name} is not used in the stage {stage.name}"
            used.add(name)
    used |= {name for default in dockerfile.arguments.values() for name in _named(default)}
    assert used == set(dockerfile.arguments)


@each_own
@pytest.mark.parametrize("cuda", ["ON", "OFF"])
def test_stages_begin_with_earlier_ones_or_with_pinned_images(
    dockerfile: Dockerfile, cuda: str
) -> None:
    assert len(dockerfile.stages) > 2
    earlier: set[str] = set()
    images = []
    for stage in dockerfile.stages:
        base = dockerfile.resolve(stage.base, **{f"{dockerfile.app}_cuda": cuda})
        if base not in earlier:
            images.append(base)
        for source in stage.values("COPY"):
            if origin := re.match(r"--from=(\S+)", source):
                assert origin[1] in earlier
        earlier.add(stage.name)
    assert images
    for image in images:
        name, _, tag = image.partition(":")
        assert re.fullmatch(r"[a-z]+(/[a-z-]+)?", name)
        assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-[a-z0-9.-]+)?", tag), image


def test_image_of_the_older_form_begins_with_the_other() -> None:
    image = LEGACY.resolve(LEGACY.final.base)
    assert image == f"clearml-deploy-vllm:{VLLM.arguments['vllm_version']}"
    assert f"-t {image}" in VLLM.path.read_text(encoding="utf-8")


def test_versions_are_those_that_are_tested() -> None:
    made = re.search(r"^VLLM := (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert made is not None
    assert VLLM.arguments["vllm_version"] == LEGACY.arguments["vllm_version"] == made[1]
    assert re.fullmatch(r"b\d+", LLAMACPP.arguments["llamacpp_version"])
    assert LLAMACPP.arguments["ubuntu_version"] == VLLM.arguments["ubuntu_version"]


def test_arguments_are_those_that_are_documented() -> None:
    assert {"llamacpp_version", "llamacpp_cuda", "cuda_arch"} <= set(LLAMACPP.arguments)
    assert {"vllm_version", "vllm_cuda", "cuda_arch"} <= set(VLLM.arguments)
    page = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    for dockerfile in ALL:
        for name in dockerfile.arguments:
            assert f"`{name}`" in page


def test_llama_server_is_built_as_the_tested_one_is() -> None:
    built = next(line for stage in LLAMACPP.stages for line in stage.values("RUN") if "-B" in line)
    parts = ("OPENSSL", "BUILD_UI", "PREBUILT_UI", "BUILD_TESTS", "BUILD_EXAMPLES")
    shared = [flag for flag in CMAKE_ARGS if flag.split("=")[0].endswith(parts)]
    assert len(shared) == len(parts)
    assert set(shared) <= set(built.split())
    assert f"--target {PROGRAM}" in built
    path = LLAMACPP.final.environment["PATH"].split(":")
    assert path[:2] == ["/opt/clearml-deploy/bin", "/opt/llama.cpp"]


def test_cpu_build_of_vllm_is_where_the_program_looks() -> None:
    version = VLLM.arguments["vllm_version"]
    base = next(stage for stage in VLLM.stages if stage.name == "base-OFF")
    installing = next(stage for stage in VLLM.stages if stage.name == "engine-OFF").values("RUN")
    place = re.match(r"CLEARML_DEPLOY_CACHE=(\S+) ", installing[0])
    assert place is not None
    given = {"CLEARML_DEPLOY_CACHE": place[1]}
    assert cache_folder(given) == Path(place[1])
    expected = own_environment(Version(version), "cpu", given).folder
    assert VLLM.resolve(base.environment[VARIABLE]) == str(expected)
    assert f"{place[1]} {place[1]}" in " ".join(VLLM.final.values("COPY"))


@each
def test_runs_as_a_user_by_number(dockerfile: Dockerfile) -> None:
    (user,) = dockerfile.final.values("USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    words = [item.word for item in dockerfile.final.body]
    assert "RUN" not in words[words.index("USER") :]
    assert user == VLLM.final.values("USER")[0]
    if dockerfile in OWN:
        created = " ".join(dockerfile.final.values("RUN"))
        assert f"useradd --uid {user.split(':')[0]} --user-group" in created


@each
def test_health_check_asks_the_gateway(dockerfile: Dockerfile) -> None:
    (check,) = dockerfile.final.values("HEALTHCHECK")
    command = json.loads(check.partition(" CMD ")[2])
    assert command[:2] == ["bash", "-c"]
    assert command[2].split()[0] == "curl"
    assert command[2].split()[-1] == "$HEALTH_URL"
    if dockerfile in OWN:
        port = GeneralOptions().ports()[0]
        path = next(path for path, route in OWN_ROUTES.items() if route == "health")
        assert dockerfile.final.environment["HEALTH_URL"] == f"http://127.0.0.1:{port}{path}"
        assert dockerfile.final.values("EXPOSE") == [str(port)]
        assert " curl " in " ".join(dockerfile.final.values("RUN"))


@each
def test_copied_files_exist_and_reach_the_build(dockerfile: Dockerfile) -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    sources = [
        source
        for stage in dockerfile.stages
        for value in stage.values("COPY")
        if not value.startswith("--from")
        for source in value.split()[:-1]
    ]
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source.split('/')[0]}" in ignored
    if dockerfile in OWN:
        # setup.py reads them.
        assert {"README.md", "apps", "common", "setup.py", "pyproject.toml"} <= set(sources)


@each
def test_packages_are_those_of_the_lock(dockerfile: Dockerfile) -> None:
    lines = [line for stage in dockerfile.stages for line in stage.values("RUN")]
    installing = [line for line in lines if re.search(r"\bpip3? install\b", line)]
    assert len(installing) == (dockerfile in OWN)
    for line in installing:
        assert "--constraint requirements.lock" in line
        # The package itself, with the agent that a pod runs.
        assert line.endswith('".[agent]"')


@each
def test_holds_no_secret(dockerfile: Dockerfile) -> None:
    names = [*dockerfile.arguments, *(n for s in dockerfile.stages for n in s.environment)]
    text = dockerfile.path.read_text(encoding="utf-8")
    assert not [name for name in names if re.search(r"token|secret|passw|_key|cred", name, re.I)]
    assert not re.search(r"https?://[^/\s]*@", text)


@each_own
def test_variables_for_the_agent_are_ones_it_knows(dockerfile: Dockerfile) -> None:
    spec = importlib.util.find_spec("clearml_agent")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    known = "".join(
        (package / name).read_text(encoding="utf-8") for name in ("definitions.py", "glue/k8s.py")
    )
    names = [name for name in dockerfile.final.environment if name.startswith("CLEARML_AGENT_")]
    assert len(names) == 3
    for name in names:
        assert re.search(rf"\b{name}\b", known)


@each_own
def test_both_images_start_alike(dockerfile: Dockerfile) -> None:
    assert json.loads(dockerfile.final.values("ENTRYPOINT")[0]) == [
        "tini",
        "--",
        "clearml-deploy-entrypoint",
    ]
    copied = dict(
        value.split() for value in dockerfile.final.values("COPY") if value.startswith("docker/")
    )
    assert copied == {
        "docker/entrypoint.sh": "/usr/local/bin/clearml-deploy-entrypoint",
        "docker/drain.sh": "/usr/local/bin/clearml-deploy-drain",
    }


def test_the_linter_s_exceptions_have_checks_of_their_own() -> None:
    rules = yaml.safe_load((FOLDER / "hadolint.yaml").read_text(encoding="utf-8"))
    assert rules["ignored"] == ["DL3006", "DL3008"]


def _named(text: str) -> set[str]:
    return set(re.findall(r"\$\{(\w+)", text))
