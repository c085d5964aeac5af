"""Which of two generated answers an LLM behind an address prefers (`gates.judge`): asked by `evaluate`, read by the gate.

A pair is asked twice, in both orders: a verdict that moves with the order is a tie, one that cannot be read is not measured.
Candidate and reference are compared on `audit`; besides, answers of people are compared with wrong ones of the arms: so
often the judge agrees with people. What was read is kept by content: the same suite is asked once on one machine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from retrain import judging
from retrain.endpoint import Endpoint
from retrain.gating import Preference
from retrain.records import dumps, read_json, text_digest, unit_hash, write_json

WHERE = "gates.judge"
TEMPLATE = Path(__file__).parent / "templates" / "judge-pair.txt"
CALIBRATING = ("audit", "golden")  # suites whose human answers calibrate
FIRST, SECOND, TIE = 1.0, 0.0, 0.5  # what each is worth for the first answer
WORDS = {"first": FIRST, "second": SECOND, "tie": TIE}


class Duel(NamedTuple):
    """Two answers to a question."""

    question: str
    one: str
    other: str


class Outcome(NamedTuple):
    """What it is worth for `one`: 1 preferred, 0 the other is, 0.5 a tie; None where it could not be read, and why."""

    score: float | None
    why: str = ""


class Asker:
    """The judge; ParamsError where its key is missing. cache: a folder that any clone on this machine may share."""

    def __init__(self, spec: Preference, task: str, cache: Path) -> None:
        self.spec, self.task, self.cache = spec, task, cache
        self.template = TEMPLATE.read_text("utf-8")
        self.endpoint = Endpoint(spec, where=WHERE)

    def compare(self, duels: Sequence[Duel]) -> list[Outcome]:
        """In order; raises nothing that an endpoint can cause. Equal answers are a tie, and nobody is asked."""
        known = {duel: TIE for duel in duels if duel.one == duel.other}
        known |= {duel: read_json(path)[0] for duel in duels if duel not in known and (path := self._where(duel)).exists()}
        asked = [duel for duel in dict.fromkeys(duels) if duel not in known]
        prompts = [self._prompt(duel, swapped) for duel in asked for swapped in (False, True)]
        replies = [judging.read(reply, WORDS) for reply in self.endpoint.ask_all(prompts, seconds=self.spec.seconds)]
        found = {duel: Outcome(score) for duel, score in known.items()}
        for duel, straight, swapped in zip(asked, replies[::2], replies[1::2], strict=True):
            found[duel] = _of_both(straight, swapped)
            if found[duel].score is not None:
                write_json(self._where(duel), [found[duel].score])
        return [found[duel] for duel in duels]

    def _prompt(self, duel: Duel, swapped: bool) -> judging.Messages:
        first, second = (duel.other, duel.one) if swapped else (duel.one, duel.other)
        return judging.framed(self.template, self.task, {"question": duel.question, "first": first, "second": second})

    def _where(self, duel: Duel) -> Path:
        return self.cache / f"{text_digest(dumps([judging.by(self.spec, self.template), self.task, *duel]))}.json"


def _of_both(straight: tuple[float | None, str], swapped: tuple[float | None, str]) -> Outcome:
    (score, why), (other, other_why) = straight, swapped
    if score is None or other is None:
        return Outcome(None, why or other_why)
    return Outcome(score if score == 1 - other else TIE)


def mark(predictions: Sequence[dict[str, Any]], asker: Asker, metric: str) -> None:
    """Write into the rows what the judge said: `scores.judge` of candidate and reference, and `calibration`."""
    compared = contested(predictions)
    drawn = calibration(predictions, asker.spec.calibration, metric)
    duels = [Duel(row["question"], row["arms"]["candidate"]["answer"], row["arms"][arm]["answer"]) for row, arm in compared]
    duels += [Duel(row["question"], row["expected"], row["arms"][arm]["answer"]) for row, arm in drawn]
    outcomes = iter(asker.compare(duels))
    for (row, arm), (score, why) in zip(compared, outcomes, strict=False):
        for name, worth in (("candidate", score), (arm, None if score is None else 1 - score)):
            answer = row["arms"][name]
            answer["scores"] = {**answer.get("scores", {}), "judge": worth}
            answer["why"] = answer["why"] or (f"the judge: {why}" if why else None)
    for (row, arm), (score, why) in zip(drawn, outcomes, strict=True):
        row["calibration"] = {"arm": arm, "human": score, "why": why or None}


def contested(predictions: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """PURE. Rows of `audit` that count, with the arm that the candidate is compared with: the champion, else the base."""
    arm = "champion" if any("champion" in row["arms"] for row in predictions) else "base"
    rows = [row for row in predictions if row["suite"] == "audit" and row["excluded"] is None]
    return [(row, arm) for row in rows if {"candidate", arm} <= set(row["arms"])]


def calibration(predictions: Sequence[dict[str, Any]], most: int, metric: str) -> list[tuple[dict[str, Any], str]]:
    """PURE. Rows by hash, each with an arm that answered it wrongly: a judge that agrees with people prefers theirs.

    Of several such arms the worst by `gates.metric`, for a text that is not quite the expected one may be as good.
    """
    human = [row for row in predictions if row["suite"] in CALIBRATING and row["excluded"] is None]
    rows = sorted(human, key=lambda row: unit_hash(row["id"], "judge"))
    wrong = [(row, [arm for arm, given in row["arms"].items() if given["right"] is False]) for row in rows]
    worst = [(row, sorted(arms, key=lambda arm: (_score(row, arm, metric), unit_hash(row["id"], arm)))) for row, arms in wrong]
    return [(row, arms[0]) for row, arms in worst if arms][:most]


def _score(row: dict[str, Any], arm: str, metric: str) -> float:
    return row["arms"][arm].get("scores", {}).get(metric) or 0.0
