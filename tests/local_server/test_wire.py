"""The wire as a client without the SDK sees it: envelope, errors, filters, paging, storage rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
import requests

from common.local_server import RunningServer

Api = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def api(clearml_server: RunningServer) -> Iterator[Api]:
    """Send a call as the owner; returns `result_subcode` and `data` after checking the envelope."""
    with requests.Session() as session:
        session.auth = (clearml_server.access_key, clearml_server.secret_key)

        def call(endpoint: str, method: str = "GET", **data: Any) -> tuple[int, dict[str, Any]]:
            url = f"{clearml_server.api_url}/{endpoint}"
            response = session.request(method, url, json=data, timeout=10)
            meta = response.json()["meta"]
            assert meta["result_code"] == response.status_code
            assert meta["endpoint"]["name"] == endpoint.split("/")[-1]
            assert len(meta["id"]) == 32
            if response.status_code != 200:
                assert response.json()["data"] == {}
                return meta["result_subcode"], {"status": response.status_code}
            return 0, response.json()["data"]

        yield call


def new_task(api: Api, **fields: Any) -> str:
    subcode, data = api("tasks.create", **{"name": "a task", "type": "testing", **fields})
    assert subcode == 0
    return str(data["id"])


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
@pytest.mark.parametrize("prefix", ["", "v2.5/", "v2.23/", "v2.99/"])
def test_call_works_with_every_method_and_version(api: Api, method: str, prefix: str) -> None:
    assert api(f"{prefix}queues.get_default", method)[1]["name"] == "default"


@pytest.mark.parametrize(
    "endpoint", ["tasks.no_such_call", "nothing.at_all", "users.get_vaults", "routers.get_routes"]
)
def test_unknown_call_gets_clearmls_own_error(api: Api, endpoint: str) -> None:
    assert api(endpoint) == (0, {"status": 404})


def test_link_to_a_tasks_page_says_what_to_do_instead(clearml_server: RunningServer) -> None:
    url = f"{clearml_server.api_url}/projects/{'1' * 32}/tasks/{'2' * 32}/output/log"
    response = requests.get(url, timeout=10)
    assert response.status_code == 404
    assert f"clearml-deploy logs {'2' * 32}\n" in response.text


@pytest.mark.parametrize(
    ("header", "subcode"),
    [
        ({}, 20),
        ({"Authorization": "Basic bm9ib2R5Om5vdGhpbmc="}, 22),
        ({"Authorization": "Basic ???"}, 22),
        ({"Authorization": "Bearer a.b.c"}, 30),
    ],
)
@pytest.mark.parametrize("endpoint", ["auth.login", "tasks.get_all", "no.such_call"])
def test_call_without_good_credentials_is_refused(
    clearml_server: RunningServer, header: dict[str, str], subcode: int, endpoint: str
) -> None:
    response = requests.get(
        f"{clearml_server.api_url}/{endpoint}", headers=header, json={}, timeout=10
    )
    assert response.status_code == 401
    assert response.json()["meta"]["result_subcode"] == subcode


def test_token_of_another_server_is_refused(clearml_server: RunningServer) -> None:
    token = jwt.encode({"identity": {"user": "x"}}, "0" * 64, algorithm="HS256")
    response = requests.get(
        f"{clearml_server.api_url}/tasks.get_all",
        headers={"Authorization": f"Bearer {token}"},
        timeout=10,
    )
    assert response.json()["meta"]["result_subcode"] == 30


def test_login_gives_a_long_token_that_works(api: Api, clearml_server: RunningServer) -> None:
    token = api("auth.login")[1]["token"]
    payload = jwt.decode(token, options={"verify_signature": False})
    assert payload["exp"] - payload["iat"] >= 30 * 24 * 3600
    assert payload["feature_set"] == "basic"
    assert payload["api_version"] >= "2.23"
    response = requests.get(
        f"{clearml_server.api_url}/users.get_current_user",
        headers={"Authorization": f"Bearer {token}"},
        timeout=10,
    )
    assert response.json()["data"]["user"]["role"] == "admin"
    assert api("auth.validate_token", token=token)[1]["valid"] is True
    assert api("auth.validate_token", token=token + "x")[1]["valid"] is False


@pytest.mark.parametrize(("body", "subcode"), [(b"{no json", 12), (b"[1, 2]", 12), (b'"text"', 12)])
def test_body_that_is_no_object_is_refused(
    clearml_server: RunningServer, body: bytes, subcode: int
) -> None:
    response = requests.post(
        f"{clearml_server.api_url}/tasks.get_all",
        data=body,
        auth=(clearml_server.access_key, clearml_server.secret_key),
        timeout=10,
    )
    assert (response.status_code, response.json()["meta"]["result_subcode"]) == (400, subcode)


def test_body_beyond_the_limit_is_refused(clearml_server: RunningServer) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(70):
            yield b" " * (1 << 20)

    try:
        response = requests.post(
            f"{clearml_server.api_url}/tasks.get_all",
            data=chunks(),
            auth=(clearml_server.access_key, clearml_server.secret_key),
            timeout=30,
        )
    except requests.ConnectionError:
        return  # cut off while still sending: refused as well
    assert (response.status_code, response.json()["meta"]["result_subcode"]) == (400, 12)


@pytest.mark.parametrize(
    ("endpoint", "data", "subcode"),
    [
        ("tasks.create", {"name": "ab", "type": "testing"}, 800),
        ("tasks.create", {"name": "abc", "type": "no such type"}, 12),
        ("models.create", {"name": "ab", "uri": "file:///x"}, 800),
        ("queues.create", {"name": "ab"}, 800),
        ("queues.create", {"name": "default"}, 801),
        ("projects.create", {"name": "fine/ab"}, 12),
        ("tasks.get_by_id", {"task": "0" * 32}, 101),
        ("tasks.get_by_id", {}, 12),
        ("tasks.started", {"task": "0" * 32}, 10),
        ("tasks.get_all", {"only_fields": ["no_such_field"]}, 14),
        ("tasks.get_all", {"name": "("}, 12),
        ("models.get_by_id", {"model": "0" * 32}, 201),
        ("projects.get_by_id", {"project": "0" * 32}, 401),
        ("queues.get_by_id", {"queue": "0" * 32}, 701),
        ("queues.get_next_task", {"queue": "no such queue"}, 701),
    ],
)
def test_bad_request_gets_clearmls_subcode(
    api: Api, endpoint: str, data: dict[str, Any], subcode: int
) -> None:
    assert api(endpoint, **data) == (subcode, {"status": 400})


def test_project_creates_those_above_it_once(api: Api) -> None:
    api("projects.create", name="above/middle/below")
    names = {p["name"] for p in api("projects.get_all", name="^above")[1]["projects"]}
    assert names == {"above", "above/middle", "above/middle/below"}
    assert api("projects.create", name="above/middle") == (801, {"status": 400})


def test_get_all_pages_orders_and_reduces(api: Api) -> None:
    project = api("projects.create", name="paging")[1]["id"]
    ids = [new_task(api, name=f"task {n}", project=project) for n in range(5)]
    query = {"project": [project], "order_by": ["-name"], "only_fields": ["name", "output.x"]}
    first = api("tasks.get_all", page=0, page_size=2, **query)[1]["tasks"]
    last = api("tasks.get_all", page=2, page_size=2, **query)[1]["tasks"]
    assert first == [{"id": ids[4], "name": "task 4"}, {"id": ids[3], "name": "task 3"}]
    assert last == [{"id": ids[0], "name": "task 0"}]
    scroll = api("tasks.get_all", size=4, **query)[1]
    rest = api("tasks.get_all", size=4, scroll_id=scroll["scroll_id"], **query)[1]["tasks"]
    assert len(scroll["tasks"]) == 4
    assert [task["id"] for task in rest] == [ids[0]]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (["red"], ["one", "two"]),
        (["red", "blue"], ["one", "two", "three"]),
        (["__$all", "red", "blue"], ["two"]),
        (["-red"], ["three", "four"]),
        (["blue", "-red"], ["three"]),
        (["__$not", "blue"], ["one", "four"]),
    ],
)
def test_tags_filter_as_the_sdk_means_them(api: Api, wanted: list[str], names: list[str]) -> None:
    found = api("projects.get_all", name="^tagged$")[1]["projects"]
    if found:
        project = found[0]["id"]
    else:
        project = api("projects.create", name="tagged")[1]["id"]
        for name, tags in (
            ("one", ["red"]),
            ("two", ["red", "blue"]),
            ("three", ["blue"]),
            ("four", []),
        ):
            new_task(api, name=name, project=project, tags=tags)
    tasks = api("tasks.get_all", project=[project], tags=wanted)[1]["tasks"]
    assert sorted(task["name"] for task in tasks) == sorted(names)


def test_edit_merges_some_objects_and_replaces_others(api: Api) -> None:
    task = new_task(
        api,
        script={"repository": "r", "branch": "b"},
        hyperparams={"General": {"a": {"section": "General", "name": "a", "value": "1"}}},
        runtime={"one": 1},
    )
    api("tasks.edit", task=task, script={"branch": "c"}, hyperparams={}, runtime={"two": 2})
    stored = api("tasks.get_by_id", task=task)[1]["task"]
    assert stored["script"] == {"repository": "r", "branch": "c"}
    assert stored["hyperparams"] == {}
    assert stored["runtime"] == {"two": 2}


def test_edit_of_a_running_task_needs_force(api: Api) -> None:
    task = new_task(api)
    api("tasks.started", task=task)
    assert api("tasks.edit", task=task, comment="x") == (110, {"status": 400})
    assert api("tasks.edit", task=task, comment="x", force=True)[0] == 0
    assert api("tasks.edit_runtime", task=task, add_or_update={"a": 1, "b": 2})[0] == 0
    assert api("tasks.edit_runtime", task=task, remove=["a"])[0] == 0
    assert api("tasks.get_by_id", task=task)[1]["task"]["runtime"] == {"b": 2}


def test_queue_hands_tasks_out_in_order_and_then_nothing(api: Api) -> None:
    queue = api("queues.create", name="in order")[1]["id"]
    tasks = [new_task(api), new_task(api)]
    for task in tasks:
        api("tasks.enqueue", task=task, queue_name="in order")
    assert api("tasks.enqueue", task=tasks[0], queue=queue, force=True) == (706, {"status": 400})
    taken = [api("queues.get_next_task", queue=queue)[1] for _ in range(3)]
    assert [entry.get("entry", {}).get("task") for entry in taken] == [*tasks, None]
    assert api("tasks.get_by_id", task=tasks[0])[1]["task"]["status"] == "queued"
    api("tasks.dequeue", task=tasks[0], new_status="in_progress")
    assert api("tasks.get_by_id", task=tasks[0])[1]["task"]["status"] == "in_progress"
    assert api("tasks.enqueue", task=tasks[1], queue_name="no such") == (701, {"status": 400})


def test_reset_keeps_what_went_in_and_drops_what_came_out(api: Api) -> None:
    task = new_task(api, hyperparams={"G": {"a": {"section": "G", "name": "a", "value": "1"}}})
    api("tasks.enqueue", task=task)
    api("tasks.started", task=task, force=True)
    api(
        "tasks.add_or_update_artifacts",
        task=task,
        artifacts=[
            {"key": "out", "type": "dict", "uri": "http://x/y"},
            {"key": "in", "type": "dict", "mode": "input"},
        ],
    )
    api("events.add", task=task, type="log", msg="x", timestamp=1)
    api("tasks.completed", task=task, force=True)
    answer = api("tasks.reset", task=task, return_file_urls=True)[1]
    stored = api("tasks.get_by_id", task=task)[1]["task"]
    assert answer["urls"]["artifact_urls"] == ["http://x/y"]
    assert stored["status"] == "created"
    assert [a["key"] for a in stored["execution"]["artifacts"]] == ["in"]
    assert "queue" not in stored["execution"]
    assert "started" not in stored
    assert stored["hyperparams"]["G"]["a"]["value"] == "1"
    assert api("events.get_task_log", task=task)[1]["total"] == 0


def test_requirements_need_a_script(api: Api) -> None:
    assert api("tasks.set_requirements", task=new_task(api), requirements={}) == (
        122,
        {"status": 400},
    )


def test_stop_waits_for_a_live_worker(api: Api) -> None:
    task = new_task(api)
    api("tasks.started", task=task)
    api("workers.status_report", worker="w1", task=task, timestamp=1, queues=[])
    api("tasks.stop", task=task)
    stored = api("tasks.get_by_id", task=task)[1]["task"]
    assert (stored["status"], stored["status_message"]) == ("in_progress", "stopping")
    # The agent says "started" several times: the stop must survive that.
    api("tasks.started", task=task, force=True)
    assert api("tasks.get_by_id", task=task)[1]["task"]["status_message"] == "stopping"
    api("workers.unregister", worker="w1")


def add_lines(server: RunningServer, events: list[dict[str, Any]]) -> dict[str, Any]:
    response = requests.get(
        f"{server.api_url}/v2.23/events.add_batch",
        data="\n".join(json.dumps(event) for event in events).encode(),
        headers={"Content-Type": "application/json-lines"},
        auth=(server.access_key, server.secret_key),
        timeout=10,
    )
    answer: dict[str, Any] = response.json()
    return answer


def test_events_of_one_batch_are_judged_one_by_one(api: Api, clearml_server: RunningServer) -> None:
    task = new_task(api)
    good = {"type": "log", "task": task, "timestamp": 5, "msg": "line\u2028one"}
    bad = {"type": "log", "task": "0" * 32, "timestamp": 5, "msg": "x"}
    answer = add_lines(clearml_server, [good, bad, {"type": "nonsense", "task": task}])
    assert (answer["data"]["added"], answer["data"]["errors"]) == (1, 2)
    assert api("events.get_task_log", task=task)[1]["events"] == [good]
    assert add_lines(clearml_server, [bad])["meta"]["result_subcode"] == 131
    assert add_lines(clearml_server, [])["meta"]["result_subcode"] == 17


def test_log_is_walked_back_and_forth(api: Api, clearml_server: RunningServer) -> None:
    task = new_task(api)
    add_lines(
        clearml_server,
        [{"type": "log", "task": task, "timestamp": n, "msg": str(n)} for n in range(10)],
    )

    def lines(**options: Any) -> str:
        answer = api("events.get_task_log", task=task, batch_size=3, **options)[1]
        assert answer["total"] == 10
        return "".join(event["msg"] for event in answer["events"])

    assert lines() == "987"
    assert lines(order="asc") == "789"
    assert lines(navigate_earlier=False) == "012"
    # After the moment, not from it: the last timestamp of one answer begins the next.
    assert lines(navigate_earlier=False, from_timestamp=5) == "678"
    assert lines(from_timestamp=5) == "432"
    assert lines(from_timestamp=1) == "0"


def test_an_answer_has_all_lines_of_its_last_moment(
    api: Api, clearml_server: RunningServer
) -> None:
    task = new_task(api)
    stamps = [1, 2, 2, 2, 2, 3]
    events = [
        {"type": "log", "task": task, "timestamp": stamp, "msg": str(number)}
        for number, stamp in enumerate(stamps)
    ]
    add_lines(clearml_server, events)

    def lines(**options: Any) -> str:
        answer = api("events.get_task_log", task=task, batch_size=2, **options)[1]
        return "".join(event["msg"] for event in answer["events"])

    assert lines() == "54321"
    assert lines(navigate_earlier=False) == "01234"
    assert lines(navigate_earlier=False, from_timestamp=2) == "5"


def test_scalars_become_curves_and_last_metrics(api: Api, clearml_server: RunningServer) -> None:
    task = new_task(api)
    scalar = {"type": "training_stats_scalar", "task": task, "metric": "m", "variant": "v"}
    events = [{**scalar, "timestamp": n, "iter": n, "value": float(n)} for n in range(100)]
    single = {**scalar, "metric": "Summary", "variant": "s", "iter": -(2**31), "value": 7}
    add_lines(clearml_server, [*events, {**single, "timestamp": 1}])
    add_lines(clearml_server, [{**scalar, "timestamp": 1, "iter": 99, "value": -5.0}])
    curve = api("events.scalar_metrics_iter_histogram", task=task)[1]["m"]["v"]
    assert (len(curve["x"]), curve["y"][99]) == (100, -5.0)
    thin = api("events.scalar_metrics_iter_histogram", task=task, samples=10)[1]["m"]["v"]
    assert 10 <= len(thin["x"]) <= 11
    assert thin["x"][-1] == 99
    stored = api("tasks.get_by_id", task=task)[1]["task"]
    assert stored["last_iteration"] == 99
    last = {
        item["metric"]: item
        for variants in stored["last_metrics"].values()
        for item in variants.values()
    }
    assert (last["m"]["value"], last["m"]["min_value"], last["m"]["max_value"]) == (-5.0, -5.0, 99)
    assert last["Summary"]["value"] == 7
    values = api("events.get_task_single_value_metrics", tasks=[task])[1]["tasks"][0]["values"]
    assert [(item["variant"], item["value"]) for item in values] == [("s", 7)]
