"""Training speed, ours beside TRL's and others', on the same rows, seed, rank and learning rate.

    python benchmarks/train_throughput.py [--device cpu|cuda] [--shape NAME] [--data NAME|DIR]
        [--arms A,E,F] [--append FILE] [--json]

  A  TRL SFTTrainer as it comes, with peft and bitsandbytes (NF4; gradient checkpointing on)
  B  TRL tuned: packed, no checkpointing        C  Unsloth, where it installs        D  B with Liger layers (Triton: a GPU)
  E  ours, base in NF4                          F  ours, base dequantised once       G  plain LoRA on a bf16 base, by peft

Each arm is a process of its own, in turns; --rounds repeats the turns, and the best round of an arm counts (what runs beside
it only slows it down). Each result is appended to --append as soon as it is known, and an arm that is there already is not run
again. `mfu` is 4 N FLOPs a non-padding token (N without embeddings) over the peak of a matrix product at the model's own sizes
in the dtype that trained, measured before and after in the same process; `mfu_computed` counts the tokens that really went
through the model: ours computes what the rows of a batch share once. `loss` is that of held-out completions after all rows.

--shape: smollm2 (trained weights), or mistral-7b and llama-3-8b with random weights. --data: support, orders, a folder with
train.csv and test.csv (text,category), or full2048, full4096, lognormal: random tokens, for speed alone.

Example: python benchmarks/train_throughput.py --data ../shared/data/banking77 --arms A,F --threads 1
The GPU figures: python benchmarks/train_throughput.py --device cuda --shape mistral-7b --data lognormal --append F.jsonl
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parts.arms import RUN, NotHere  # noqa: E402
from parts.work import SHAPES, Work  # noqa: E402

from retrain import quiet  # noqa: E402
from retrain.records import dumps  # noqa: E402

ARMS = "AEFBCDG"  # in this order: what matters most first, so that an interrupted run leaves it


def one(arm: str, asked: argparse.Namespace) -> dict[str, Any]:
    """One arm in this process; what it measured, or why it cannot run here."""
    import torch

    quiet.libraries()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    work = Work(asked)
    told = {"arm": arm, "device": asked.device, "shape": asked.shape, "data": Path(asked.data).name, "rows": len(work.data),
            "asked": call(asked), "epochs": asked.epochs,
            "batch": work.settings.batch, "threads": torch.get_num_threads()}  # fmt: skip
    try:
        made = RUN[arm](work)
    except NotHere as error:
        return {**told, "not_here": str(error)}
    clock, flops = made["clock"], 4 * work.parameters
    wall, cpu = clock.seconds(clock.wall), clock.seconds(clock.cpu)
    peak = work.peak(made["dtype"])
    # one thread on a busy machine: what it computed for, not what it waited
    seconds = cpu if asked.device == "cpu" and told["threads"] == 1 else wall
    memory = torch.cuda.max_memory_allocated() if asked.device == "cuda" else _resident()
    return {
        **told,
        "tokens_per_second": round(work.tokens / seconds, 1),
        "supervised_per_second": round(work.supervised / seconds, 1),
        "wall_tokens_per_second": round(work.tokens / wall, 1),
        "mfu": round(flops * work.tokens / seconds / peak, 4),
        "mfu_computed": round(flops * made["computed"] / seconds / peak, 4),
        "peak_gflops": round(peak / 1e9, 1),
        "dtype": str(made["dtype"]).removeprefix("torch."),
        "peak_memory_mb": round(memory / 1e6),
        "loss": work.loss(made["model"]),
    }


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- all arms, in turns


def turns(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """The best round of each arm; what --append holds of this very call is not run again."""
    found: list[dict[str, Any]] = []
    if asked.append and asked.append.exists():
        known = [json.loads(line) for line in asked.append.read_text("utf-8").splitlines()]
        found = [row for row in known if row["asked"] == call(asked) and "not_here" not in row]
    for turn in range(asked.rounds):
        for arm in sorted(asked.arms, key=ARMS.index):
            if sum(row["arm"] == arm for row in found) > turn:
                continue
            found.append(child(arm))
            print(dumps(found[-1]), file=sys.stderr, flush=True)
            if asked.append:
                with asked.append.open("a", encoding="utf-8") as file:
                    file.write(dumps(found[-1]) + "\n")
    ran = [row for row in found if row["arm"] in asked.arms]
    best = {arm: max((r for r in ran if r["arm"] == arm), key=lambda r: r.get("tokens_per_second", 0)) for arm in asked.arms}
    return [best[arm] for arm in sorted(best)]


def call(asked: argparse.Namespace) -> list[Any]:
    """What two calls must share for a result of one to be the other's."""
    data = Path(asked.data).name
    return [asked.device, asked.shape, data, asked.rows, asked.epochs, asked.seed, asked.threads]


def child(arm: str) -> dict[str, Any]:
    env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--one", arm], env=env, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"arm"')]
    if done.returncode or not lines:
        raise SystemExit(f"arm {arm} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return dict(json.loads(lines[-1]))


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    first = next((row for row in rows if row["arm"] == "A" and "loss" in row), None)
    lines = [f"{'arm':4}{'tokens/s':>10}{'x A':>7}{'supervised':>12}{'MFU':>7}{'computed':>10}{'MB':>7}{'loss':>9}  dtype"]
    for row in rows:
        if "not_here" in row:
            lines.append(f"{row['arm']:4}{row['not_here']}")
            continue
        ratio = f"{row['tokens_per_second'] / first['tokens_per_second']:.2f}" if first else ""
        loss = f"{row['loss']:.4f}" if row["loss"] is not None else "-"
        lines.append(
            f"{row['arm']:4}{row['tokens_per_second']:10.0f}{ratio:>7}{row['supervised_per_second']:12.0f}{row['mfu']:7.0%}"
            f"{row['mfu_computed']:10.0%}{row['peak_memory_mb']:7}{loss:>9}  {row['dtype']}"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=("smollm2", *SHAPES), default="smollm2")
    parser.add_argument("--data", default="support")
    parser.add_argument("--arms", default=ARMS, type=lambda text: text.replace(",", ""))
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of each arm; default: all cores")
    parser.add_argument("--append", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if set(asked.arms) - set(ARMS) or not asked.arms or min(asked.rows, asked.epochs, asked.rounds) < 1:
        parser.error(f"--arms is some of {','.join(sorted(ARMS))}; --rows, --epochs and --rounds are at least 1")
    if asked.one:
        print(dumps(one(asked.one, asked)))
        return
    rows = turns(asked)
    print(json.dumps({"schema": 1, "arms": rows}, indent=2) if asked.json else "\n".join(table(rows)))


if __name__ == "__main__":
    main()
