"""A workspace whose two-layer base learns its task in seconds: one word of each message tells its label."""

import json
import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from retrain import ledger, release, story
from retrain.edits import set_values
from retrain.records import Example, dumps, file_digest, read_json, write_json
from retrain.registry import Registry
from retrain.workspace import Workspace, init

TELLS = {"parcel": "order_status", "refund": "refund_status", "card": "payment_failed", "cancel": "cancel_order"}
FILLER = ("where", "is", "my", "please", "a", "b", "order", "lost", "answer")

FAST = (  # a base at a path, and a training that learns these words in seconds
    "bases.smollm2.source=path", "bases.smollm2.file=null", "bases.smollm2.sha256=null", "train.learning_rate=0.003",
    "train.epochs=6", "train.max_length=64", "evaluate.shots=1",
)  # fmt: skip


def message(label: str, rng: random.Random) -> str:
    """Seven words, one of which tells the label; the others are chosen at random, so that few messages are equal."""
    word = next(word for word, told in TELLS.items() if told == label)
    words = [rng.choice(FILLER) for _ in range(6)]
    words.insert(rng.randrange(7), word)
    return " ".join(words)


def rows(n: int, source: str, seed: int) -> str:
    rng = random.Random(seed)
    labels = sorted(TELLS.values())
    made = {row.id: row for i in range(n) for row in [Example.of(message(labels[i % 4], rng), labels[i % 4], source=source)]}
    return "".join(dumps(row.as_dict()) + "\n" for row in made.values())


def workspace(folder: Path, tiny: Path, *settings: str) -> Workspace:
    """`retrain init` of it, in folder/ws."""
    params = folder / "params.yaml"
    params.write_text(story.params_text("support", sorted(TELLS.values())))
    set_values(params, [*FAST, f"bases.smollm2.name={json.dumps(str(tiny.parent / 'raw'))}", *settings])
    files = {
        **story.files_of(["dvc.yaml", "data/prompts/support.txt"]),
        "params.yaml": params.read_text(),
        "data/seed/support.jsonl": rows(400, "seed", 1),
        "data/suites/support/golden.jsonl": rows(120, "golden", 2),
        f"data/suites/support/audit/{story.FIRST_AUDIT}.jsonl": rows(120, "audit", 3),
    }
    return init(folder / "ws", files=files)


def another_version(space: Workspace) -> ledger.Promotion:
    """A second version of the same weights serves, as if it had been promoted: its run.json differs by a space."""
    first, folder = release.champion_folder(space, "support")
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(folder, Path(scratch) / "adapter"))
        (copy / "run.json").write_text((copy / "run.json").read_text() + " ")
        manifest = read_json(copy / "manifest.json")
        manifest["files"]["run.json"] = file_digest(copy / "run.json")
        write_json(copy / "manifest.json", manifest)
        digest = file_digest(copy / "manifest.json")
        registry = Registry.open(space.params.mlflow, space.root)
        run = registry.start_training("support", {"digest": digest})
        version = registry.register("support", copy, digest=digest, tags={}, description="", run_id=run)
    line = first.model_copy(update={"version": version, "digest": digest, "tag": f"support-v{version}", "replaces": 1})
    with space.clone("another") as clone:
        ledger.append(clone.root, "support", line)
        clone.commit(["ledger/support.jsonl"], "another version")
        clone.publish(lambda c: None, tries=1)
        registry.follow("support", ledger.state(ledger.read(clone.root, "support")))
    return line


def wait(done: Any, what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"{what} after {seconds} s"
        time.sleep(1)


def children_of(space: Workspace) -> list[str]:
    """Command lines of the processes that work in or for this workspace."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            where = (path / "environ").read_bytes() + os.fsencode(os.readlink(path / "cwd"))
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if os.fsencode(str(space.root)) in where and int(path.name) != os.getpid():
            found.append(command)
    return found
