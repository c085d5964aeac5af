"""Requests a second and latency of the door, beside `transformers serve` and a plain loop of `generate`, and a swap under load.

    python benchmarks/serving.py [--requests 48] [--clients 1 8] [--swap-seconds 60] [--rounds 1] [--json]

Two adapters, `support` (a label) and `orders` (JSON), trained on --train rows each and kept under .retrain, are asked in turn.
The door is `retrain serve` on a workspace made for this run; `transformers serve` has each adapter merged into a model of its
own; the loop answers one question after the other in this process. `same`: the share of answers that are those of ours; the
other two are not held to the labels. Then --swap-seconds of load at the most clients while `support` goes back and forth
between two versions every 10 seconds: an answer's version must be one that was loaded, with the digest of its bytes.

Example: python benchmarks/serving.py --requests 96 --json
"""

import argparse
import contextlib
import json
import math
import os
import queue
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parts import answering, models, texts  # noqa: E402
from parts.answering import Ask, Asked, Given  # noqa: E402

from retrain import jobs, ledger, quiet, story  # noqa: E402
from retrain import params as params_  # noqa: E402
from retrain.founding import init  # noqa: E402
from retrain.records import file_digest, read_json, write_json  # noqa: E402
from retrain.train import digest as digest_of  # noqa: E402
from retrain.workspace import Workspace  # noqa: E402

ADAPTERS = ("support", "orders")
EVERY = 10.0  # seconds between two swaps


