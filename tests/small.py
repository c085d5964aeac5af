"""A workspace whose two-layer base learns its task in seconds: one word of each message tells its label."""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

from retrain import story
from retrain.params import set_values
from retrain.records import Example, dumps
from retrain.workspace import Workspace, init

TELLS = {"parcel": "order_status", "refund": "refund_status", "card": "payment_failed", "cancel": "cancel_order"}
FILLER = ("where", "is", "my", "please", "a", "b", "order", "lost", "answer")


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
    raw = json.dumps(str(tiny.parent / "raw"))
    base = ["bases.smollm2.source=path", f"bases.smollm2.name={raw}", "bases.smollm2.file=null", "bases.smollm2.sha256=null"]
    learns = ["train.learning_rate=0.003", "train.epochs=6", "train.max_length=64", "evaluate.shots=1"]
    set_values(params, [*base, *learns, *settings])
    files = {
        **story.files_of(["dvc.yaml", "data/prompts/support.txt"]),
        "params.yaml": params.read_text(),
        "data/seed/support.jsonl": rows(400, "seed", 1),
        "data/suites/support/golden.jsonl": rows(120, "golden", 2),
        f"data/suites/support/audit/{story.FIRST_AUDIT}.jsonl": rows(120, "audit", 3),
    }
    return init(folder / "ws", files=files)


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
