"""Training elsewhere: by a command that starts in an empty folder and shares git and the DVC remote alone."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from small import set_for_all, wait, workspace
from test_environment import fresh

from retrain import elsewhere, jobs, launch, preflight, release
from retrain import params as params_
from retrain.edits import set_values
from retrain.errors import IntegrityError, ParamsError, RetrainError
from retrain.process import environment, git
from retrain.records import parse_time
from retrain.registry import Registry
from retrain.train import verify
from retrain.workspace import Clone, Workspace

ROOT = Path(__file__).parents[1]
END = "2026-03-01T00:00:00Z"
ADAPTER = Path("out/support/adapter")


def command(home: Path, program: str = '"$@"') -> str:
    """Another machine: nothing of this environment, a home of its own, an empty folder; `program` is what the shell runs."""
    home.mkdir(exist_ok=True)
    threads = {name: value for name, value in os.environ.items() if name.endswith("_THREADS")}
    there = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(home), "PYTHONPATH": str(ROOT), **threads}
    shell = f'cd "$(mktemp -d -p "$HOME")" && {program}'
    return shlex.join(["env", "-i", *(f"{name}={value}" for name, value in there.items()), "sh", "-c", shell, "--", "python"])


@dataclass(frozen=True)
class Trained:
    """A workspace whose first attempt was trained in `home`, and all that was said of it."""

    space: Workspace
    home: Path
    attempt: Any
    said: str

    def order(self, command: str) -> launch.Order:
        space = self.space
        return launch.Order(command, "auto", space.remote, space.dvc_remote, "refs/retrain/support/test")

    def refs(self) -> str:
        return git(self.space.root, "ls-remote", self.space.remote, "refs/retrain/*")


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("launch")
    space, home, said = workspace(folder, tiny, "train.checkpoint_steps=5"), folder / "the other's home", []
    set_for_all(space, f"launch.command={json.dumps(command(home))}")
    made = jobs.retrain(space, "support", end=parse_time(END), say=said.append)
    return Trained(space, home, made.attempt, "\n".join(said))


@pytest.fixture
def clone(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clone]:
    """One of the attempt's commit, with what its training reads; the test is in it."""
    with trained.space.clone("test") as clone:
        clone.pull(["out/base/smollm2", "out/support/data"])
        monkeypatch.chdir(clone.root)
        yield clone


def train(trained: Trained, command: str) -> None:
    log = Path(".retrain/train/support.jsonl")
    launch.train(trained.order(command), "support", params_.load(".").of("support"), ADAPTER, log)


def test_an_adapter_that_was_trained_in_an_empty_folder_passes_the_gate_and_serves(trained: Trained) -> None:
    assert trained.attempt.promote, trained.attempt.why
    assert f"{trained.attempt.digest[:12]} was made on " in trained.said
    assert trained.attempt.cost["device_seconds"] > 0
    assert release.promote(trained.space, "support").promotion.digest == trained.attempt.digest
    assert trained.refs() == ""
    assert not (trained.space.local / "checkpoints").exists()  # nothing trained here
    assert list((trained.home / ".cache/retrain/clones").iterdir()) == []
    registry = Registry.open(trained.space.params.mlflow, trained.space.root)
    ids = [registry.client.get_experiment_by_name("support").experiment_id]
    run = registry.client.search_runs(ids, f"tags.digest = '{trained.attempt.digest}' and tags.kind = 'train'")[0]
    losses = registry.client.get_metric_history(run.info.run_id, "loss")
    assert [row.step for row in losses] == [*range(1, len(losses) + 1)]  # the log came through, line by line
    assert f", {len(losses)} steps, " in trained.said


def test_a_training_here_makes_the_same_bytes(trained: Trained, clone: Clone) -> None:
    locked = Path("dvc.lock").read_text()
    clone.dvc("repro", "--single-item", "--force", "--no-run-cache", "train@support")
    assert verify(ADAPTER) == trained.attempt.digest
    assert Path("dvc.lock").read_text() == locked


def test_what_was_trained_there_once_is_found_and_not_trained_again(trained: Trained, clone: Clone) -> None:
    train(trained, command(trained.home))
    assert verify(ADAPTER) == trained.attempt.digest
    assert not Path(".retrain/train/support.jsonl").read_text()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("echo no such partition; exit 7", r"ended with 7; nothing is lost.*\n  no such partition"),
        ("true", "ended without an adapter: is what it starts a Python that has this package"),
        ("echo 'retrain-made: {'", "said of its adapter '{', which cannot be read"),
        ("kill -9 $$", "ended with -9"),
        ("exec /nowhere/python", r"ended with 127(.|\n)*/nowhere/python"),
    ],
)
def test_a_command_that_fails_is_told_with_its_last_words(
    trained: Trained, clone: Clone, tmp_path: Path, program: str, words: str
) -> None:
    with pytest.raises(RetrainError, match=words):
        train(trained, command(tmp_path / "home", program))
    assert not ADAPTER.exists()
    assert trained.refs() == ""


def test_what_the_other_side_refuses_comes_back_as_it_was_said(trained: Trained, clone: Clone, tmp_path: Path) -> None:
    program = '"$@" dvc=/nowhere/store'  # the last word of a name counts
    with pytest.raises(ParamsError, match="workspace.dvc_remote .params.yaml. is /nowhere/store, which is not there on"):
        train(trained, command(tmp_path / "home", program))
    with pytest.raises(ParamsError, match="has other code of this package .* than the machine that asks .000000.: "):
        train(trained, command(tmp_path / "home", '"$@" code=000000'))


