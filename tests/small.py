"""A workspace whose two-layer base learns its task in seconds: one word of each message tells its label."""

import contextlib
import itertools
import json
import os
import random
import shutil
import sqlite3
import string
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monitoring import failures
from retrain import jobs, ledger, release, story
from retrain.edits import set_values
from retrain.founding import init
from retrain.records import Example, dumps, file_digest, parse_time, read_json, write_json, write_jsonl
from retrain.registry import Registry, load_champion
from retrain.workspace import Workspace

TELLS = {"parcel": "order_status", "refund": "refund_status", "card": "payment_failed", "cancel": "cancel_order"}
FILLER = ("where", "is", "my", "please", "a", "b", "order", "lost", "answer")

FAST = (  # a base at a path, and a training that learns these words in seconds
    "bases.smollm2.source=path", "bases.smollm2.file=null", "bases.smollm2.sha256=null", "train.learning_rate=0.003",
    "train.loraplus=1", "train.epochs=10", "train.max_length=64", "evaluate.shots=1", "gates.repair_min_rows=1",
)  # fmt: skip


def message(label: str, rng: random.Random) -> str:
    """Seven words, one of which tells the label, the others chosen at random; and three that no other message has, so that it
    nearly copies none."""
    word = next(word for word, told in TELLS.items() if told == label)
    words = [rng.choice(FILLER) for _ in range(6)]
    words.insert(rng.randrange(7), word)
    return " ".join([*words, *("".join(rng.choices(string.ascii_lowercase, k=12)) for _ in range(3))])


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


def ask(space: Workspace, day: str, users: Sequence[str], each: int, mark: Callable[[str, int], str]) -> list[dict[str, Any]]:
    """A day's log: each user asks so often, is answered wrongly, corrects it, and is audited where the draw says so.

    `mark` is put behind each message: words by which it can be found again.
    """
    sent, labels, rng = [], sorted(TELLS.values()), random.Random(day)
    for user, i in itertools.product(users, range(each)):
        request, label = f"{user}-{day}-{i}", labels[i % 4]
        told = "audit_label" if failures.drawn(request, space.params.failures.audit_rate) else "correction"
        sent.append({
            "request_id": request, "timestamp": f"{day}T10:00:00Z", "feedback_at": f"{day}T11:00:00Z", "user_id": user,
            "adapter": "support", "model_version": "support-v1", "prompt": f"{message(label, rng)} {mark(user, i)}",
            "latency_ms": 100.0, "response": labels[(i + 1) % 4], "feedback": -1, told: label,
        })  # fmt: skip
    write_jsonl(space.root / "logs" / "support" / f"{day}.jsonl", sent)
    return sent


def promoted(space: Workspace, end: str, purpose: Any = "improve") -> ledger.Promotion:
    """A retraining at `end` on all that is collected, which must pass, and its promotion."""
    made = jobs.retrain(space, "support", end=parse_time(end), purpose=purpose)
    assert made.attempt.promote, made.attempt.why
    return release.promote(space, "support").promotion


def moved(made: Path, to: Path) -> Workspace:
    """A copy of a workspace; nothing but MLflow's database knows where it lies."""
    shutil.copytree(made, to, symlinks=True)
    with contextlib.closing(sqlite3.connect(to / ".retrain/mlflow/mlflow.db")) as db, db:
        for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for _, column, kind, *_ in db.execute(f'PRAGMA table_info("{table}")').fetchall():
                if kind.startswith(("VARCHAR", "TEXT")):
                    db.execute(f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?)', (str(made), str(to)))
    return Workspace.open(to)


def another_version(space: Workspace, *, forced: bool = False) -> ledger.Promotion:
    """A second version of the same weights serves, as if it had been promoted: its run.json differs by a space."""
    champion = load_champion("support", space)
    first, folder = champion.promotion, champion.folder
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(folder, Path(scratch) / "adapter"))
        digest = altered(copy)
        registry = Registry.open(space.params.mlflow, space.root)
        run = registry.start_training("support", {"digest": digest})
        version = registry.register("support", copy, digest=digest, tags={}, description="", run_id=run, taken={})
    line = first.model_copy(
        update={"version": version, "digest": digest, "tag": f"support-v{version}", "replaces": 1, "forced": forced}
    )
    with space.clone("another") as clone:
        ledger.append(clone.root, "support", line)
        clone.commit(["ledger/support.jsonl"], "another version")
        clone.publish(lambda c: None, tries=1)
        registry.follow("support", ledger.state(ledger.read(clone.root, "support")))
    return line


def altered(folder: Path) -> str:
    """Another version of the same weights; its digest."""
    (folder / "run.json").write_text((folder / "run.json").read_text() + " ")
    manifest = read_json(folder / "manifest.json")
    manifest["files"]["run.json"] = file_digest(folder / "run.json")
    write_json(folder / "manifest.json", manifest)
    return file_digest(folder / "manifest.json")


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


def set_for_all(space: Workspace, *settings: str) -> None:
    """These settings of params.yaml, pushed."""
    with space.clone("rules") as clone:
        set_values(clone.root / "params.yaml", settings)
        clone.commit(["params.yaml"], "rules")
        clone.publish(lambda c: None, tries=1)
