"""Training elsewhere: by a command that starts in an empty folder and shares git and the DVC remote alone.

What comes and goes is tested on a stage that writes an adapter without learning anything; the slow tests train.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from small import set_for_all, wait, workspace
from test_environment import fresh

from retrain import elsewhere, inputs, jobs, launch, preflight, release
from retrain import params as params_
from retrain.edits import set_values
from retrain.errors import IntegrityError, ParamsError, RetrainError
from retrain.founding import init
from retrain.process import environment, git
from retrain.records import parse_time, read_json, stamp
from retrain.registry import Registry
from retrain.train import verify
from retrain.workspace import Clone, Workspace

ROOT = Path(__file__).parents[1]
END = "2026-03-01T00:00:00Z"
ADAPTER, LOG = Path("out/support/adapter"), Path(".retrain/train/support.jsonl")

MAKE = """
import hashlib, json, os, sys
from pathlib import Path
import yaml

def write(path, value):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(value))

def train(out="out/support/adapter"):
    params = yaml.safe_load(Path("params.yaml").read_text())
    run = {"adapter": "support", "base": "smollm2", "base_digest": "b", "seed": params["seed"], "train": params["train"]}
    write(f"{out}/run.json", {**run, "labels": params["adapters"]["support"]["labels"]})
    write(f"{out}/adapter_model.safetensors", Path("out/support/data/train.jsonl").read_text() + Path(PROMPT).read_text())
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(out).iterdir()}
    write(f"{out}/manifest.json", {"files": files})
    write(".retrain/train/support.cost.json", {"device_seconds": 1.5})
    Path(".retrain/train/support.jsonl").write_text('{"step": 1}\\n{"step": 2}\\n')
    with (Path.home() / "trained").open("a") as file:
        file.write("once\\n")

