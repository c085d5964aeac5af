"""Stage `evaluate`: candidate, champion and the simpler alternatives answer the suites -> predictions and metrics.

An adapter is held to the labels it was trained with, as it serves; the base arms to today's. Answers are cached by what
decides them (bytes, template, labels, decoding, precision, all messages as sent), so no arm is asked the same suite twice on
one machine. A suite is asked whole or not at all: in bf16 the rows beside a row in its batch may tip an answer, and a verdict
must not depend on what was asked before it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from retrain import base, generate, judging, preference, process, prompts, regression, train
from retrain import params as params_
from retrain.answers import SCHEMA
from retrain.clusters import independent, joins
from retrain.contamination import Likeness, Trained
from retrain.errors import DataError
from retrain.generate import Model
from retrain.records import (
    Example,
    dumps,
    file_digest,
    read_examples,
    read_json,
    text_digest,
    unit_hash,
    write_json,
    write_jsonl,
    write_text,
)
from retrain.scoring import Judge, entry, faults

SUITES = ("golden", "audit", "repair", "retained")

SHOWN = 2048  # tokens of labels and examples in a prompt: longer examples are left out, the question never is


class Said(str):
    """An answer; `cut`: it ended at the length limit."""

    cut: bool = False

    @classmethod
    def of(cls, text: str, cut: bool) -> "Said":
        said = cls(text)
        said.cut = cut
        return said


class Arms:
    """Asks one adapter's arms about rows; cache is a folder that any clone on this machine may share."""

    def __init__(self, adapter: str, params: params_.Params, cache: Path) -> None:
        self.adapter, self.params, self.cache = adapter, params, cache
        self.spec = params.adapter(adapter)
        self.base_folder = Path("out/base") / self.spec.base
        self._model: Model | None = None
        self._folder: Path | None = None
        self._base: Path | None = None  # on which the model is loaded

    def adapter_arm(self, folder: Path, rows: Sequence[Example], name: str) -> list[str]:
        run = read_json(folder / "run.json")
        with self._on(Path("out/base") / run["base"]):
            return self._ask(name, train.verify(folder), folder, rows, run["prompt"], run["labels"], run["max_length"])

    @contextmanager
    def _on(self, folder: Path) -> Iterator[None]:
        """An adapter answers on the base that it was trained on: not the candidate's, while a base is replaced."""
        if not folder.exists():
            raise DataError(f"{folder} is not here, on which an adapter that is asked was trained: `dvc pull {folder}`")
        candidates, self.base_folder = self.base_folder, folder
        try:
            yield
        finally:
            self.base_folder = candidates

    def base_arm(self, rows: Sequence[Example]) -> list[str]:
        digest, system = base.digest(self.base_folder), prompts.read_prompt(Path(self.spec.prompt))
        return self._ask("base", digest, None, rows, system, self.spec.labels, self.params.train.max_length)

    def prompted_arm(self, rows: Sequence[Example], shown: Sequence[Example]) -> list[str]:
        """The base with the labels and a few training examples in its prompt, as many as leave room for the question."""
        system = prompts.read_prompt(Path(self.spec.prompt))
        if self.spec.labels:
            system += "\nAnswer with one of: " + ", ".join(self.spec.labels) + "."
        examples = sorted(shown, key=lambda row: unit_hash(row.id, "shots"))[: self.params.evaluate.shots]
        tokenizer = base.tokenizer(self.base_folder)

        def tokens(text: str) -> int:
            return len(tokenizer(text, add_special_tokens=False)["input_ids"])

        for row in examples:
            more = f"{system}\n\n{row.question}\n=> {row.answer}"
            system = more if tokens(more) <= SHOWN else system
        digest, length = base.digest(self.base_folder), self.params.train.max_length + max(SHOWN, tokens(system))
        return self._ask("prompted", digest, None, rows, system, self.spec.labels, length)

    def _ask(
        self,
        name: str,
        digest: str,
        folder: Path | None,
        rows: Sequence[Example],
        system: str,
        labels: Sequence[str],
        length: int,
    ) -> list[str]:
        device = base.choose_device(self.params.train.device)
        decided = [digest, base.digest(self.base_folder), system, length, list(labels), self.spec.max_new_tokens]
        lies = generate.lies(self.base_folder, device, folder, self.params.train.model_dump())
        decided += ["text and cut, read in one line", self.params.evaluate.batch, lies.through_nf4, lies.kept]
        decided += [[_sent(row) for row in rows]]
        where = self.cache / f"{text_digest(dumps(decided))}.json"
        if not where.exists():
            from tqdm import tqdm

            model = self._loaded(lies, folder, device)
            with tqdm(total=len(rows), desc=f"ask {name}", unit="row", disable=None) as bar:
                answers = model.answers(
                    [row.messages[:-1] for row in rows],
                    template=model.template(system, length),
                    labels=labels,
                    max_new_tokens=self.spec.max_new_tokens,
                    batch=self.params.evaluate.batch,
                    tick=bar.update,
                )
            write_json(where, [[answer.text, answer.cut] for answer in answers])
        return [Said.of(text, cut) for text, cut in read_json(where)]

    def _loaded(self, lies: base.Residency, folder: Path | None, device: str) -> Model:
        """The one base of all arms, with this arm's adapter on it; loaded anew only where it is another, or must lie in memory
        otherwise."""
        if self._model is None or self._model.lies != lies or self._base != self.base_folder:
            self._model, self._base = None, self.base_folder
            self._model = Model(self.base_folder, device=device, adapter=folder, train=self.params.train.model_dump())
        elif folder != self._folder:
            self._model.use(folder)
        self._folder = folder
        return self._model