def test_other_bytes_than_were_told_are_not_taken(trained: Trained, clone: Clone, tmp_path: Path) -> None:
    outs = {out["path"]: out["md5"] for stage in ("train@support", "prepare@support") for out in locked(stage)["outs"]}
    own = {"digest": trained.attempt.digest, "md5": outs[str(ADAPTER)], "cost": {}}

    def says(**changes: str) -> str:
        return command(tmp_path / "home", f"echo {shlex.quote(launch.MADE + json.dumps({**own, **changes}))}")

    for made, words in (
        ({"digest": "0" * 64}, "said that it made 000000000000, and what .* holds is not that: .*is not the one with sha256"),
        ({"md5": outs["out/support/data"]}, "has no manifest.json"),
        ({"md5": "0" * 32 + ".dir"}, "no data with md5 0000"),
    ):
        with pytest.raises(IntegrityError, match=words):
            train(trained, says(**made))
        assert not ADAPTER.exists()
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["seed"] += 1
    Path("params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(IntegrityError, match="its run.json has another seed than was sent"):
        train(trained, says())
    assert not ADAPTER.exists()
    assert [path.name for path in ADAPTER.parent.iterdir() if "adapter" in path.name] == []


def locked(stage: str) -> dict[str, Any]:
    return dict(yaml.safe_load(Path("dvc.lock").read_text())["stages"][stage])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "program"),
    [
        (signal.SIGTERM, '"$@"'),
        (signal.SIGKILL, '{ "$@"; } | cat'),  # as ssh does: whoever trains there is no child, and nobody listens any more
    ],
)
def test_a_training_whose_job_is_killed_ends_there_and_goes_on_from_its_checkpoint(
    trained: Trained, clone: Clone, tmp_path: Path, number: signal.Signals, program: str
) -> None:
    home = tmp_path / "home"
    told = environment(**{launch.VARIABLE: json.dumps(asdict(trained.order(command(home, program))))})
    stage = [sys.executable, "-m", "retrain.train", "support"]
    job = subprocess.Popen(stage, env=told, stdout=subprocess.DEVNULL, start_new_session=True)
    steps = Path(".retrain/train/support.jsonl")
    wait(lambda: steps.exists() and steps.read_text().count("\n") > 5, "no step came", 240)
    job.send_signal(number)
    assert job.wait(120) == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    wait(lambda: not at_work(home), f"still there: {at_work(home)}", 60)
    assert (trained.refs() == "") is (number == signal.SIGTERM)
    assert list(home.glob(".cache/retrain/checkpoints/*/step-*/complete.json"))
    assert not ADAPTER.exists()
    done = subprocess.run(stage, env=told, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "goes on after step" in done.stdout
    assert verify(ADAPTER) == trained.attempt.digest
    assert trained.refs() == ""


def at_work(home: Path) -> list[str]:
    """Command lines of the processes that have this home."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"HOME={home}\0".encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


# --- words and parameters


def test_a_request_passes_a_shell_of_a_shell_unharmed() -> None:
    odd = launch.Request("a-b", "ssh://git@host/~me/x y.git", "s3://b/$HOME 'q' \"d\" `x` é&*;|=", "refs/r", "c", "auto", "d")
    joined = " ".join(odd.words())
    once = subprocess.run(["bash", "-c", f"bash -c 'printf \"%s\\n\" {joined}'"], capture_output=True, text=True).stdout
    assert launch.Request.of(once.splitlines()) == odd


def test_words_that_are_no_request_are_bad_usage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["elsewhere", "adapter=x"])
    monkeypatch.setenv("RETRAIN_CACHE", "unused")
    with pytest.raises(SystemExit) as ended:
        elsewhere.main()
    assert ended.value.code == 2
    assert "error[ParamsError]: usage: launch.command of params.yaml starts this" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "words"), [("ssh 'gpu", "is no command line .*close its quotes"), ("''", "is empty: write null")]
)
def test_a_command_that_is_no_command_line_is_refused(value: str, words: str) -> None:
    with pytest.raises(ParamsError, match=f"launch.command: .*{words}"):
        params_.load(ROOT, [f"launch.command={value if value == repr('') else json.dumps(value)}"])


def test_a_program_that_is_not_here_is_named_before_anything_trains() -> None:
    settings = ["launch.command=srunn --gres=gpu:1 python"]
    with pytest.raises(ParamsError, match=r"launch.command .params.yaml. begins with 'srunn', which is no program here"):
        preflight.check(ROOT, params_.load(ROOT, settings).of("orders"), "orders")


def test_a_gpu_that_only_the_other_machine_has_is_asked_for_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    there = ["launch.command=env python", "launch.device=cuda"]
    preflight.check(ROOT, params_.load(ROOT, there).of("orders"), "orders")
    with pytest.raises(
        ParamsError, match="evaluated here, where no CUDA device is visible: set train.device to auto, and launch"
    ):
        preflight.check(ROOT, params_.load(ROOT, [*there, "train.device=cuda"]).of("orders"), "orders")


def test_without_a_command_nothing_is_told_to_the_stage(released: Workspace) -> None:
    assert launch.environment(released, released.params, "support") == {}


LOADED = """
import sys
sys.path.insert(0, "dags")
import retrain_adapter
task = retrain_adapter.retrain_support.get_task("retrain")
print("TASK", task.pool, task.pool_slots)
"""


def test_a_retraining_takes_its_slots_of_the_pool_that_params_name(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_values(bare / "params.yaml", ["launch.pool=gpu", "launch.slots=2"])
    monkeypatch.setenv("RETRAIN_WORKSPACE", str(bare))
    assert "TASK gpu 2\n" in fresh(LOADED)
