"""Real traffic of SDK and agent against the JSON schemas that the SDK ships.

Both long runs are recorded by the servers; every call that the SDK and the agent are known to make
must be among them, and each request and answer must satisfy its schema.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from common.local_server import RunningServer
from tests.fixtures_clearml import traffic_file

CALLED_BY_SDK = """
auth.login
tasks.create tasks.clone tasks.edit tasks.edit_hyper_params tasks.get_hyper_params tasks.get_by_id
tasks.get_all tasks.started tasks.completed tasks.stop tasks.enqueue tasks.dequeue
tasks.set_requirements tasks.add_or_update_artifacts tasks.add_or_update_model
tasks.failed tasks.reset tasks.delete
projects.create projects.get_all projects.get_by_id
queues.create queues.get_all queues.get_by_id
models.create models.edit models.get_by_id models.get_all models.set_ready
models.add_or_update_metadata models.delete
events.add_batch events.get_task_log events.get_task_plots
events.get_task_single_value_metrics events.scalar_metrics_iter_histogram
workers.get_all
""".split()
CALLED_BY_AGENT = """
auth.login queues.get_all queues.get_next_task workers.register workers.status_report
workers.get_runtime_properties tasks.get_by_id tasks.get_all tasks.dequeue tasks.started tasks.edit
tasks.completed tasks.stopped tasks.ping events.add_batch
""".split()

# Not in the SDK's schemas: the agent's own call, and the body that is JSON lines.
WITHOUT_SCHEMA = {"workers.get_runtime_properties", "events.add_batch"}


def traffic(server: RunningServer) -> list[dict[str, Any]]:
    lines = traffic_file(server).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def schema(endpoint: str, kind: str) -> dict[str, Any] | None:
    """The SDK's schema of a call's `Request` or `Response`."""
    service, action = endpoint.split(".")
    try:
        module = importlib.import_module(f"clearml.backend_api.services.v2_23.{service}")
    except ModuleNotFoundError:
        return None
    for name, member in inspect.getmembers(module, inspect.isclass):
        if name.endswith(kind) and getattr(member, "_action", None) == action:
            found: dict[str, Any] = member._schema
            return found
    return None


def problems(schema_: dict[str, Any], instance: Any) -> Iterator[str]:
    validator = jsonschema.Draft4Validator(schema_)
    for error in validator.iter_errors(instance):
        yield f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}"


@pytest.fixture(scope="module")
def recorded(
    full_life: Any,
    agent_jobs: Any,
    clearml_server: RunningServer,
    clearml_server_with_agent: RunningServer,
) -> dict[str, list[dict[str, Any]]]:
    """The traffic of the two runs, each after its run has ended."""
    return {
        "sdk": traffic(clearml_server),
        "agent": traffic(clearml_server_with_agent),
    }


def test_every_known_call_was_made(recorded: dict[str, list[dict[str, Any]]]) -> None:
    by_sdk = {call["endpoint"] for call in recorded["sdk"]}
    by_agent = {call["endpoint"] for call in recorded["agent"]}
    assert set(CALLED_BY_SDK) - by_sdk - by_agent == set()
    assert set(CALLED_BY_AGENT) - by_agent == set()


def test_no_call_was_unknown_or_failed_by_mistake(
    recorded: dict[str, list[dict[str, Any]]],
) -> None:
    failed = {
        (call["endpoint"], call["answer"]["meta"]["result_code"])
        for call in [*recorded["sdk"], *recorded["agent"]]
        if call["answer"]["meta"]["result_code"] in (404, 500)
        and call["path"].startswith(("/v2", "/workers"))
    }
    assert failed <= {("workers.get_runtime_properties", 404)}


@pytest.mark.parametrize("endpoint", sorted({*CALLED_BY_SDK, *CALLED_BY_AGENT} - WITHOUT_SCHEMA))
def test_requests_and_answers_satisfy_the_schemas(
    recorded: dict[str, list[dict[str, Any]]], endpoint: str
) -> None:
    request_schema, answer_schema = schema(endpoint, "Request"), schema(endpoint, "Response")
    assert request_schema is not None
    assert answer_schema is not None
    checked = 0
    found: set[str] = set()
    for call in [*recorded["sdk"], *recorded["agent"]]:
        if call["endpoint"] != endpoint or call["answer"]["meta"]["result_code"] != 200:
            continue
        checked += 1
        request = json.loads(call["request"] or "{}")
        # The agent itself sends fractions where the schema has whole numbers, and null for a list.
        request.pop("machine_stats", None)
        request = {name: value for name, value in request.items() if value is not None}
        found.update(problems(request_schema, request))
        found.update(problems(answer_schema, call["answer"]["data"]))
    assert checked
    assert found == set()


def test_event_batches_are_answered_by_the_schema(
    recorded: dict[str, list[dict[str, Any]]],
) -> None:
    answer_schema = schema("events.add_batch", "Response")
    assert answer_schema is not None
    answers = [
        call["answer"]["data"]
        for call in [*recorded["sdk"], *recorded["agent"]]
        if call["endpoint"] == "events.add_batch" and call["answer"]["meta"]["result_code"] == 200
    ]
    assert len(answers) > 5
    assert {text for answer in answers for text in problems(answer_schema, answer)} == set()


def test_traffic_holds_no_token(recorded: dict[str, list[dict[str, Any]]]) -> None:
    logins = [call for call in recorded["sdk"] if call["endpoint"] == "auth.login"]
    assert logins
    assert {call["answer"]["data"].get("token", "masked") for call in logins} == {"masked"}
