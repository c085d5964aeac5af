import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from retrain.errors import IntegrityError, RetrainError
from retrain.ledger import LedgerState, Promotion
from retrain.params import Mlflow
from retrain.records import file_digest, write_json
from retrain.registry import Registry

REPOSITORY = Path(__file__).parents[1]
LOCAL = Mlflow(uri=None, timeout=2)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    return Registry.open(LOCAL, tmp_path_factory.mktemp("workspace"))


def adapter_folder(folder, text):
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_text(text)
    write_json(folder / "manifest.json", {"files": {path.name: file_digest(path) for path in folder.iterdir()}})
    return folder, file_digest(folder / "manifest.json")


def register(registry, name, folder, digest):
    run_id = registry.start_training(name, {"end": "2026-03-01T00-00-00Z"})
    return registry.register(
        name, folder, digest=digest, tags={"verdict": "passed"}, description="Better by 9", run_id=run_id, taken={}
    )


def promotion(version, digest):
    return Promotion(at="2026-03-01T00:00:00Z", adapter="a", version=version, digest=digest, commit="c", tag="t", replaces=None)


def window(day, **more):
    return {"start": f"2026-03-{day:02}T00:00:00Z", "end": f"2026-03-{day + 1:02}T00:00:00Z", **more}


def test_windows_come_back_oldest_first_and_the_newest_measurement_of_each(registry, tmp_path):
    (tmp_path / "report.html").write_text("drift")
    for day, fired in ((3, False), (1, False), (2, False), (2, True)):
        registry.log_window("watch", window(day, fired=fired), {"rows": 300, "accuracy": None}, [tmp_path / "report.html"])
    assert registry.windows("watch", 2) == [window(2, fired=True), window(3, fired=False)]
    assert [record["start"][8:10] for record in registry.windows("watch", 9)] == ["01", "02", "03"]
    assert registry.windows("never", 3) == []
    assert registry.client.get_experiment_by_name("never") is None


def test_a_window_that_was_cut_off_is_no_window(registry, tmp_path):
    with pytest.raises(OSError):
        registry.log_window("cut", window(1), {}, [tmp_path / "missing.html"])
    assert registry.windows("cut", 3) == []


def test_training_rows_that_are_sent_again_are_stored_once(registry):
    run_id = registry.start_training("rows", {"end": "x"})
    rows = [{"step": step, "time": 1_700_000_000_000 + step, "loss": 1 / (1 + step), "phase": "warm"} for step in range(5)]
    registry.log_rows(run_id, rows)
    registry.log_rows(run_id, rows[2:])
    registry.finish(run_id, "FINISHED", {"exact": 0.9, "speed": None}, {"why": "done"}, [])
    assert [metric.value for metric in registry.client.get_metric_history(run_id, "loss")] == [row["loss"] for row in rows]
    run = registry.client.get_run(run_id)
    assert (run.info.status, run.data.metrics["exact"], run.data.tags["why"]) == ("FINISHED", 0.9, "done")


def test_trainings_come_back_oldest_first_with_their_times_and_nothing_else(registry):
    first, second = (registry.start_training("cost", {"end": f"2026-03-0{day}T00-00-00Z"}) for day in (1, 2))
    registry.finish(first, "FINISHED", {}, {"verdict": "failed"}, [])
    registry.log_window("cost", window(1), {}, [])
    registry.start_training("cost", {"digest": "registered by hand"})
    found = registry.training_runs("cost", 9)
    assert [(run.id, run.status) for run in found] == [(first, "FINISHED"), (second, "RUNNING")]
    assert found[0].start <= found[0].end <= datetime.now(UTC)
    assert found[1].end is None
    assert (found[0].tags["verdict"], found[0].tags["end"]) == ("failed", "2026-03-01T00-00-00Z")
    assert [run.id for run in registry.training_runs("cost", 1)] == [second]
    assert registry.training_runs("never", 9) == []


def test_a_training_whose_process_died_ended_when_it_last_logged_something(registry):
    dead = registry.start_training("died", {"end": "x"})
    child = subprocess.Popen(["true"])
    child.wait()
    registry.client.set_tag(dead, "pid", str(child.pid))
    started = registry.training_runs("died", 1)[0].start
    last = started + timedelta(seconds=90)
    registry.log_rows(
        dead, [{"step": n, "time": int(t.timestamp() * 1000), "loss": 1.0} for n, t in enumerate((started, last))]
    )
    registry.close_stale("died")
    assert registry.training_runs("died", 1)[0].end == last


def test_only_runs_of_dead_processes_are_closed(registry):
    dead, alive = registry.start_training("stale", {}), registry.start_training("stale", {})
    child = subprocess.Popen(["true"])
    child.wait()
    registry.client.set_tag(dead, "pid", str(child.pid))
    assert registry.close_stale("stale") == [dead]
    assert registry.client.get_run(dead).info.status == "FAILED"
    assert registry.client.get_run(alive).info.status == "RUNNING"