def load(ask: Ask, questions: Sequence[Asked], clients: int) -> tuple[list[Given], float]:
    """Every question asked once by so many clients at once; the answers in the order of the questions, and the seconds."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(questions)):
        waiting.put(number)
    given: list[Given | None] = [None] * len(questions)

    def client() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                number = waiting.get_nowait()
                given[number] = ask(questions[number])

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [one for one in given if one is not None], time.perf_counter() - began


def quantile(seconds: Sequence[float], share: float) -> float:
    """The smallest wait that this share of the requests did not exceed."""
    return sorted(seconds)[max(0, math.ceil(share * len(seconds)) - 1)]


def told(given: Sequence[Given], took: float) -> dict[str, Any]:
    waits = [one.seconds for one in given]
    return {
        "rps": round(len(given) / took, 2),
        "p50": round(quantile(waits, 0.5), 3),
        "p99": round(quantile(waits, 0.99), 3),
        "failed": sum(one.text is None for one in given),
    }


# --- what they serve


def promotions(space: Workspace, adapters: dict[str, list[Path]], folder: Path) -> None:
    """Versions that serve, their bytes and base where the door looks first; the last of each adapter is the champion."""
    with space.clone("bench") as clone:
        commit = clone.git("rev-parse", "HEAD")
        for name, versions in adapters.items():
            for number, path in enumerate(versions, 1):
                tag, digest = f"{name}-v{number}", digest_of(path)
                shutil.copytree(path, space.local / "serving" / f"{tag}-{digest[:12]}")
                line = ledger.Promotion(
                    at=jobs.now(), adapter=name, version=number, digest=digest, commit=commit, tag=tag, forced=True,
                    reason="a benchmark", replaces=number - 1 or None,
                )  # fmt: skip
                ledger.append(clone.root, name, line)
        clone.commit([f"ledger/{name}.jsonl" for name in adapters], "what a benchmark serves")
        clone.publish(lambda c: None, tries=1)
    run = read_json(adapters["support"][0] / "run.json")
    place = space.local / "base" / f"{run['base']}-{run['base_digest'][:12]}"
    place.parent.mkdir(parents=True)
    place.symlink_to(folder)


def again(adapter: Path, target: Path) -> Path:
    """The same weights as another version: run.json ends with one more space."""
    shutil.copytree(adapter, target)
    (target / "run.json").write_text((target / "run.json").read_text() + " ")
    manifest = read_json(target / "manifest.json")
    manifest["files"]["run.json"] = file_digest(target / "run.json")
    write_json(target / "manifest.json", manifest)
    return target


def swap(space: Workspace, number: int, other: int, digest: str) -> None:
    """A line of the ledger, pushed: support goes from one version to another."""
    with space.clone("bench") as clone:
        line = ledger.Rollback(
            at=jobs.now(), adapter="support", from_version=other, version=number, digest=digest, reason="a benchmark"
        )
        ledger.append(clone.root, "support", line)
        clone.commit(["ledger/support.jsonl"], "a swap")
        clone.publish(lambda c: None, tries=3)


@dataclass
class Swapped:
    """What came of the load during the swaps."""

    given: list[Given] = field(default_factory=list)
    swaps: int = 0


def swapped(
    ask: Ask, space: Workspace, questions: Sequence[Asked], clients: int, seconds: float, digests: list[str]
) -> Swapped:
    """Load for so many seconds, and a swap every EVERY."""
    found, end = Swapped(), time.monotonic() + seconds

    def client(first: int) -> None:
        number = first
        while time.monotonic() < end:
            found.given.append(ask(questions[number % len(questions)]))
            number += clients

    threads = [threading.Thread(target=client, args=(first,)) for first in range(clients)]
    for thread in threads:
        thread.start()
    serves = len(digests)
    while time.monotonic() + EVERY < end:
        time.sleep(EVERY)
        before, serves = serves, 1 if serves == 2 else 2
        swap(space, serves, before, digests[serves - 1])
        found.swaps += 1
    for thread in threads:
        thread.join()
    return found


# --- all of it


def measured(asked: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    params = params_.load(ROOT)
    folder = models.smollm2()
    trained, questions = {}, {}
    for name in ADAPTERS:
        settings = params.of(name)
        settings = settings.model_copy(update={"train": settings.train.model_copy(update={"epochs": asked.epochs})})
        text = texts.read(name, rows=asked.train, held=asked.requests, seed=1)
        trained[name] = models.adapter_of(text, settings, folder)
        most = params.adapter(name).max_new_tokens
        questions[name] = [Asked(name, text.system, row.question, most) for row in text.held]
    mixed = [questions[ADAPTERS[i % 2]][i // 2 % len(questions[ADAPTERS[i % 2]])] for i in range(asked.requests)]
    second = again(trained["support"], scratch / "support-v2")
    versions = {"support": [trained["support"], second], "orders": [trained["orders"]]}
    names = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "data/prompts").iterdir())]
    files = story.files_of(["dvc.yaml", *names, *(f"out/{name}/verdict.json" for name in ADAPTERS)])
    space = init(scratch / "ws", files={**files, "params.yaml": story.params_with(ADAPTERS)})
    promotions(space, versions, folder)
    whole = {name: answering.merged(folder, path, scratch / f"merged-{name}") for name, path in trained.items()}

    found: dict[str, Any] = {str(clients): {} for clients in asked.clients}
    said: dict[str, list[str | None]] = {}

    def measure(arm: str, ask: Ask) -> None:
        load(ask, mixed[: 2 * len(ADAPTERS)], 1)  # what is only made once
        for clients in asked.clients:
            print(f"{arm}: {len(mixed)} requests, {clients} at once", file=sys.stderr, flush=True)
            rounds = [load(ask, mixed, clients) for _ in range(asked.rounds)]
            given, took = min(rounds, key=lambda one: one[1])
            said[arm] = [one.text for one in given]
            found[str(clients)][arm] = told(given, took)

    with answering.transformers_serve(whole, scratch / "transformers.log") as ask:
        measure("transformers_serve", ask)
    measure("loop", answering.loop(whole))
    with answering.door(space) as ask:
        measure("ours", ask)
        digests = {f"support-v{i}": digest_of(path) for i, path in enumerate(versions["support"], 1)}
        most = max(asked.clients)
        print(f"ours: {asked.swap_seconds:g} s of load, a swap every {EVERY:g} s", file=sys.stderr, flush=True)
        during = swapped(ask, space, mixed, most, asked.swap_seconds, list(digests.values()))
    digests["orders-v1"] = digest_of(trained["orders"])
    answered = [one for one in during.given if one.text is not None]
    for arms in found.values():
        others = [arms["transformers_serve"]["rps"], arms["loop"]["rps"]]
        arms["times"] = round(arms["ours"]["rps"] / max(others), 2)
    return {
        "clients": found,
        "same": {
            arm: round(sum(a == b for a, b in zip(texts_, said["ours"], strict=True)) / len(texts_), 4)
            for arm, texts_ in said.items()
        },
        "swap": {
            "requests": len(during.given),
            "swaps": during.swaps,
            "failed": len(during.given) - len(answered),
            "wrong_version": sum(digests.get(one.version) != one.digest for one in answered),
            "versions": sorted({one.version for one in answered}),
            "p99": round(quantile([one.seconds for one in during.given], 0.99), 3),
            "calm_p99": found[str(most)]["ours"]["p99"],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=48, help="of each arm at each number of clients")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--swap-seconds", type=float, default=60.0)
    parser.add_argument("--train", type=int, default=200, help="rows that each adapter learns")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1, help="the fastest of so many counts")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if min(asked.requests, asked.train, asked.epochs, asked.rounds, *asked.clients) < 1 or asked.swap_seconds < 2 * EVERY:
        parser.error(
            f"--requests, --clients, --train, --epochs and --rounds are at least 1, --swap-seconds at least {2 * EVERY:g}"
        )
    quiet.libraries()
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as scratch:
        found = measured(asked, Path(scratch))
    if asked.json:
        print(json.dumps({"schema": 1, **found}, indent=2))
        return
    for clients, arms in found["clients"].items():
        for arm in ("ours", "transformers_serve", "loop"):
            one = arms[arm]
            print(
                f"{clients} clients, {arm}: {one['rps']:.2f} requests a second, p50 {one['p50']:.2f} s, "
                f"p99 {one['p99']:.2f} s, {one['failed']} failed, {found['same'][arm]:.0%} the same answers"
            )
        print(f"{clients} clients: ours answers {arms['times']:.1f} x as many as the better of the two")
    swaps = found["swap"]
    print(
        f"{swaps['swaps']} swaps under load: {swaps['requests']} requests, {swaps['failed']} failed, "
        f"{swaps['wrong_version']} of a wrong version, p99 {swaps['p99']:.2f} s (calm {swaps['calm_p99']:.2f} s)"
    )


if __name__ == "__main__":
    main()
