import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from retrain.errors import BusyError, IntegrityError, ParamsError, RetrainError, StaleError
from retrain.founding import init
from retrain.params import load
from retrain.process import dvc, environment, git, run_group, try_git
from retrain.records import file_digest
from retrain.workspace import Workspace

REPOSITORY = Path(__file__).parents[1]
TRAIN = "mkdir -p out/support/adapter && cp weights out/support/adapter/w && cp weights out/support/adapter/manifest.json"
DVC_YAML = yaml.safe_dump(
    {
        "stages": {
            "train": {
                "foreach": ["support"],
                "do": {"cmd": TRAIN, "deps": ["weights"], "outs": ["out/${item}/adapter"]},
            }
        }
    }
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """One workspace for the module, in a folder whose name is as odd as a person's may be."""
    directory = tmp_path_factory.mktemp("a, b#c") / "my work"
    files = {"params.yaml": (REPOSITORY / "params.yaml").read_text(), "dvc.yaml": DVC_YAML, "weights": "one"}
    files |= {"data/prompts/support.txt": "Answer.\n", "data/suites/support/golden.jsonl": '{"a": 1}\n'}
    return init(directory, files=files)


def never(clone):
    raise AssertionError("nobody else pushed, so nothing is to be redone")


def write(clone, name, text):
    path = clone.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def collect(clone, end):
    """What a collection does in a clone that holds the folder: write one file, track, commit."""
    write(clone, f"data/failures/support/{end}.jsonl", '{"row": 1}\n')
    return clone.commit(clone.dvc_add("data/failures/support"), f"failures of {end}")


def test_a_new_workspace_is_committed_pushed_and_clean(workspace):
    assert workspace.behind().commits == 0
    assert not workspace.behind().dirty
    assert git(workspace.root, "rev-parse", "HEAD") == git(Path(workspace.remote), "rev-parse", "main")
    assert load(workspace.root).workspace.remote == ".retrain/origin.git"
    assert any(Path(workspace.dvc_remote).rglob("*.dir"))


def test_dvc_sees_every_tracked_input_of_every_adapter(workspace):
    listed = dvc(workspace.root, "list", ".", "-R", "--dvc-only").splitlines()
    assert {"data/seed/support.jsonl", "data/seed/orders.jsonl", "data/suites/support/golden.jsonl"} <= set(listed)
    tracked = git(workspace.root, "ls-files", "*.dvc").splitlines()
    assert {"champion/support.dvc", "champion/orders.dvc", "data/failures/support.dvc"} <= set(tracked)
    assert json.loads((workspace.root / "champion/support.json").read_text())["purpose"] == "first"


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ParamsError, match="not an empty folder"):
        init(tmp_path, files={})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_init_that_fails_leaves_nothing_behind(tmp_path):
    with pytest.raises(ParamsError):
        init(tmp_path / "new", files={"params.yaml": "seed: 7\n", "a/b": "c"})
    assert list((tmp_path / "new").iterdir()) == []


def test_without_a_remote_a_job_is_refused_with_the_fix(workspace, tmp_path):
    params = workspace.params
    nowhere = params.model_copy(update={"workspace": params.workspace.model_copy(update={"remote": None})})
    with pytest.raises(ParamsError, match=r"names no remote.*retrain init DIR"), Workspace(tmp_path, nowhere).clone("job"):
        pass


def test_a_collection_reaches_the_remote_once_and_the_checkout_is_told(workspace):
    before = workspace.behind().commits
    for expected in (True, False):
        with workspace.clone("collect-support") as clone:
            clone.pull(["data/failures/support"])
            assert bool(collect(clone, "2026-03-01")) is expected
            head = clone.publish(never, tries=3)
    assert git(Path(workspace.remote), "rev-parse", "main") == head
    assert workspace.behind().commits == before + 1
    assert list((workspace.local / "clones").iterdir()) == []


def test_a_clone_brings_data_once_and_again_where_its_pointer_has_changed(workspace, monkeypatch):
    with workspace.clone("pulls") as clone:
        run, asked = clone.dvc, []
        monkeypatch.setattr(clone, "dvc", lambda *words: asked.append(words[0]) or run(*words))
        golden = clone.root / "data" / "suites" / "support" / "golden.jsonl"
        for _ in range(2):
            clone.pull(["data/suites/support.dvc"])
        assert (asked, golden.read_text()) == (["pull"], '{"a": 1}\n')
        golden.write_text('{"a": 2}\n')
        clone.dvc_add("data/suites/support")
        golden.unlink()
        clone.pull(["data/suites/support.dvc"])
        assert (asked, golden.read_text()) == (["pull", "add", "pull"], '{"a": 2}\n')