PROMPT = "data/prompts/support.txt"
wanted = {"base": ("out/base/smollm2/base.json", {"digest": "b"}), "prepare": ("out/support/data/train.jsonl", "rows")}
write(*wanted[sys.argv[1]]) if sys.argv[1] in wanted else train()
"""
READ = ["out/base/smollm2", "out/support/data", "data/prompts/support.txt"]


def stage(name: str, of: str, out: str, **more: Any) -> dict[str, Any]:
    return {name: {"foreach": [of], "do": {"cmd": f"python make.py {name}", "outs": [out], **more}}}


STAGES = {
    **stage("base", "smollm2", READ[0]),
    **stage("prepare", "support", READ[1]),
    **stage("train", "support", str(ADAPTER), deps=READ, params=["seed", "train"]),
}


def command(home: Path, program: str = '"$@"') -> str:
    """Another machine: nothing of this environment, a home of its own, an empty folder; `program` is what the shell runs."""
    home.mkdir(exist_ok=True)
    threads = {name: value for name, value in os.environ.items() if name.endswith("_THREADS")}
    there = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(home), "PYTHONPATH": str(ROOT), **threads}
    shell = f'cd "$(mktemp -d -p "$HOME")" && {program}'
    return shlex.join(["env", "-i", *(f"{name}={value}" for name, value in there.items()), "sh", "-c", shell, "--", "python"])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, Clone]]:
    """A clone that stands where a job would train."""
    files = {"params.yaml": (ROOT / "params.yaml").read_text(), "make.py": MAKE, "data/prompts/support.txt": "Answer."}
    space = init(tmp_path_factory.mktemp("launch") / "ws", files={**files, "dvc.yaml": yaml.safe_dump({"stages": STAGES})})
    with space.clone("launch") as clone:
        clone.dvc("repro", "base@smollm2", "prepare@support")
        yield space, clone


@dataclass(frozen=True)
class Job:
    """What the stage `train` does in the clone in which the test is."""

    space: Workspace
    home: Path

    def train(self, command: str) -> str:
        order = launch.Order(command, "auto", self.space.remote, self.space.dvc_remote, "refs/retrain/support/test")
        launch.train(order, "support", params_.load(".").of("support"), ADAPTER, LOG)
        return verify(ADAPTER)

    def trainings(self) -> int:
        return (self.home / "trained").read_text().count("once")


@pytest.fixture
def job(
    prepared: tuple[Workspace, Clone], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Job]:
    space, clone = prepared
    monkeypatch.chdir(clone.root)
    before = Path("params.yaml").read_text()
    yield Job(space, tmp_path_factory.mktemp("else") / "the other's home")
    Path("params.yaml").write_text(before)
    subprocess.run(["rm", "-rf", ADAPTER])
    assert refs(space) == ""
    assert {path.name for path in ADAPTER.parent.iterdir()} <= {"data", ".gitignore"}  # nothing half-made


def refs(space: Workspace) -> str:
    return git(space.root, "ls-remote", space.remote, "refs/retrain/*")


def test_an_adapter_is_made_in_an_empty_folder_and_found_there_when_it_is_asked_for_again(job: Job) -> None:
    digest = job.train(command(job.home))
    assert [json.loads(line)["step"] for line in LOG.read_text().splitlines()] == [1, 2]
    assert read_json(LOG.with_suffix(".cost.json")) == {"device_seconds": 1.5}
    assert list((job.home / ".cache/retrain/clones").iterdir()) == []
    assert job.train(command(job.home)) == digest
    assert job.trainings() == 1


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
def test_a_command_that_fails_is_told_with_its_last_words(job: Job, program: str, words: str) -> None:
    with pytest.raises(RetrainError, match=words):
        job.train(command(job.home, program))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ("dvc=/nowhere", "workspace.dvc_remote .params.yaml. is /nowhere, which is not there on"),
        ("code=000000", "has other code of this package .* than the machine that asks .000000.: "),
        ("device=cuda", "launch.device .params.yaml. is cuda, no CUDA device is visible on"),
    ],
)
def test_what_the_other_side_refuses_comes_back_as_it_was_said(job: Job, changed: str, words: str) -> None:
    hidden = "CUDA_VISIBLE_DEVICES= "
    with pytest.raises(ParamsError, match=words):
        job.train(command(job.home, f'{hidden}"$@" {changed}'))  # the last word of a name counts


def test_other_bytes_than_were_told_are_not_taken(job: Job) -> None:
    digest = job.train(command(job.home))
    listing = md5_of(job.space, ADAPTER)
    own = {"digest": digest, "md5": listing, "cost": {}}

    def says(**changes: str) -> str:
        return command(job.home, f"echo {shlex.quote(launch.MADE + json.dumps({**own, **changes}))}")

    assert job.train(says()) == digest
    for made, words in (
        ({"digest": "0" * 64}, "said that it made 000000000000, and what .* holds is not that: .*is not the one with sha256"),
        ({"md5": locked("prepare")["md5"]}, "has no manifest.json"),
        ({"md5": "0" * 32 + ".dir"}, "no data with md5 0000"),
    ):
        subprocess.run(["rm", "-rf", ADAPTER])
        with pytest.raises(IntegrityError, match=words):
            job.train(says(**made))
        assert not ADAPTER.exists()
    set_values(Path("params.yaml"), ["seed=8"])
    with pytest.raises(IntegrityError, match="its run.json has another seed than was sent"):
        job.train(says())


def locked(stage: str) -> dict[str, Any]:
    return dict(yaml.safe_load(Path("dvc.lock").read_text())["stages"][f"{stage}@support"]["outs"][0])


def md5_of(space: Workspace, folder: Path) -> str:
    """The listing in the DVC remote that names just these files."""
    names = sorted(path.name for path in folder.iterdir())
    for path in Path(space.dvc_remote).rglob("*.dir"):
        if sorted(entry["relpath"] for entry in json.loads(path.read_text())) == names:
            return path.parent.name + path.name
    raise AssertionError(f"no listing of {names} in {space.dvc_remote}")


def test_the_files_that_are_sent_are_those_that_the_stage_reads() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert stages["train"]["do"]["deps"] == ["out/base/${item.base}", "out/${key}/data", "${item.prompt}"]


# --- with real trainings


@pytest.fixture(scope="module")
def small_space(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return workspace(tmp_path_factory.mktemp("trained"), tiny, "train.checkpoint_steps=5")


@pytest.mark.slow
def test_the_loop_retrains_elsewhere_and_promotes_the_bytes_that_a_training_here_makes(
    small_space: Workspace, tmp_path: Path
) -> None:
    space, said = small_space, list[str]()
    set_for_all(space, f"launch.command={json.dumps(command(tmp_path / 'home'))}")
    made = jobs.retrain(space, "support", end=parse_time(END), say=said.append).attempt
    assert made.promote, made.why
    assert f"{made.digest[:12]} was made on " in "\n".join(said)
    assert made.cost["device_seconds"] > 0
    assert not (space.local / "checkpoints").exists()  # nothing trained here
    assert refs(space) == ""
    assert release.promote(space, "support").promotion.digest == made.digest
    registry = Registry.open(space.params.mlflow, space.root)
    ids = [registry.client.get_experiment_by_name("support").experiment_id]
    run = registry.client.search_runs(ids, f"tags.digest = '{made.digest}' and tags.kind = 'train'")[0]
    losses = registry.client.get_metric_history(run.info.run_id, "loss")
    assert [row.step for row in losses] == [*range(1, len(losses) + 1)]
    assert f", {len(losses)} steps, " in "\n".join(said)
    with space.clone("again") as clone:
        clone.pull(["out/base/smollm2", "out/support/data"])
        lock = (clone.root / "dvc.lock").read_text()
        clone.dvc("repro", "--single-item", "--force", "--no-run-cache", "train@support")
        assert verify(clone.root / ADAPTER) == made.digest
        assert (clone.root / "dvc.lock").read_text() == lock


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "program"),
    [
        (signal.SIGTERM, '"$@"'),
        (signal.SIGKILL, '{ "$@"; } | cat'),  # as ssh does: whoever trains there is no child, and nobody listens any more
    ],
)
def test_a_training_whose_job_is_killed_ends_there_and_goes_on_from_its_checkpoint(
    small_space: Workspace, tmp_path: Path, number: signal.Signals, program: str
) -> None:
    space, home = small_space, tmp_path / "home"
    set_for_all(space, f"launch.command={json.dumps(command(home, program))}")
    with space.clone("killed") as clone:
        inputs.put(clone, inputs.Asked("support", stamp(parse_time(END)), "first", (), ()))
        clone.dvc("repro", "prepare@support")
        told = launch.environment(space, params_.load(clone.root), "support")
        how = {"cwd": clone.root, "env": environment(**told), "text": True}
        job = subprocess.Popen([sys.executable, "-m", "retrain.train", "support"], stdout=subprocess.DEVNULL, **how)
        wait(lambda: (clone.root / LOG).exists() and (clone.root / LOG).read_text().count("\n") > 5, "no step came", 240)
        job.send_signal(number)
        assert job.wait(120) == (143 if number == signal.SIGTERM else -signal.SIGKILL)
        wait(lambda: not at_work(home), f"still there: {at_work(home)}", 120)
        assert (refs(space) == "") is (number == signal.SIGTERM)
        assert list(home.glob(".cache/retrain/checkpoints/*/step-*/complete.json"))
        assert not (clone.root / ADAPTER).exists()
        done = subprocess.run([sys.executable, "-m", "retrain.train", "support"], capture_output=True, **how)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "goes on after step" in done.stdout
        assert f"{verify(clone.root / ADAPTER)[:12]} was made on" in done.stdout
        assert refs(space) == ""


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