def test_registering_the_same_bytes_again_is_the_same_version(registry, tmp_path):
    one, digest = adapter_folder(tmp_path / "one", "1")
    two, other = adapter_folder(tmp_path / "two", "2")
    assert [register(registry, "twice", *pair) for pair in ((one, digest), (two, other), (one, digest))] == [1, 2, 1]
    assert [(v.version, v.digest) for v in registry.versions("twice")] == [(1, digest), (2, other)]
    assert registry.version("twice", 1).tags["verdict"] == "passed"
    with pytest.raises(IntegrityError, match="no version 9"):
        registry.version("twice", 9)


def test_a_registry_that_counts_anew_skips_the_numbers_of_other_bytes(registry, tmp_path):
    folder, digest = adapter_folder(tmp_path / "adapter", "weights")
    run_id = registry.start_training("anew", {})
    taken = {1: "other", 2: "another", 3: digest}
    number = registry.register("anew", folder, digest=digest, tags={}, description="", run_id=run_id, taken=taken)
    assert [(version.version, version.digest) for version in registry.versions("anew")] == [(number, digest)]
    assert number == 3


@pytest.mark.parametrize("harm", ["flip", "add", "drop", "other"])
def test_bytes_that_are_not_the_manifests_are_never_registered(registry, tmp_path, harm):
    folder, digest = adapter_folder(tmp_path / "adapter", "weights")
    weights = folder / "adapter_model.safetensors"
    if harm == "flip":
        weights.write_text("Weights")
    elif harm == "add":
        (folder / "optimizer.pt").write_text("pickle")
    elif harm == "drop":
        weights.unlink()
    else:
        digest = "0" * 64
    with pytest.raises(IntegrityError):
        register(registry, "harmed", folder, digest)
    assert registry.versions("harmed") == []


def test_a_download_is_whole_and_hashed_or_is_not_there(registry, tmp_path):
    folder, digest = adapter_folder(tmp_path / "adapter", "weights")
    version = register(registry, "fetched", folder, digest)
    here = registry.download("fetched", version, tmp_path / "cache" / "fetched-v1", digest=digest)
    assert (here / "adapter_model.safetensors").read_text() == "weights"
    assert registry.download("fetched", version, here, digest=digest) == here
    stored = next((registry.artifacts / "fetched").rglob("adapter_model.safetensors"))
    stored.write_text("Weights")
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors"):
        registry.download("fetched", version, tmp_path / "cache" / "again", digest=digest)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["fetched-v1"]


def test_the_aliases_follow_the_ledger(registry, tmp_path):
    digests = []
    for text in ("1", "2"):
        folder, digest = adapter_folder(tmp_path / text, text)
        register(registry, "a", folder, digest)
        digests.append(digest)
    one, two = promotion(1, digests[0]), promotion(2, digests[1])
    assert registry.alias("a", "champion") is None
    for champion, previous in ((one, None), (two, one), (one, two), (one, None)):
        registry.follow("a", LedgerState(champion, previous, {}, ()))
        assert registry.alias("a", "champion").digest == champion.digest
        found = registry.alias("a", "previous")
        assert (found.digest if found else None) == (previous.digest if previous else None)
    with pytest.raises(IntegrityError, match="version 2 of a has the bytes"):
        registry.follow("a", LedgerState(promotion(2, digests[0]), None, {}, ()))
    assert registry.alias("a", "champion").version == 1


def test_a_dead_server_fails_in_seconds_and_names_the_address(tmp_path):
    registry = Registry.open(Mlflow(uri="http://127.0.0.1:9", timeout=1), tmp_path)
    started = time.monotonic()
    with pytest.raises(RetrainError, match=r"http://127\.0\.0\.1:9"):
        registry.windows("support", 3)
    assert time.monotonic() - started < 15


FIRST_START = """
import sys
from pathlib import Path
from retrain.params import Mlflow
from retrain.registry import Registry
registry = Registry.open(Mlflow(uri=None, timeout=2), Path(sys.argv[1]))
registry.log_window("support", {"start": "2026-03-01T00:00:00Z", "end": sys.argv[2]}, {"rows": 1}, [])
"""


def test_first_starts_at_once_make_one_database_and_say_nothing(tmp_path):
    def start(day):
        command = [sys.executable, "-c", FIRST_START, str(tmp_path), f"2026-03-{day:02}T00:00:00Z"]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(start, (2, 3)))
    assert [(result.returncode, result.stdout, result.stderr) for result in results] == [(0, "", "")] * 2
    assert len(Registry.open(LOCAL, tmp_path).windows("support", 9)) == 2
    assert [path.name for path in tmp_path.iterdir()] == [".retrain"]
