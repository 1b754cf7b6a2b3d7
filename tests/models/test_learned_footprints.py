from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from common.models.files import ModelFiles
from common.models.learned_footprints import (
    KEPT_MEASUREMENTS,
    FootprintKey,
    LearnedFootprints,
    best_estimate,
    footprint_key,
    learned_folder,
    options_digest,
)

KEY = FootprintKey("org/repo/m.gguf", (("m.gguf", 100),), ("NVIDIA H200",), "digest", "b7000")
ARGV = ("/venv/bin/server", "--model", "/cache/m.gguf", "--ctx-size", "4096", "-ngl", "9")


def only_file(folder: Path) -> Path:
    (path,) = (folder / "footprints").iterdir()
    return path


def test_what_was_learned_is_found_by_another_process(tmp_path: Path) -> None:
    assert LearnedFootprints(tmp_path).find(KEY) is None
    LearnedFootprints(tmp_path).learn(KEY, {"gpu0": 100, "host": 7})
    assert LearnedFootprints(tmp_path).find(KEY) == {"gpu0": 100, "host": 7}


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, model="org/other"),
        replace(KEY, files=(("m.gguf", 101),)),
        replace(KEY, devices=("NVIDIA H200", "NVIDIA H200")),
        replace(KEY, options="other"),
        replace(KEY, engine="b7001"),
        KEY.asleep,
    ],
)
def test_a_measurement_holds_for_nothing_else(tmp_path: Path, other: FootprintKey) -> None:
    learned = LearnedFootprints(tmp_path)
    learned.learn(KEY, {"gpu0": 100})
    assert learned.find(other) is None


def test_the_largest_of_the_last_measurements_counts(tmp_path: Path) -> None:
    learned = LearnedFootprints(tmp_path)
    learned.learn(KEY, {"gpu0": 500, "host": 1})
    for size in range(KEPT_MEASUREMENTS - 1):
        learned.learn(KEY, {"gpu0": 100 + size})
    assert learned.find(KEY) == {"gpu0": 500, "host": 1}
    learned.learn(KEY, {"gpu0": 90})
    assert learned.find(KEY) == {"gpu0": 100 + KEPT_MEASUREMENTS - 2}


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"format": 2, "measured": [{"gpu0": 1}]}',
        b'{"format": 1, "measured": 7}',
        b'{"format": 1, "measured": [7, null, {}, {"gpu0": -1}, {"gpu0": "1"}, {"gpu0": 1e400}]}',
        b'{"format": 1, "measured": [{"gpu0": true}, {"gpu0": 99999999999999999999999}]}',
    ],
)
def test_a_damaged_file_is_as_good_as_none_and_is_replaced(tmp_path: Path, damage: bytes) -> None:
    learned = LearnedFootprints(tmp_path)
    learned.learn(KEY, {"gpu0": 100})
    only_file(tmp_path).write_bytes(damage)
    assert learned.find(KEY) is None
    learned.learn(KEY, {"gpu0": 50})
    assert learned.find(KEY) == {"gpu0": 50}


def test_files_that_were_not_written_for_the_longest_time_go(tmp_path: Path) -> None:
    learned = LearnedFootprints(tmp_path, kept=3)
    keys = [replace(KEY, options=str(number)) for number in range(5)]
    for number, key in enumerate(keys):
        learned.learn(key, {"gpu0": 1})
        os.utime(tmp_path / "footprints" / f"{key.digest}.json", (number, number))
    learned.learn(keys[0], {"gpu0": 1})  # it went, and comes back as the newest
    assert [learned.find(key) is not None for key in keys] == [True, False, False, True, True]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "footprints").write_text("a file where the folder should be")
    learned = LearnedFootprints(tmp_path)
    learned.learn(KEY, {"gpu0": 1})
    assert learned.find(KEY) is None


def test_nothing_is_kept_of_an_empty_measurement(tmp_path: Path) -> None:
    LearnedFootprints(tmp_path).learn(KEY, {"gpu0": 0})
    assert not (tmp_path / "footprints").exists()


def test_files_say_whose_they_are_and_hold_no_secret(tmp_path: Path) -> None:
    secret = "hf_secretsecret"
    options = options_digest((*ARGV, "--api-key", secret))
    LearnedFootprints(tmp_path).learn(replace(KEY, options=options), {"gpu0": 100})
    text = only_file(tmp_path).read_text()
    assert json.loads(text)["model"] == "org/repo/m.gguf"
    assert secret not in text


def test_the_key_of_a_model_names_its_files_by_size(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"1234")
    files = ModelFiles(path, (path, tmp_path / "gone"), 4, "local")
    assert footprint_key("m", files, ["A"], "o") == FootprintKey("m", (("m.gguf", 4),), ("A",), "o")


def test_files_outside_the_caches_have_their_measurements_beside_the_hubs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    path = tmp_path / "m.gguf"
    assert learned_folder(ModelFiles(path, (path,), 4, "local")).is_relative_to(tmp_path)
    own = ModelFiles(path, (path,), 4, "ClearML", state_folder=tmp_path / "own")
    assert learned_folder(own) == tmp_path / "own"


@pytest.mark.parametrize(
    "argv",
    [
        ("/elsewhere/server", *ARGV[1:]),
        (*ARGV, "--host", "127.0.0.1", "--port", "4711"),
        (*ARGV, "--uds", "/tmp/x/1.sock"),
        (*ARGV, "--alias=a name", "--threads", "3"),
        (*ARGV[:2], "/moved/m.gguf", *ARGV[3:]),
        (*ARGV, "/tmp/socket"),
    ],
)
def test_addresses_names_and_paths_change_no_digest(argv: tuple[str, ...]) -> None:
    assert options_digest(argv, {"/tmp/socket"}) == options_digest(ARGV)


def test_other_options_are_another_digest() -> None:
    digests = {
        options_digest(argv)
        for argv in (ARGV, ARGV[:-2], (*ARGV[:-1], "10"), (*ARGV, "--no-kv-offload"))
    }
    assert len(digests) == 4


def test_best_estimate_takes_gpus_as_learned_and_of_host_ram_the_larger() -> None:
    estimate = {"gpu0": 100, "gpu1": 100, "host": 10}
    assert best_estimate(estimate, {"gpu0": 70, "host": 5}) == {"gpu0": 70, "host": 10}
    assert best_estimate(estimate, {"host": 50}) == {"gpu0": 100, "gpu1": 100, "host": 50}
    assert best_estimate(estimate, None) == estimate
