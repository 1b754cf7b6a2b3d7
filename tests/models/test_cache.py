from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from common.cli.cache import cache
from common.models.cache import CachedModel, list_cached, plan_prune, prune
from common.models.fetch import fetch
from common.models.hub import HubSettings
from common.models.progress import FetchCancelledError, ProgressEvent
from common.models.use import InUse, use_file
from tests.fakes.hub_server import HubServer

GIB = 2**30


def model(name: str, size: int, used: float, **options: bool) -> CachedModel:
    return CachedModel(
        name=name,
        origin="ClearML",
        revision="",
        size_bytes=size,
        last_used_at=used,
        is_ours=options.get("ours", True),
        is_in_use=options.get("in_use", False),
        paths=(),
        files=(),
        state_folder=Path("/nowhere"),
    )


def names(models: tuple[CachedModel, ...]) -> list[str]:
    return [item.name for item in models]


def test_plan_keeps_the_most_recently_used() -> None:
    models = [model("old", 5, 1), model("new", 5, 3), model("middle", 5, 2)]
    assert names(plan_prune(models, 100)) == []
    assert names(plan_prune(models, 10)) == ["old"]
    assert names(plan_prune(models, 7)) == ["old", "middle"]
    assert names(plan_prune(models, 0)) == ["old", "middle", "new"]


def test_plan_counts_what_is_in_use_and_leaves_it() -> None:
    models = [model("served", 8, 1, in_use=True), model("new", 5, 3), model("small", 2, 2)]
    assert names(plan_prune(models, 10)) == ["small", "new"] or names(plan_prune(models, 10)) == [
        "new"
    ]
    assert names(plan_prune(models, 0)) == ["small", "new"]


def test_plan_leaves_the_models_of_other_programs() -> None:
    models = [model("ours", 5, 1), model("theirs", 5, 2, ours=False)]
    assert names(plan_prune(models, 0)) == ["ours"]
    assert names(plan_prune(models, 0, all_programs=True)) == ["ours", "theirs"]


def age(settings: HubSettings, path: Path, seconds: float) -> None:
    marker = use_file(settings.state_folder, path)
    when = marker.stat().st_mtime - seconds
    os.utime(marker, (when, when))


def test_list_and_prune_by_last_use(hub: HubServer, settings: HubSettings, tmp_path: Path) -> None:
    parts = {f"q8/b-0000{number}-of-00002.gguf": os.urandom(4000) for number in (1, 2)}
    hub.add_repo("org/one", {"a.gguf": b"a" * 3000, **parts})
    hub.add_repo("org/two", {"c.gguf": b"c" * 1000})
    a = fetch("org/one/a.gguf")
    b = fetch("org/one/q8/b*.gguf")
    c = fetch("org/two/c.gguf")
    for number, files in enumerate((c, a, b)):
        for path in files.all:
            age(settings, path, 1000 * (number + 1))

    found = list_cached(settings, tmp_path / "none")
    assert [(item.name, item.size_bytes, item.is_in_use) for item in found] == [
        ("org/two/c.gguf", 1000, False),
        ("org/one/a.gguf", 3000, False),
        ("org/one/q8/b-00001-of-00002.gguf", 8000, False),
    ]
    assert all(item.is_ours for item in found)

    planned = prune(4000, dry_run=True, settings=settings, clearml_cache=tmp_path / "none")
    assert names(planned.removed) == ["org/one/q8/b-00001-of-00002.gguf"]
    assert all(path.exists() for path in b.all)

    done = prune(4000, settings=settings, clearml_cache=tmp_path / "none")
    assert (done.freed_bytes, done.left_bytes) == (8000, 4000)
    assert not any(path.exists() for path in b.all)
    assert a.first.exists()
    assert c.first.exists()
    blobs = list(settings.cache_dir.rglob("blobs/*"))
    assert sum(path.stat().st_size for path in blobs) == 4000
    # What was pruned can be had again.
    assert fetch("org/one/q8/b*.gguf").size_bytes == 8000


def test_use_in_this_process_keeps_a_model(hub: HubServer, settings: HubSettings) -> None:
    hub.add_repo("org/repo", {"m.gguf": b"x" * 1000})
    with InUse() as held:
        files = fetch("org/repo/m.gguf", in_use=held)
        assert [item.is_in_use for item in list_cached()] == [True]
        result = prune(0)
        assert (names(result.removed), names(result.kept_in_use)) == ([], ["org/repo/m.gguf"])
        assert files.first.exists()
    assert names(prune(0).removed) == ["org/repo/m.gguf"]