def test_a_refused_push_is_redone_on_what_the_other_pushed(workspace):
    with workspace.clone("collect-support") as late:
        late.pull(["data/failures/support"])
        collect(late, "2026-03-03")
        with workspace.clone("collect-support") as early:
            early.pull(["data/failures/support"])
            collect(early, "2026-03-02")
            early.publish(never, tries=1)
        late.publish(lambda clone: collect(clone, "2026-03-03"), tries=2)
        names = {path.name for path in (late.root / "data/failures/support").iterdir()}
        assert {"2026-03-02.jsonl", "2026-03-03.jsonl"} <= names
        assert git(Path(workspace.remote), "rev-parse", "main") == late.git("rev-parse", "HEAD")
        md5 = yaml.safe_load((late.root / "data/failures/support.dvc").read_text())["outs"][0]["md5"]
        assert (Path(workspace.dvc_remote) / "files" / "md5" / md5[:2] / md5[2:]).exists()


def test_of_two_jobs_that_push_the_very_same_commit_the_later_one_redoes_its_own(workspace, monkeypatch):
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_DATE", "2026-03-02T00:00:00Z")
    with workspace.clone("one") as one, workspace.clone("two") as two:
        for clone in (one, two):
            write(clone, "ledger/twice.jsonl", "{}\n")
            clone.commit(["ledger/twice.jsonl"], "the same second")
        assert one.git("rev-parse", "HEAD") == two.git("rev-parse", "HEAD")
        one.publish(never, tries=1)
        redone = []
        two.publish(redone.append, tries=2)
    assert len(redone) == 1


def test_a_branch_that_never_rests_is_stale_after_the_given_tries(workspace):
    def moved(n):
        with workspace.clone("other") as other:
            write(other, "ledger/other.jsonl", f"{n}\n")
            other.commit(["ledger/other.jsonl"], "other")
            other.publish(never, tries=1)

    def redo(clone):
        write(clone, "ledger/mine.jsonl", "mine\n")
        clone.commit(["ledger/mine.jsonl"], "mine")
        moved(time.time_ns())

    with workspace.clone("mine") as clone:
        redo(clone)
        with pytest.raises(StaleError, match="moved on the remote 2 times"):
            clone.publish(redo, tries=2)


def test_a_push_that_the_remote_forbids_is_a_fault_not_a_race(workspace):
    hook = Path(workspace.remote) / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho closed for the night; exit 1\n")
    hook.chmod(0o755)
    try:
        with workspace.clone("mine") as clone:
            write(clone, "ledger/mine.jsonl", "mine\n")
            clone.commit(["ledger/mine.jsonl"], "mine")
            with pytest.raises(RetrainError, match="closed for the night"):
                clone.publish(never, tries=3)
    finally:
        hook.unlink()


def retrain(clone, weights):
    write(clone, "weights", weights)
    clone.dvc("repro", "train@support")
    return clone.commit(["weights", "dvc.lock"], "retrained")


def test_the_champion_is_the_adapter_of_the_promoted_commit(workspace):
    with workspace.clone("retrain-support") as clone:
        first = retrain(clone, "v1 bytes")
        digest = file_digest(clone.root / "out/support/adapter/manifest.json")
        clone.git("tag", "support-v1", first)
        clone.publish(never, tries=1, tags=("support-v1",))
    with workspace.clone("retrain-support") as clone:
        paths = clone.set_champion("support", commit=first, digest=digest)
        assert (clone.root / "champion/support/w").read_text() == "v1 bytes"
        assert clone.commit(paths, "champion") is not None
        retrain(clone, "v2 bytes")
        clone.publish(never, tries=1)
        assert clone.git("status", "--porcelain") == ""
        assert clone.dvc("status", "train@support", "champion/support.dvc") == "Data and pipelines are up to date."
        with pytest.raises(IntegrityError, match="the ledger says 0000"):
            clone.set_champion("support", commit=first, digest="0" * 64)
        with pytest.raises(IntegrityError, match="has no out/orders/adapter"):
            clone.set_champion("orders", commit=first, digest=digest)


