"""How many human examples are enough, and does synthesis lower the need for them?

    python benchmarks/learning_curve.py [--data DIR] [--seeds 1] [--json] [--page]

16 intents of Banking77 (sorted, shuffled by the seed), nested training rows, even over the intents; accuracy on rows of
test.csv after 0, 50, 100, 200 and 500 human examples, from 50 on with and without synthetic ones (the base taught in reverse
on the same rows, filtered as in production), beside a regression on the same rows. Each run is a line of the results file; a
run that is there already is not made again, so an interrupted call goes on where it was. --page writes docs/learning-curve.md
and its picture from what is there.

Example: python benchmarks/learning_curve.py --seeds 3 --page
"""

import argparse
import contextlib
import csv
import json
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from retrain import base, prompts, regression, synthesize, synthetic_filters, train  # noqa: E402
from retrain import params as params_  # noqa: E402
from retrain.errors import DataError, RetrainError  # noqa: E402
from retrain.records import Example, Message, dumps, read_jsonl, rows_digest, text_digest, write_text  # noqa: E402

INTENTS, POINTS, ADAPTER = 16, (0, 50, 100, 200, 500), "curve"
NAMES = {("adapter", False): "adapter", ("adapter", True): "adapter, with synthesis",
         ("regression", False): "regression", ("regression", True): "regression, with synthesis"}  # fmt: skip


def read(path: Path) -> dict[str, list[str]]:
    """Texts by intent, each once, in the file's order; DataError where it is no such CSV."""
    if not path.exists():
        raise DataError(f"{path} does not exist: --data names a folder with train.csv and test.csv (columns text,category)")
    found: dict[str, dict[str, None]] = defaultdict(dict)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if not {"text", "category"} <= set(reader.fieldnames or ()):
            raise DataError(f"{path} has columns {reader.fieldnames}, must have text and category")
        for row in reader:
            if (row["text"] or "").strip() and (row["category"] or "").strip():
                found[row["category"].strip()].setdefault(row["text"].strip())
    return {label: list(texts) for label, texts in found.items()}


def even(texts: dict[str, list[str]], labels: Sequence[str], most: int, source: str) -> list[Example]:
    """At most so many rows, one of each label in turn: the first n of them are the same whatever `most` is."""
    rows = []
    for turn in range(max((len(texts.get(label, ())) for label in labels), default=0)):
        for label in labels:
            if turn < len(texts.get(label, ())):
                rows.append(Example.of(texts[label][turn], label, source=source))
    return rows[:most]


def split(data: Path, seed: int, held: int, points: Sequence[int]) -> tuple[list[str], list[Example], list[Example]]:
    """(intents, rows that train, held-out rows) of a seed."""
    texts, test = read(data / "train.csv"), read(data / "test.csv")
    rng, names = random.Random(seed), sorted(set(texts) & set(test))
    rng.shuffle(names)
    labels = sorted(names[:INTENTS])
    for label in labels:
        rng.shuffle(texts[label])
        rng.shuffle(test[label])
    judges = even(test, labels, held, "golden")
    keys = {row.key for row in judges}
    free = {
        label: [text for text in texts[label] if Example.of(text, label, source="seed").key not in keys] for label in labels
    }
    rows = even(free, labels, max(points), "seed")
    if len(labels) < 2 or len(rows) < max(points) or not judges:
        raise DataError(
            f"{data} gives {len(labels)} intents, {len(rows)} rows that train ({max(points)} are needed) "
            f"and {len(judges)} held out"
        )
    return labels, rows, judges


