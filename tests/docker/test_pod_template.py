"""The pod template against what the instance, the images and the agent expect."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from common.gateway.routing import OWN_ROUTES
from common.options.shared import GeneralOptions
from tests.docker.dockerfiles import FOLDER, OWN

# The end of the engines and the last reports, 8 s; the agent's patience, 15 s; its own end, 10 s.
_AFTER_DRAIN_S = 33


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "k8s" / "pod-template.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["spec"]["containers"]
    return container


def test_the_agent_can_complete_it(pod: dict[str, Any], container: dict[str, Any]) -> None:
    assert (pod["apiVersion"], pod["kind"]) == ("v1", "Pod")
    assert pod["spec"]["restartPolicy"] == "Never"
    assert not {"image", "command", "args"} & set(container)


@pytest.mark.parametrize(
    ("probe", "route"),
    [("startupProbe", "health"), ("livenessProbe", "health"), ("readinessProbe", "ready")],
)
def test_probes_ask_the_gateway_s_routes(probe: str, route: str, container: dict[str, Any]) -> None:
    (port,) = container["ports"]
    asked = container[probe]["httpGet"]
    assert OWN_ROUTES[asked["path"]] == route
    assert asked["port"] == port["name"]
    assert port["containerPort"] == GeneralOptions().ports()[0]


def test_a_pod_has_time_to_drain(pod: dict[str, Any], container: dict[str, Any]) -> None:
    drain = GeneralOptions().drain_seconds
    assert pod["spec"]["terminationGracePeriodSeconds"] >= drain + _AFTER_DRAIN_S
    live = container["livenessProbe"]
    assert live["periodSeconds"] * live["failureThreshold"] >= _AFTER_DRAIN_S
    hook = container["lifecycle"]["preStop"]["exec"]["command"]
    for dockerfile in OWN:
        assert f"docker/drain.sh /usr/local/bin/{hook[0]}" in dockerfile.final.values("COPY")


def test_runs_as_the_images_user(pod: dict[str, Any]) -> None:
    security = pod["spec"]["securityContext"]
    assert security["runAsNonRoot"] is True
    for dockerfile in OWN:
        user = f"{security['runAsUser']}:{security['runAsGroup']}"
        assert dockerfile.final.values("USER") == [user]
    assert security["fsGroup"] == security["runAsGroup"]


def test_volumes_hold_the_caches_and_shared_memory(
    pod: dict[str, Any], container: dict[str, Any]
) -> None:
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == set(volumes)
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert "persistentVolumeClaim" in volumes[mounts["/cache"]]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    caches = [environment["CLEARML_CACHE_DIR"]]
    for dockerfile in OWN:
        image = dockerfile.final.environment
        caches += [image["HF_HOME"], image["CLEARML_DEPLOY_CACHE"]]
    assert all(path.startswith("/cache/") for path in caches)


def test_secrets_come_from_a_secret(container: dict[str, Any]) -> None:
    secret = [e for e in container["env"] if re.search(r"KEY|SECRET|TOKEN", e["name"])]
    assert len(secret) == 3
    assert all("secretKeyRef" in entry["valueFrom"] for entry in secret)
    assert all("value" not in entry for entry in secret)