def _sent(row: Example) -> str:
    """Digest of the messages that a model gets: the normalised `row.key` would give "2 x 1,5" the answer to "2 x 1.5"."""
    return text_digest(dumps([[message.role, message.content] for message in row.messages[:-1]]))


def evaluate(adapter: str, params: params_.Params, cache: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(predictions, one a row of every suite; metrics)."""
    out, spec = Path("out") / adapter, params.adapter(adapter)
    candidate, champion = out / "adapter", Path("champion") / adapter
    serving = champion if (champion / "manifest.json").exists() else None
    rows = [(name, row) for name in SUITES for row in _suite(out / "suites" / f"{name}.jsonl")]
    if not rows:
        raise DataError(f"{out / 'suites'} holds no rows: give data/suites/{adapter}/golden.jsonl some")
    asker = _asker(params, spec, out)
    arms, trained = Arms(adapter, params, cache), read_examples(out / "data" / "train.jsonl")
    examples = [row for _, row in rows]
    like = Likeness.of(params.prepare.near, spec)
    joined = joins(examples, like.pairs(examples))
    out_of_it = _excluded(rows, [candidate, *([serving] if serving else [])], like)
    beside = _base_rows(rows, joined, out_of_it, params.evaluate.beside_rows)
    asked = beside if serving else _base_rows(rows, joined, out_of_it, params.evaluate.base_rows)
    everything = range(len(rows))
    answers = {"candidate": _by_suite(rows, everything, partial(arms.adapter_arm, candidate, name="candidate"))}
    if serving:
        answers["champion"] = _by_suite(rows, everything, partial(arms.adapter_arm, serving, name="champion"))
    answers["base"] = _by_suite(rows, asked, arms.base_arm)
    answers["prompted"] = _by_suite(rows, beside, partial(arms.prompted_arm, shown=trained))
    if spec.labels:
        answers["regression"] = dict(
            enumerate(regression.answers(trained, [row.question for row in examples], seed=params.seed))
        )
    system = prompts.read_prompt(Path(spec.prompt))
    judge = Judge(spec.task, read_json(out / "suites" / SCHEMA) if spec.output else None)
    labels = {arm: (read_json(champion / "run.json")["labels"] if arm == "champion" else spec.labels) for arm in answers}
    predictions = [
        _prediction(i, name, row, answers, judge, labels, why, spec.task, system) | {"joins": joined[i]}
        for i, ((name, row), why) in enumerate(zip(rows, out_of_it, strict=True))
    ]
    if asker:
        preference.mark(predictions, asker, params.gates.metric)
    digests = {"candidate": train.digest(candidate), "champion": train.digest(serving) if serving else None}
    hashes = {name: file_digest(path) for name in SUITES if (path := out / "suites" / f"{name}.jsonl").exists()}
    device = base.choose_device(params.train.device)
    on = base.where(device, generate.lies(arms.base_folder, device, candidate, {}))
    metrics = {"schema": 1, "adapter": adapter, **digests, "on": on, "hashes": hashes, "suites": summary(predictions)}
    return predictions, metrics


def _asker(params: params_.Params, spec: params_.Adapter, out: Path) -> preference.Asker | None:
    """The LLM judge, where params name one; before anything is answered, for its key may be missing."""
    if params.gates.judge is None:
        return None
    schema = read_json(out / "suites" / SCHEMA) if spec.output else None
    task = judging.task_of(prompts.read_prompt(Path(spec.prompt)), spec.labels, schema)
    return preference.Asker(params.gates.judge, task, process.cache("judged"))


def _suite(path: Path) -> list[Example]:
    return read_examples(path) if path.exists() else []


def _by_suite(
    rows: Sequence[tuple[str, Example]], chosen: Sequence[int], ask: Callable[[list[Example]], list[str]]
) -> dict[int, str]:
    """Index -> answer of the chosen rows, each suite asked by itself."""
    found: dict[int, str] = {}
    for name in SUITES:
        mine = [i for i in chosen if rows[i][0] == name]
        if mine:
            found |= zip(mine, ask([rows[i][1] for i in mine]), strict=True)
    return found


def _base_rows(
    rows: Sequence[tuple[str, Example]], joined: Sequence[Sequence[str]], out_of_it: Sequence[str | None], most: int
) -> list[int]:
    """Indices of at most so many rows of each suite, by hash, first those that enter the tests, last those that judge no arm
    (out_of_it says why); `retained` is asked of adapters only."""
    chosen: list[int] = []
    for name in ("golden", "audit", "repair"):
        mine = [i for i, (suite, _) in enumerate(rows) if suite == name]
        judging = [i for i in mine if out_of_it[i] is None]
        place = dict.fromkeys(judging, 1) | dict.fromkeys(independent(judging, of=lambda i: (rows[i][1].id, joined[i])), 0)
        chosen += sorted(sorted(mine, key=lambda i: (place.get(i, 2), unit_hash(rows[i][1].key, "base")))[:most])
    return chosen


def _excluded(rows: Sequence[tuple[str, Example]], adapters: Sequence[Path], like: Likeness) -> list[str | None]:
    """For each row why it judges no arm: it copies what an arm trained on, or its conversation trained one. `golden` always
    judges: `prepare` lets no copy of it train."""
    found: list[str | None] = [None] * len(rows)
    for adapter in adapters:
        told = Trained.read(adapter).reasons([row for _, row in rows], like)
        found = [before or why for before, why in zip(found, told, strict=True)]
    return [None if suite == "golden" else why for (suite, _), why in zip(rows, found, strict=True)]


def _prediction(
    i: int, suite: str, row: Example, answers: dict[str, dict[int, str]], judge: Judge, labels: dict[str, Any],
    excluded: str | None, task: str, system: str,
) -> dict[str, Any]:  # fmt: skip
    arms = {arm: entry(judge, given[i], row.answer, labels[arm]) for arm, given in answers.items() if i in given}
    for arm in arms if task == "generation" else ():
        said, parsed = answers[arm][i], arms[arm]["parsed"]
        arms[arm]["faults"] = faults(said, row.answer, row.asked, system, parsed=parsed, cut=getattr(said, "cut", False))
    return {
        "schema": 1,
        "suite": suite,
        "id": row.id,
        "question": row.question,
        "expected": row.answer,
        "slice": {"label": row.answer} if task == "classification" else {},
        "excluded": excluded,
        "arms": arms,
    }


def summary(predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Scores of every arm on every suite, over the rows that count."""
    suites = {}
    for name in SUITES:
        rows = [row for row in predictions if row["suite"] == name and row["excluded"] is None]
        arms = sorted({arm for row in rows for arm in row["arms"]})
        if rows:
            suites[name] = {
                "n": len(rows),
                "arms": {arm: _scores([r["arms"][arm] for r in rows if arm in r["arms"]]) for arm in arms},
            }
    return suites


def _scores(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    measured = [a for a in answers if a["right"] is not None]
    shares = {name: [float(a[name]) for a in measured] for name in ("right", "parsed")}
    for name in dict.fromkeys(name for a in answers for name in a.get("scores", ())):
        shares[name] = [a["scores"][name] for a in answers if a.get("scores", {}).get(name) is not None]
    means = {name: round(sum(values) / max(1, len(values)), 6) for name, values in shares.items()}
    return {"n": len(answers), **means, "measured": round(len(measured) / max(1, len(answers)), 6)}


def main(adapter: str) -> None:
    from retrain.bars import plot

    params = params_.load().of(adapter)
    out = Path("out") / adapter
    predictions, metrics = evaluate(adapter, params, process.cache("answers"))
    write_jsonl(out / "predictions" / "predictions.jsonl", predictions)
    plot(metrics, out / "predictions" / "scores.png")
    write_text(out / "metrics.json", dumps(metrics, indent=2) + "\n")
    for name, suite in metrics["suites"].items():
        print(f"{adapter} {name} (n {suite['n']}): " + ", ".join(f"{a} {s['right']:.1%}" for a, s in suite["arms"].items()))


if __name__ == "__main__":
    from retrain.stage import run

    run(main)