class Runs:
    """The runs of one seed: their settings, and the folder they work in."""

    def __init__(self, params: params_.Params, data: Path, seed: int, held: int, points: Sequence[int], work: Path) -> None:
        self.labels, self.rows, self.held = split(data, seed, held, points)
        spec = next(iter(params.adapters.values())).model_copy(
            update={
                "labels": tuple(self.labels),
                "override": {},
                "prompt": "data/prompts/support.txt",
                "task": "classification",
            }
        )
        self.params = params.model_copy(update={"seed": seed, "adapters": {ADAPTER: spec}})
        self.work, self.seed, self.spec = work, seed, spec
        self.told = [
            params.bases[spec.base].model_dump(mode="json"),
            prompts.read_prompt(Path(spec.prompt)),
            params.train.model_dump(mode="json"),
            synthesize.recipe(self.params, ADAPTER),
        ]

    def settings(self, human: int) -> str:
        """What decides a point: that of fewer rows stays as it is when a larger one is asked for."""
        return text_digest(dumps([self.told, rows_digest(self.rows[:human]), rows_digest(self.held)], sort_keys=True))[:16]

    @property
    def base(self) -> Path:
        """The unpacked base, made once."""
        spec = self.params.bases[self.spec.base]
        folder = self.work / "base" / text_digest(dumps(spec.model_dump(mode="json")))[:12]
        if not folder.exists():
            base.make(self.spec.base, spec, folder)
        return folder

    def one(self, human: int, synthetic: bool) -> dict[str, Any]:
        """One point: accuracy (0 to 1) of the adapter and of the regression; without rows, of the base alone."""
        began, rows = time.monotonic(), self.rows[:human]
        told: dict[str, Any] = {"settings": self.settings(human), "seed": self.seed, "human": human, "synthesis": synthetic}
        scratch = self.work / f"{self.seed}-{human}-{int(synthetic)}"
        if synthetic:
            more, rejected = self._written(rows, scratch / "reverse")
            rows = [*rows, *more]
            told |= {"synthetic": len(more), "rejected": rejected}
        folder = None
        if rows:
            folder = scratch / "adapter"
            train.train(rows, ADAPTER, self.params, self.base, folder, scratch / "log.jsonl", home=scratch)
            told["regression"] = self._share(regression.answers(rows, [row.question for row in self.held], seed=self.seed))
        told["adapter"] = self._share(self._asked(folder))
        return {**told, "held": len(self.held), "intents": len(self.labels), "seconds": round(time.monotonic() - began)}

    def _written(self, rows: list[Example], scratch: Path) -> tuple[list[Example], dict[str, int]]:
        rules, each = self.params.synthesize, -(-len(rows) // len(self.labels))
        wanted = synthesize.wanted_of(rows, self.labels, round(each * rules.tries))
        made = synthesize.write_reverse(rows, wanted, ADAPTER, self.params, self.base, scratch)
        found = synthetic_filters.sift(
            made, human=rows, suites=self.held, labels=self.labels, rules=rules, rows=each, seed=self.seed
        )
        return found.kept, {name: len(gone) for name, gone in found.rejected.items()}

    def _asked(self, folder: Path | None) -> list[str]:
        from retrain.generate import Model

        model = Model(self.base, device=self.params.train.device, adapter=folder)
        template = model.template(prompts.read_prompt(Path(self.spec.prompt)), self.params.train.max_length)
        questions = [(Message(role="user", content=row.question),) for row in self.held]
        found = model.answers(
            questions, template=template, labels=self.labels, max_new_tokens=16, batch=self.params.evaluate.batch
        )
        return [answer.text for answer in found]

    def _share(self, answers: Sequence[str]) -> float:
        return round(sum(a == row.answer for a, row in zip(answers, self.held, strict=True)) / len(self.held), 4)


def table(rows: Sequence[dict[str, Any]]) -> list[tuple[int, str, float, int]]:
    """(human examples, what was taught, mean accuracy over the seeds, how many seeds)."""
    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    for row in rows:
        for kind in ("adapter", "regression"):
            if row.get(kind) is not None:
                found[row["human"], NAMES[kind, row["synthesis"]]].append(row[kind])
    return [(human, name, sum(got) / len(got), len(got)) for (human, name), got in sorted(found.items())]


def page(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """docs/learning-curve.md and .svg: what was measured, whatever it says."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    got = {(human, name): (share, n) for human, name, share, n in table(rows)}
    points, names = sorted({human for human, _ in got}), list(NAMES.values())
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name in names:
        line = [(human, got[human, name][0]) for human in points if (human, name) in got]
        axes.plot([human for human, _ in line], [share for _, share in line], "o--" if "with" in name else "o-", label=name)
    axes.set(xlabel="human examples", ylabel="accuracy on held-out rows", ylim=(0, 1))
    axes.legend()
    figure.savefig(folder / "learning-curve.svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    cells = [[f"{got[h, n][0]:.1%} ({got[h, n][1]})" if (h, n) in got else "" for n in names] for h in points]
    lines = [
        "# How much is enough",
        f"Accuracy on {rows[0]['held']} held-out rows, {rows[0]['intents']} intents; in brackets the number of seeds.",
        "Measured by `benchmarks/learning_curve.py --page`, which is where the numbers and the picture come from.",
        "",
        "| human examples | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
        *(f"| {human} | " + " | ".join(line) + " |" for human, line in zip(points, cells, strict=True)),
        "",
        "![accuracy over human examples](learning-curve.svg)",
    ]
    write_text(folder / "learning-curve.md", "\n".join(lines) + "\n")


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "banking77")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 1 on")
    parser.add_argument("--held", type=int, default=320, help="held-out rows")
    parser.add_argument("--points", type=int, nargs="+", default=list(POINTS), help="human examples")
    parser.add_argument(
        "--work", type=Path, default=ROOT / ".retrain" / "learning_curve", help="results.jsonl and what is made"
    )
    parser.add_argument("--set", action="append", default=[], help="override a parameter: --set train.epochs=2")
    parser.add_argument("--page", action="store_true", help="write docs/learning-curve.md and .svg")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(given)
    if asked.seeds < 1 or asked.held < 1 or min(asked.points) < 0:
        parser.error("--seeds and --held are at least 1, --points at least 0")
    data, work, docs = asked.data.resolve(), asked.work.resolve(), asked.docs.resolve()
    os.chdir(ROOT)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what trainings tell: --json prints one object
            rows = run(params_.load(ROOT, asked.set), data, asked, work)
    except RetrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if asked.page:
        page(rows, docs)
    if asked.json:
        print(json.dumps({"schema": 1, "runs": rows}, indent=2))
    else:
        for human, name, share, n in table(rows):
            print(f"{human:5} human examples, {name:27} {share:6.1%} ({n} seeds)")
    return 0


def run(params: params_.Params, data: Path, asked: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Every run that is asked for, from the results file where it is there; a line is appended as soon as it is known."""
    results = work / "results.jsonl"
    known = {_key(row): row for row in read_jsonl(results)} if results.exists() else {}
    found = []
    for seed in range(1, asked.seeds + 1):
        runs = Runs(params, data, seed, asked.held, asked.points, work)
        for human in sorted(set(asked.points)):
            for synthetic in (False, True) if human else (False,):
                key = (runs.settings(human), seed, human, synthetic)
                if key not in known:
                    known[key] = runs.one(human, synthetic)
                    work.mkdir(parents=True, exist_ok=True)
                    with results.open("a", encoding="utf-8") as file:
                        file.write(dumps(known[key]) + "\n")
                    print(f"seed {seed}, {human} human, synthesis {synthetic}: {known[key]}", file=sys.stderr, flush=True)
                found.append(known[key])
    return found


def _key(row: dict[str, Any]) -> tuple[str, int, int, bool]:
    return row["settings"], row["seed"], row["human"], row["synthesis"]


if __name__ == "__main__":
    sys.exit(main())
