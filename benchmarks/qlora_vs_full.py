"""Full fine-tuning, LoRA and QLoRA of the same base on the same rows and budget of steps: quality, forgetting, size, time.

    python benchmarks/qlora_vs_full.py [--data DIR] [--orders] [--seeds 3] [--epochs 5] [--budget MINUTES] [--json]

Each method's learning rate is chosen once, among three, on validation rows of `support`. Data sets: `support`, with --data the
first 16 intents of a folder with train.csv and test.csv, with --orders the adapter `orders`. `exact`: share of held-out rows
that are answered rightly. `forgot`: share of the general questions of QUESTIONS that the base answers rightly and the trained
model does not. `peak_mb`: weights, gradients and moments, counted; activations come on top. Each run is a line of
--work/results.jsonl as soon as it is known; one that is there is not made again: a call
that was cut off goes on where it was; --budget ends a call after the run that crosses it, and says what is missing.

Example: python benchmarks/qlora_vs_full.py --data ../shared/data/banking77 --json
"""

import argparse
import json
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parts import models, texts  # noqa: E402

from retrain import base, prompts, quiet, steps, train  # noqa: E402
from retrain import params as params_  # noqa: E402
from retrain.answers import right  # noqa: E402
from retrain.checkpoints import Checkpoints  # noqa: E402
from retrain.generate import Model  # noqa: E402
from retrain.records import Example, Message, dumps, read_jsonl, text_digest  # noqa: E402

RATES = {"full": (1e-5, 3e-5, 1e-4), "lora": (2e-4, 5e-4, 1e-3), "qlora": (2e-4, 5e-4, 1e-3)}
NEVER = 10**9  # steps: nothing is saved while it is timed
CHOSEN_ON, VALIDATED = "support", 60  # rows that choose a rate and judge nothing
QUESTIONS = (
    ("What is the capital of France?", "paris"), ("What is the capital of Italy?", "rome"),
    ("What is the capital of Japan?", "tokyo"), ("What is the capital of Germany?", "berlin"),
    ("What is the capital of Spain?", "madrid"), ("What is the capital of Russia?", "moscow"),
    ("What is the capital of Egypt?", "cairo"), ("What is the capital of England?", "london"),
    ("What colour is the sky on a clear day?", "blue"), ("What colour is grass?", "green"),
    ("How many days are there in a week?", "seven|7"), ("How many legs does a spider have?", "eight|8"),
    ("What is two plus two?", "four|4"), ("Which planet do we live on?", "earth"),
    ("What is the largest ocean?", "pacific"), ("Who wrote Romeo and Juliet?", "shakespeare"),
    ("What is frozen water called?", "ice"), ("Which animal barks?", "dog"),
    ("What is the opposite of hot?", "cold"), ("Which gas do people need to breathe?", "oxygen"),
)  # fmt: skip