def test_a_champion_folder_that_git_holds_becomes_one_that_dvc_tracks(workspace):
    commit = git(Path(workspace.remote), "rev-parse", "support-v1")
    with workspace.clone("retrain-support") as clone:
        digest = git(clone.root, "show", f"{commit}:weights")
        clone.git("rm", "--quiet", "champion/support.dvc", "champion/.gitignore")
        write(clone, "champion/support/none.json", "{}")
        clone.commit(["champion/support/none.json"], "as in the repository")
        write(clone, "digest", digest)
        paths = clone.set_champion("support", commit=commit, digest=file_digest(clone.root / "digest"))
        clone.commit(paths, "champion")
        assert clone.git("ls-files", "champion").splitlines().count("champion/support.dvc") == 1
        assert "champion/support/none.json" not in clone.git("ls-files", "champion")
        assert "champion" not in clone.git("status", "--porcelain")


def test_a_dvc_call_that_fails_says_why(workspace):
    with workspace.clone("look") as clone, pytest.raises(RetrainError, match=r"dvc pull --force no/such(.|\n)*no/such"):
        clone.pull(["no/such"])


def test_a_lock_is_waited_for_and_then_names_its_holder(workspace):
    with (
        workspace.lock("support", wait_seconds=0),
        pytest.raises(BusyError, match=f"holds support .pid {os.getpid()}"),
        workspace.lock("support", wait_seconds=0.2),
    ):
        pass
    with workspace.lock("support", wait_seconds=0):
        pass


CLONE_AND_DIE = """
import os, sys
from retrain.workspace import Workspace
with Workspace.open(sys.argv[1]).clone("doomed") as clone:
    os.kill(os.getpid(), 9)
"""


def test_the_clone_of_a_killed_job_is_swept_and_that_of_a_living_one_is_not(workspace):
    code = subprocess.run([sys.executable, "-c", CLONE_AND_DIE, workspace.root], cwd=REPOSITORY).returncode
    assert code == -signal.SIGKILL
    clones = workspace.local / "clones"
    assert [path.name.rsplit("-", 2)[0] for path in clones.iterdir() if path.is_dir()] == ["doomed"]
    with workspace.clone("alive") as alive, workspace.clone("second") as second:
        assert {path for path in clones.iterdir() if path.is_dir()} == {alive.root, second.root}


def test_the_output_of_a_child_streams_line_by_line(tmp_path):
    lines = []
    code = run_group(["sh", "-c", "echo one; echo two >&2; exit 3"], cwd=tmp_path, env=environment(), on_line=lines.append)
    assert (code, lines) == (3, ["one", "two"])


RUN_GROUP = """
import os, signal, subprocess, sys, time
from pathlib import Path
from retrain.process import environment, run_group

class Slow(subprocess.Popen):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        file = Path(sys.argv[1], "grandchild")
        while not file.exists() or not file.stat().st_size:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

if sys.argv[2] == "while it starts":
    subprocess.Popen = Slow
run_group(["sh", "-c", "echo $$ > pid; sleep 60 & echo $! > grandchild; wait"], cwd=Path(sys.argv[1]), env=environment())
"""


def living(path):
    try:
        os.kill(int(path.read_text()), 0)
        state = Path(f"/proc/{path.read_text().strip()}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


def eventually(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def written(path):
    return path.exists() and path.read_text().strip()


@pytest.mark.parametrize(
    ("when", "number", "files"),
    [
        ("while it runs", signal.SIGTERM, ["pid", "grandchild"]),
        ("while it starts", signal.SIGTERM, ["pid", "grandchild"]),
        ("while it runs", signal.SIGKILL, ["pid"]),
    ],
)
def test_children_end_with_their_parent(tmp_path, when, number, files):
    parent = subprocess.Popen([sys.executable, "-c", RUN_GROUP, tmp_path, when], cwd=REPOSITORY)
    try:
        assert eventually(lambda: written(tmp_path / "grandchild"))
        if when == "while it runs":
            assert all(living(tmp_path / name) for name in files)
            parent.send_signal(number)
        assert parent.wait() == (143 if number == signal.SIGTERM else -number)
        assert eventually(lambda: not any(living(tmp_path / name) for name in files))
    finally:
        parent.kill()
        if living(tmp_path / "grandchild"):
            os.kill(int((tmp_path / "grandchild").read_text()), signal.SIGKILL)


def test_a_remote_that_takes_calls_and_never_answers_ends_git_and_its_helpers(tmp_path):
    import psutil

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/x.git"
        started = time.monotonic()
        with pytest.raises(RetrainError, match="no answer in 1 s"):
            try_git(tmp_path, "-c", "http.proxy=", "ls-remote", address, timeout=1)
        assert time.monotonic() - started < 20
        assert not [child for child in psutil.Process().children(recursive=True) if "git" in child.name()]