def test_interrupted_downloads_are_listed_and_pruned_unless_they_go_on(
    hub: HubServer, settings: HubSettings
) -> None:
    data = os.urandom(8_000_000)
    hub.add_repo("org/repo", {"m.gguf": data})
    hub.bytes_per_second = 4_000_000
    cancel = threading.Event()
    seen: list[tuple[CachedModel, ...]] = []

    def stop(event: ProgressEvent) -> None:
        if event.done_bytes:
            assert prune(0).removed == ()
            seen.append(list_cached())
            cancel.set()

    with pytest.raises(FetchCancelledError):
        fetch("org/repo/m.gguf", progress=stop, cancel=cancel)
    assert [(item.name, item.is_in_use) for item in seen[0]] == [
        ("org/repo (interrupted download)", True)
    ]
    assert names(prune(0).removed) == ["org/repo (interrupted download)"]
    assert not list(settings.cache_dir.rglob("*.incomplete"))
    hub.bytes_per_second = None
    assert fetch("org/repo/m.gguf").first.read_bytes() == data
    assert len(list_cached()) == 1


def test_two_revisions_share_a_blob_until_the_last_goes(
    hub: HubServer, settings: HubSettings
) -> None:
    hub.add_repo("org/repo", {"m.gguf": b"x" * 1000})
    old = fetch("org/repo/m.gguf")
    hub.add_repo("org/repo", {"m.gguf": b"x" * 1000, "README.md": b"new"})
    new = fetch("org/repo/m.gguf")
    assert old.first != new.first
    assert len(list_cached()) == 2
    prune(0)
    assert not new.first.exists()
    assert not old.first.exists()
    assert not [path for path in settings.cache_dir.rglob("blobs/*") if path.is_file()]


def test_models_of_other_programs_are_listed_and_left(
    hub: HubServer, settings: HubSettings
) -> None:
    from huggingface_hub import hf_hub_download

    hub.add_repo("org/repo", {"m.gguf": b"x" * 1000, "config.json": b"{}"})
    for name in ("m.gguf", "config.json"):
        hf_hub_download("org/repo", name, cache_dir=settings.cache_dir, endpoint=hub.url)
    listed = list_cached()
    assert {(item.name, item.is_ours) for item in listed} == {
        ("org/repo/m.gguf", False),
        ("org/repo", False),
    }
    assert prune(0).removed == ()
    assert [item.is_ours for item in list_cached()] == [False, False]
    assert len(prune(0, all_programs=True).removed) == 2
    assert list_cached() == ()


def test_cli_list_and_prune(hub: HubServer) -> None:
    runner = CliRunner()
    assert "No model is cached" in runner.invoke(cache, ["list"]).output
    hub.add_repo("org/repo", {"m.gguf": b"x" * 250_000})
    fetch("org/repo/m.gguf")
    listed = runner.invoke(cache, ["list"]).output
    assert "250.0 kB" in listed
    assert "org/repo/m.gguf@" in listed
    assert "just now" in listed
    (entry,) = json.loads(runner.invoke(cache, ["list", "--json"]).output)
    assert (entry["name"], entry["size_bytes"], entry["in_use"]) == (
        "org/repo/m.gguf",
        250_000,
        False,
    )
    dry = runner.invoke(cache, ["prune", "--keep-gib", "0", "--dry-run"]).output
    assert "would remove org/repo/m.gguf (250.0 kB, Hugging Face)" in dry
    done = runner.invoke(cache, ["prune", "--keep-gib", "0"]).output
    assert "removed org/repo/m.gguf" in done
    assert "freed 250.0 kB, 0 B left" in done
    assert runner.invoke(cache, ["prune"]).exit_code == 2
    assert runner.invoke(cache, ["prune", "--keep-gib", "-1"]).exit_code == 2


@pytest.mark.parametrize("size", [0.5, 1])
def test_keep_is_in_gib(size: float) -> None:
    models = [model("a", round(size * GIB), 1)]
    assert plan_prune(models, round(size * GIB)) == ()
    assert names(plan_prune(models, round(size * GIB) - 1)) == ["a"]