class Bench:
    """The base, its settings, and what has been measured."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.params = asked, params_.load(ROOT)
        self.folder = models.smollm2()
        self.results = asked.work / "results.jsonl"
        asked.work.mkdir(parents=True, exist_ok=True)
        self.known = {row["key"]: row for row in read_jsonl(self.results)} if self.results.exists() else {}
        self.began = time.monotonic()
        self.left: list[str] = []

    def run(self, what: str, data: str, method: str, rate: float, seed: int) -> dict[str, Any] | None:
        """One run, from the results where it is there; None once the budget of time is spent."""
        asked = self.asked
        told = {"what": what, "data": Path(data).name, "method": method, "rate": rate, "seed": seed}
        key = text_digest(dumps([told, asked.rows, asked.held, asked.epochs, base.digest(self.folder)]))[:16]
        if key not in self.known:
            if asked.budget and time.monotonic() - self.began > asked.budget * 60:
                self.left.append(f"{told['data']} {method} {rate:g} seed {seed}")
                return None
            self.known[key] = {"key": key, **told, **self._measured(what, data, method, rate, seed)}
            with self.results.open("a", encoding="utf-8") as file:
                file.write(dumps(self.known[key]) + "\n")
            print(dumps(self.known[key]), file=sys.stderr, flush=True)
        return self.known[key]

    def _measured(self, what: str, data: str, method: str, rate: float, seed: int) -> dict[str, Any]:
        text = texts.read(data, rows=self.asked.rows + VALIDATED, held=self.asked.held, seed=seed)
        rows, checked = text.rows[VALIDATED:], text.rows[:VALIDATED]
        began = time.monotonic()
        changed = {"epochs": self.asked.epochs, "learning_rate": rate, "loraplus": 1.0, "checkpoint_steps": NEVER}
        settings = self.params.of(text.adapter).train.model_copy(update=changed)
        model, trained, memory = self._trained(rows, text, settings, method, seed)
        seconds = time.monotonic() - began
        judges = checked if what == "rate" else text.held
        found = {"exact": self._exact(model, text, judges), "seconds": round(seconds)}
        if what == "rate":
            return found
        return {**found, "forgot": self._forgot(model), "trainable_share": round(trained, 5), "peak_mb": memory}

    def _trained(
        self, rows: Sequence[Example], text: texts.Text, settings: params_.Train, method: str, seed: int
    ) -> tuple[Model, float, int]:
        """(model, share of weights that trained, memory in MB as `peak_mb` has it)."""
        import torch

        kept = {"full": "fp32", "lora": "auto", "qlora": "nf4"}[method]
        how = {"method": "qlora" if method == "qlora" else "lora", "base_residency": kept}
        asker = Model(self.folder, device="cpu", train=how)
        model = asker.model
        torch.manual_seed(seed)
        if method == "full":
            model.requires_grad_(True)
        else:
            model = train.prepare_model(model, settings.model_copy(update=how), seed, "cpu")
        data = train.tokenise(rows, asker.template(text.system, settings.max_length))
        with tempfile.TemporaryDirectory() as scratch:
            steps.run(
                model, data, [row.id for row in rows], settings, seed=seed, pad=asker.tokenizer.pad_token_id, device="cpu",
                log=Path(scratch) / "log", saved=Checkpoints(Path(scratch) / "none"), ending=threading.Event(),
                at_once=settings.batch,
            )  # fmt: skip
        asker.model = model.eval()
        counts = [(p.numel(), p.element_size(), p.requires_grad) for p in model.parameters()]
        trained = sum(n for n, _, learns in counts if learns)
        held = sum(n * (size + 3 * size * learns) for n, size, learns in counts)  # gradient and two moments
        whole = sum(math.prod(shape) for shape in base.shapes(self.folder).values())  # NF4 packs two weights into a byte
        return asker, trained / (whole if method == "full" else whole + trained), round(held / 1e6)

    def _exact(self, model: Model, text: texts.Text, rows: Sequence[Example]) -> float:
        params = self.params.of(text.adapter)
        answers = model.answers(
            [row.messages[:-1] for row in rows], template=model.template(text.system, params.train.max_length),
            labels=text.labels, max_new_tokens=params.adapter(text.adapter).max_new_tokens, batch=params.evaluate.batch,
        )  # fmt: skip
        schema = None if text.labels else {"type": "object"}
        return round(sum(bool(right(a.text, row.answer, schema)) for a, row in zip(answers, rows, strict=True)) / len(rows), 4)

    def _general(self, model: Model) -> list[bool]:
        """Which of the general questions it answers rightly."""
        template = prompts.Template(model.tokenizer, "You are a helpful assistant.", 256)
        asked = [(Message(role="user", content=question),) for question, _ in QUESTIONS]
        answers = model.answers(asked, template=template, labels=(), max_new_tokens=24, batch=len(QUESTIONS))
        return [
            any(word in answer.text.lower() for word in words.split("|"))
            for answer, (_, words) in zip(answers, QUESTIONS, strict=True)
        ]

    def _forgot(self, model: Model) -> float:
        path = self.asked.work / f"base-knew-{base.digest(self.folder)[:12]}.json"
        if not path.exists():
            path.write_text(json.dumps(self._general(Model(self.folder, device="cpu"))))
        knew = json.loads(path.read_text())
        now = self._general(model)
        return round(sum(k and not n for k, n in zip(knew, now, strict=True)) / max(1, sum(knew)), 4)

    def rate(self, method: str) -> float | None:
        """The learning rate whose run is best on the validation rows."""
        rates = self.asked.rates.get(method) or RATES[method]
        if len(rates) == 1:
            return rates[0]
        tried = {rate: self.run("rate", CHOSEN_ON, method, rate, 1) for rate in rates}
        if any(row is None for row in tried.values()):
            return None
        return max(tried, key=lambda rate: tried[rate]["exact"])  # type: ignore[index]


def compare(bench: Bench, datasets: Sequence[str], methods: Sequence[str], seeds: int) -> dict[str, Any]:
    """{dataset: {method: {exact: [per seed], forgot, trainable_share, peak_mb, seconds}}} of the runs that are known."""
    found: dict[str, Any] = {}
    rates = {method: bench.rate(method) for method in methods}
    for data in datasets:
        for method, rate in rates.items():
            runs = [bench.run("judge", data, method, rate, seed) for seed in range(1, seeds + 1)] if rate else []
            made = [row for row in runs if row]
            if made:
                mean = {
                    name: round(sum(row[name] for row in made) / len(made), 4)
                    for name in ("forgot", "trainable_share", "peak_mb", "seconds")
                }
                told = {"exact": [row["exact"] for row in made], **mean, "learning_rate": rate}
                found.setdefault(Path(data).name, {})[method] = told
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with train.csv and test.csv, beside `support`")
    parser.add_argument("--orders", action="store_true", help="the adapter `orders` too")
    parser.add_argument("--methods", nargs="+", choices=tuple(RATES), default=list(RATES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--held", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rate", type=float, help="one for all methods: none is chosen")
    parser.add_argument("--budget", type=float, default=10.0, help="minutes after which no further run begins; 0: none")
    parser.add_argument("--work", type=Path, default=ROOT / ".retrain" / "qlora_vs_full")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if min(asked.seeds, asked.rows, asked.held, asked.epochs) < 1 or asked.budget < 0:
        parser.error("--seeds, --rows, --held and --epochs are at least 1, --budget at least 0")
    asked.rates = {method: (asked.rate,) for method in RATES} if asked.rate else {}
    asked.work = asked.work.resolve()
    datasets = [CHOSEN_ON, *([str(asked.data.resolve())] if asked.data else []), *(["orders"] if asked.orders else [])]
    os.chdir(ROOT)
    quiet.libraries()
    bench = Bench(asked)
    found = compare(bench, datasets, asked.methods, asked.seeds)
    if asked.json:
        print(json.dumps({"schema": 1, **found}, indent=2))
    else:
        for name, methods in found.items():
            for method, row in methods.items():
                shown = ", ".join(f"{share:.1%}" for share in row["exact"])
                print(
                    f"{name:12} {method:6} exact {shown}; forgot {row['forgot']:.1%}; {row['trainable_share']:.2%} trained; "
                    f"{row['peak_mb']:.0f} MB; {row['seconds']:.0f} s"
                )
    if not found:
        print("nothing is known yet: the budget went into choosing the rates", file=sys.stderr)
    if bench.left:
        print(f"not run yet, call again: {'; '.join(bench.left)}", file=sys.stderr)


if __name__ == "__main__":
    main()
