"""Training speed on this machine: tokens a second, with OpenMP threads that wait in several ways, quiet and beside other work.

    python benchmarks/training_speed.py [--rows 64]

Each line is a process of its own on the first rows of data/seed/support.jsonl; the same seed, so the same arithmetic.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

POLICIES: dict[str, dict[str, str]] = {
    "as it is": {},
    "spin 30000": {"GOMP_SPINCOUNT": "30000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--one", action="store_true", help="train once and print the numbers as JSON")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    if arguments.one:
        print(json.dumps(once(arguments.rows)))
        return
    print(f"{os.cpu_count()} cores; {arguments.rows} rows, 2 epochs\n{'threads wait':14}{'beside it':14}tokens/s")
    for busy in (False, True):
        for policy, setting in POLICIES.items():
            with_load = beside() if busy else None
            try:
                found = child(arguments.rows, setting)
            finally:
                if with_load:
                    with_load.terminate()
            print(f"{policy:14}{'one busy core' if busy else 'nothing':14}{found['tokens_per_second']:8.0f}", flush=True)


def child(rows: int, setting: dict[str, str]) -> dict[str, float]:
    env = {**os.environ, **setting}
    command = [sys.executable, __file__, "--one", "--rows", str(rows)]
    return dict(json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout))


def spin() -> None:
    while True:
        pass


def beside() -> multiprocessing.Process:
    process = multiprocessing.Process(target=spin, daemon=True)
    process.start()
    return process


def once(rows: int) -> dict[str, float]:
    """Train on the first rows and count: question and answer tokens of all steps over the seconds of the loop."""
    from retrain import base, params, prompts, train
    from retrain.records import read_examples

    folder = ROOT / "out" / "base" / "smollm2"
    settings = params.load(ROOT, ["train.epochs=2"]).of("support")
    if not folder.exists():
        base.make("smollm2", settings.bases["smollm2"], folder)
    examples = read_examples(ROOT / "data" / "seed" / "support.jsonl")[:rows]
    _, tokenizer = base.load(folder, "cpu")
    template = prompts.Template(tokenizer, prompts.read_prompt(ROOT / "data/prompts/support.txt"), 256)
    tokens = 2 * sum(len(question) + len(answer) for question, answer in train.tokenise(examples, template))
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log.jsonl"
        train.train(examples, "support", settings, folder, Path(scratch) / "adapter", log, home=Path(scratch))
        times = [json.loads(line)["time"] / 1000 for line in log.read_text().splitlines()]
    share = (len(times) - 1) / len(times)  # the first step's start is not in the log
    return {"tokens_per_second": tokens * share / (times[-1] - times[0])}


if __name__ == "__main__":
    main()
