"""A training of twelve steps on the tiny base, in this process or in one of its own."""

import os
import subprocess
import sys
import threading
from pathlib import Path

from retrain import params as params_
from retrain import train
from retrain.records import Example, read_json

ROOT = Path(__file__).resolve().parents[1]
LABELS = ("order status", "refund card")
WORDS = ("parcel", "refund", "card", "order", "lost", "cancel")
ROWS = [Example.of(f"where is my {a} {b}", LABELS[i % 2], source="seed") for i, a in enumerate(WORDS) for b in ("a", "b")]
SETTINGS = ("train.epochs=2", "train.batch=2", "train.max_length=32", "train.checkpoint_steps=4", "train.dropout=0.1")
STEPS = 12

ALONE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import training
from retrain import process
training.run(Path(sys.argv[2]), Path(sys.argv[3]), ending=process.ends_itself())
"""


def run(base: Path, folder: Path, *more: str, rows: list[Example] | None = None, ending: threading.Event | None = None) -> str:
    """The digest of the adapter that comes out in folder/adapter; checkpoints lie in folder/home."""
    (folder / "data/prompts").mkdir(parents=True, exist_ok=True)
    (folder / "data/prompts/support.txt").write_text("answer")
    labels = "[" + ", ".join(LABELS) + "]"
    params = params_.load(ROOT, [*SETTINGS, f"adapters.support.labels={labels}", *more])
    before = Path.cwd()
    os.chdir(folder)
    try:
        train.train(
            rows or ROWS, "support", params, base, Path("adapter"), Path("log.jsonl"), home=Path("home"), ending=ending
        )  # fmt: skip
    finally:
        os.chdir(before)
    return train.verify(folder / "adapter")


def alone(base: Path, folder: Path) -> "subprocess.Popen[str]":
    """The same in a process of its own, which SIGTERM reaches."""
    return subprocess.Popen(
        [sys.executable, "-c", ALONE, str(Path(__file__).parent), str(base), str(folder)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def losses(folder: Path) -> list[float]:
    import json

    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("home/*/step-*"))


def cut_off(base: Path, folder: Path, after: int, *more: str) -> None:
    """Run it until a checkpoint of at least so many steps is there and the next step has begun, as SIGTERM would end it."""
    import pytest

    class Soon(threading.Event):
        def is_set(self) -> bool:
            log = folder / "log.jsonl"
            return log.exists() and len(log.read_text().splitlines()) >= after

    with pytest.raises(SystemExit) as ended:
        run(base, folder, *more, ending=Soon())
    assert ended.value.code == 143
    assert not (folder / "adapter").exists()
    assert read_json(checkpoints(folder)[-1] / "complete.json")["step"] == after
