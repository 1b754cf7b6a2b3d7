"""The unmodified SDK against the local server: the whole life of a task."""

from __future__ import annotations

from typing import Any


def test_sdk_stores_and_reads_parameters_and_configuration(full_life: dict[str, Any]) -> None:
    assert full_life["parameters"] == {
        "General/rate": "0.5",
        "General/nested/count": "3",
        "General/names": '["a", "b"]',
        "Status/status": "active",
        "properties/owner": "me",
        "properties/level": "3",
    }
    assert full_life["rate"] == 0.5
    assert full_life["configuration"] == {"layers": [1, 2], "name": "x"}
    assert full_life["properties"] == {"owner": "me", "level": "3"}
    assert full_life["tags"] == ["one", "two"]
    assert full_life["comment"] == "a comment"
    assert full_life["project"] == "life/first"


def test_sdk_reads_back_what_it_reported(full_life: dict[str, Any]) -> None:
    assert full_life["scalar_points"] == [20, 1.0, 0.05]
    assert full_life["last"] == {"last": 0.05, "min": 0.05, "max": 1.0}
    assert full_life["single"] == {"accuracy": 0.75}
    assert full_life["last_iteration"] == 19
    assert full_life["plots"] == ["bars", "table"]
    assert "a line of text" in full_life["console"]
    assert "a printed line" in full_life["console"]


def test_sdk_gets_artifacts_and_models_back_bit_for_bit(full_life: dict[str, Any]) -> None:
    assert full_life["artifact"] == {"one": 1, "two": [2, 3]}
    assert full_life["blob"] is True
    assert full_life["weights"] is True
    assert full_life["model"] == ["weights", "custom", ["m1"], "Q8_0"]
    assert len(full_life["queried"]) == 1
    assert full_life["imported"] == "http://127.0.0.1:9/nothing.gguf"
    assert full_life["published"] is True
    assert full_life["model_removed"] is True


def test_sdk_sees_the_statuses_of_a_run(full_life: dict[str, Any]) -> None:
    assert full_life["status_running"] == "in_progress"
    assert full_life["status"] == "completed"
    assert full_life["progress"] == 100


def test_sdk_finds_tasks_by_project_name_and_tags(full_life: dict[str, Any]) -> None:
    assert full_life["found"] == [full_life["task"]]
    assert full_life["by_tag"] == [full_life["task"]]
    assert full_life["not_by_tag"] == []


def test_sdk_clones_edits_queues_resets_and_deletes(full_life: dict[str, Any]) -> None:
    assert full_life["clone_status"] == "created"
    assert full_life["clone_parameters"] is True
    assert full_life["clone_artifacts"] == []
    assert full_life["clone_edited"] == ["an edited clone", "0.3"]
    assert full_life["clone_queued"] == "queued"
    assert full_life["clone_dequeued"] == "created"
    assert full_life["clone_failed"] == ["failed", "why", "what"]
    assert full_life["clone_reset"][0] == "created"
    assert "Model" in full_life["clone_reset"][1]
    assert full_life["archived"] == [None, True]
    assert full_life["gone"] == []
    assert full_life["reset"] == ["created", [], {}]
    assert full_life["deleted_with_files"]


def test_api_client_reads_queues_workers_and_projects(full_life: dict[str, Any]) -> None:
    assert full_life["workers"] == 0
    assert full_life["queue"] == "default"
    assert full_life["project_id"] == "life/first"
    assert full_life["hyper_params"] == 6
