"""Stage `serves`: the engine of `retrain serve` answers questions that the candidate was judged by, as it will serve.  [torch]

Questions of the suites, by hash, golden first, in the engine's own batches, beside the champion where one engine serves both;
prompt, labels and lengths are the door's. That the engine does not load a candidate is told in serves.json, for the gate to
refuse; what else fails is a fault of ours and raises. serves.json holds ids and counts, no text of users.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrain import base, generate, train
from retrain import params as params_
from retrain.errors import IntegrityError, ParamsError, RequestRefused
from retrain.records import Example, file_digest, read_examples, read_json, read_jsonl, unit_hash, write_json
from retrain.serving.engine import Engine, Row, Specialist, choose
from retrain.serving.limits import check_size, check_tokens
from retrain.verdict import Served

BACKEND = "transformers"
SUITES = ("golden", "audit", "repair", "retained")
RESULTS = ("equal", "tied", "differing", "refused")
# Units of bf16's last place that a judged answer may be behind. Measured (orders after one epoch, bf16 on a CPU): of 50 answers
# 8 tipped, the judged ones 0 to 1 units behind; under another system prompt they were at least 4 behind, 35 in the median.
ROUNDING = 2.0
BESIDE = 4  # of so many questions the champion is asked one too: it shares the candidate's batches, and costs a quarter


def drawn(predictions: Sequence[dict[str, Any]], suites: Path, most: int) -> list[tuple[str, Example, str]]:
    """(suite, row, the candidate's answer when it was judged) of at most so many rows, by hash, golden first."""
    arms = {(row["suite"], row["id"]): row["arms"] for row in predictions}
    judged = {key: said["candidate"]["answer"] for key, said in arms.items() if "candidate" in said}
    found: list[tuple[str, Example, str]] = []
    for name in SUITES:
        path = suites / f"{name}.jsonl"
        rows = [row for row in (read_examples(path) if path.exists() else []) if (name, row.id) in judged]
        rows.sort(key=lambda row: unit_hash(row.id, "serves"))
        found += [(name, row, judged[name, row.id]) for row in rows[: most - len(found)]]
    return found


class Follow:
    """In the place of `generate.Labels` and `Free`: says an answer that is given, and how far each of its tokens was behind the
    likeliest (of those that a label allows), at most, in units of the last place of bf16: near 0 any rounding may decide."""

    def __init__(self, of: Specialist, answer: str) -> None:
        self.answer, self.labels = answer, list(of.paths.values())
        self.path = of.paths[answer] if of.paths else tuple(of.template.completion(answer)[: of.most])
        self.tokens: list[list[int]] = [[]]
        self.behind = 0.0

    def step(self, alive: list[int], logits: Any) -> list[int | None]:
        at, (said,) = len(self.tokens[0]), self.tokens
        token = self.path[at]
        allowed = sorted({label[at] for label in self.labels if list(label[:at]) == said})
        top = float((logits[0, allowed] if allowed else logits[0]).max())
        gap = (top - float(logits[0, token])) / math.ldexp(1.0, math.frexp(top)[1] - 8)
        self.behind = max(self.behind, gap if math.isfinite(gap) else math.inf)
        said.append(token)
        return [token if len(said) < len(self.path) else None]

    def answers(self) -> list[generate.Answer]:
        return [generate.Answer(self.answer, 1.0)]


class Door:
    """The engine of one adapter, as `serving.local` makes it, its candidate and, where one engine serves both, the champion."""

    def __init__(self, adapter: str, params: params_.Params, folder: Path, queue: int) -> None:
        self.adapter, self.params, self.folder = adapter, params, folder
        self.base_folder = Path("out/base") / params.adapter(adapter).base
        self.device = base.choose_device(params.train.device)
        self.lies = generate.lies(self.base_folder, self.device, folder, {})
        self.on = base.where(self.device, self.lies)
        self.engine = Engine(self.base_folder, device=self.device, lies=self.lies, batch=params.serve.batch, queue=queue)

    def load(self, folder: Path) -> Specialist:
        """IntegrityError or ParamsError where the engine does not serve it."""
        return self.engine.specialist(folder, train.verify(folder), self.params.adapter(self.adapter).max_new_tokens)

    def beside(self, champion: Path) -> Specialist | None:
        """The champion; None where there is none, or this engine would not serve it: that is not the candidate's doing."""
        if not (champion / "manifest.json").exists():
            return None
        if generate.lies(self.base_folder, self.device, champion, {}) != self.lies:
            return None
        try:
            return self.load(champion)
        except (IntegrityError, ParamsError):  # of another base, or no plain LoRA
            return None

    def answers(self, of: Specialist, rows: Sequence[Example], champion: Specialist | None) -> list[str | None]:
        """One answer a row, None where the door does not take the question; IntegrityError where numbers are not finite."""
        asked = [(who, row) for i, row in enumerate(rows) for who in (of, champion if i % BESIDE == 0 else None) if who]
        ids = [self._tokens(who, row) for who, row in asked]
        taken = [(who, one) for (who, _), one in zip(asked, ids, strict=True) if one is not None]
        said = iter(self.engine.ask_together([Row(who, one, choose(who), None) for who, one in taken]))
        told = [next(said) if one is not None else None for one in ids]
        ours = [answer for (who, _), answer in zip(asked, told, strict=True) if who is of]
        if any(answer and not math.isfinite(math.nan if answer.confidence is None else answer.confidence) for answer in ours):
            raise IntegrityError(f"{self.folder} answers with numbers that are not finite: train it again")
        return [answer.text if answer else None for answer in ours]

    def tied(self, of: Specialist, rows: Sequence[Example], judged: Sequence[str]) -> list[bool]:
        """Of rows that the door takes, whether rounding alone explains another answer than the one that was judged."""
        known = [not of.paths or answer in of.paths for answer in judged]
        follows = [Follow(of, answer) for answer, can in zip(judged, known, strict=True) if can]
        ids = [self._tokens(of, row) or [] for row, can in zip(rows, known, strict=True) if can]
        self.engine.ask_together([Row(of, one, follow, None) for one, follow in zip(ids, follows, strict=True)])
        behind = iter([follow.behind for follow in follows])
        return [can and next(behind) <= ROUNDING for can in known]

    def _tokens(self, of: Specialist, row: Example) -> list[int] | None:
        limit = self.params.serve.max_prompt_tokens
        try:
            check_size(row.messages[:-1], limit)
            ids, whole = self.engine.encode(of, row.messages[:-1])
            check_tokens(whole, None, 0, self.adapter, limit)
        except RequestRefused:
            return None
        return ids


def serves(adapter: str, params: params_.Params) -> Served:
    """What the candidate in out/<adapter> answers as it will serve, beside its stored predictions."""
    out = Path("out") / adapter
    file = out / "predictions" / "predictions.jsonl"
    asked = drawn(read_jsonl(file), out / "suites", params.gates.serves.prompts)
    door, why, told = Door(adapter, params, out / "adapter", 2 * len(asked)), None, []
    try:
        candidate = door.load(out / "adapter")
        told = _compared(door, candidate, asked, door.beside(Path("champion") / adapter))
    except (IntegrityError, ParamsError) as error:
        why = str(error)
    finally:
        door.engine.close()
    named = {
        result: tuple(f"{suite} {row.id}" for (suite, row, _), one in zip(asked, told, strict=False) if one == result)
        for result in RESULTS
    }
    return Served(
        adapter=adapter,
        candidate=file_digest(out / "adapter" / "manifest.json"),
        predictions=file_digest(file),
        backend=BACKEND,
        on=door.on,
        evaluated_on=read_json(out / "metrics.json").get("on"),
        asked=len(told),
        equal=len(named["equal"]),
        tied=named["tied"],
        differing=named["differing"],
        refused=named["refused"],
        why=why,
    )


def _compared(
    door: Door, candidate: Specialist, asked: Sequence[tuple[str, Example, str]], champion: Specialist | None
) -> list[str]:
    """One of RESULTS for each question."""
    said = door.answers(candidate, [row for _, row, _ in asked], champion)
    told = [
        "refused" if answer is None else "equal" if answer == judged else "differing"
        for (_, _, judged), answer in zip(asked, said, strict=True)
    ]
    others = [i for i, result in enumerate(told) if result == "differing"]
    tied = door.tied(candidate, [asked[i][1] for i in others], [asked[i][2] for i in others])
    for i in (i for i, tie in zip(others, tied, strict=True) if tie):
        told[i] = "tied"
    return told


def main(adapter: str) -> None:
    told = serves(adapter, params_.load().of(adapter))
    write_json(Path("out") / adapter / "serves.json", told.as_dict())
    result = (
        f"{told.equal} of {told.asked} answers are those that were judged, {len(told.tied)} more but for rounding ({told.on})"
    )
    print(f"{adapter}: {f'it cannot be loaded as it will serve: {told.why}' if told.why else result}")


if __name__ == "__main__":
    from retrain.stage import run

    run(main)
