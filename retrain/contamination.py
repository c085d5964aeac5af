"""Copies between what trains and what judges: exact, near, of one conversation; and paraphrases, where they can be told.

A row copies another where their questions are equal, or near copies with the same answer: "cancel my order" is no copy of
"don't cancel my order". What a candidate trained on is written beside it as hashes and sketches (`Trained`), so that a later
suite row is recognised without the texts.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrain import copies
from retrain.answers import meaning
from retrain.errors import DataError
from retrain.params import Adapter
from retrain.records import Example, Origin, merged, read_json, text_digest, write_json
from retrain.text import skeleton, vectors

EXACT, NEAR = "copy of a {} row", "near copy of a {} row"
TALK = "of a conversation that {}"
FILE = "trained_on.json"
HASHES = 256  # of 8 bits: a sketch of a question; its estimate of a similarity of 0.7 has a standard error of 0.03
ROWS = 1024  # whose cosines are in memory at a time
CHANCE = 1 / 256  # two of them are equal


@dataclass(frozen=True)
class Likeness:
    """Two rows are near copies with so much of their questions in common, and answers of one meaning (`answers.meaning`)."""

    near: float
    labels: bool
    structured: bool

    @classmethod
    def of(cls, near: float, spec: Adapter) -> "Likeness":
        return cls(near, bool(spec.labels), spec.output is not None)

    def kinds(self, rows: Iterable[Example]) -> list[str]:
        return [meaning(row.answer, self.labels, self.structured) for row in rows]

    def pairs(self, rows: Sequence[Example]) -> list[tuple[int, int]]:
        """Places of rows that are near copies of each other."""
        left, right = copies.pairs([row.asked for row in rows], self.near, self.kinds(rows))
        return list(zip(left.tolist(), right.tolist(), strict=True))

    def copied(self, rows: Sequence[Example], known: Sequence[Example]) -> list[int]:
        """For each row the index of the known one that it nearly copies, -1 where there is none."""
        asked = [row.asked for row in rows], [row.asked for row in known]
        return copies.copied(*asked, self.near, self.kinds(rows), self.kinds(known)).tolist()


def leaks(train: Sequence[Example], golden: Sequence[Example], judging: Iterable[Example], like: Likeness) -> list[str | None]:
    """For each training row why it must not train, None where it may; `judging`: the rows of all suites."""
    keys = {row.key for row in golden}
    talks = {talk for row in judging for talk in row.conversations}
    near = like.copied(train, golden)
    return [
        EXACT.format("golden") if row.key in keys
        else NEAR.format("golden") if at >= 0
        else TALK.format("judges") if talks & row.conversations
        else None
        for row, at in zip(train, near, strict=True)
    ]  # fmt: skip


def check(train: Sequence[Example], suites: dict[str, list[Example]], like: Likeness) -> None:
    """DataError where a row that trains copies `golden`, or its conversation judges: none may get through, whatever made it."""
    judging = [row for rows in suites.values() for row in rows]
    found = leaks(train, suites.get("golden", []), judging, like)
    bad = [(row, why) for row, why in zip(train, found, strict=True) if why]
    if bad:
        row, why = bad[0]
        raise DataError(
            f"{len(bad)} rows that would train must not, such as {row.id} ({row.source}): {why}. Nothing trains: "
            "`prepare` should have left them out, so this is a fault of its own; report it"
        )


def folded(rows: Sequence[Example], like: Likeness) -> tuple[list[Example], dict[str, str]]:
    """Near copies as one row with the origins of all, in order of id, and id -> id of the row that stands for it.

    The seed stands for what was collected, and what was collected first for what came later: new rows move no older one.
    """
    order = sorted(rows, key=lambda row: (row.source != "seed", _collected(row), row.id))
    stands = copies.groups([row.asked for row in order], like.near, like.kinds(order)).tolist()
    groups: dict[int, list[Example]] = {}
    for row, at in zip(order, stands, strict=True):
        groups.setdefault(at, []).append(row)
    kept = [group[0] if len(group) == 1 else merged(group, _origins(group)) for group in groups.values()]
    return sorted(kept, key=lambda row: row.id), {row.id: order[at].id for row, at in zip(order, stands, strict=True)}


def _collected(row: Example) -> str:
    return min((origin.collected or "" for origin in row.origins), default="")


def _origins(rows: Sequence[Example]) -> tuple[Origin, ...]:
    found = {origin.request_id: origin for row in rows for origin in row.origins}
    return tuple(found[request] for request in sorted(found))


# --- paraphrases


@dataclass(frozen=True)
class Paraphrases:
    """Training rows that sentence vectors call paraphrases of `golden`, and whether that can be believed.

    independent: the share of seed rows, which people wrote without looking at golden, that they call so as well.
    """

    ids: frozenset[str]
    cosine: float
    independent: float
    dropped: bool

    def as_dict(self) -> dict[str, Any]:
        told = {"cosine": self.cosine, "rows": len(self.ids), "independent": round(self.independent, 4)}
        return {**told, "dropped": self.dropped}


def paraphrases(
    rows: Sequence[Example], seed: Sequence[Example], golden: Sequence[Example], like: Likeness, *, cosine: float, most: float
) -> Paraphrases:  # fmt: skip
    """Collected rows (`rows`) as near to a golden row with the same answer as `cosine`; believed where at most the share `most`
    of independent rows is as near. The seed itself is what is believed, and is never called a paraphrase."""
    near = _near([*seed, *rows], golden, like, cosine)
    share, found = float(np.mean(near[: len(seed)])) if seed else 0.0, near[len(seed) :]
    ids = frozenset(row.id for row, told in zip(rows, found, strict=True) if told)
    return Paraphrases(ids, cosine, share, share <= most and bool(seed))


def _near(rows: Sequence[Example], golden: Sequence[Example], like: Likeness, cosine: float) -> list[bool]:
    kinds, known = np.array(like.kinds(rows)), np.array(like.kinds(golden))
    asked, points = vectors([row.asked for row in rows]), vectors([row.asked for row in golden])
    found = np.zeros(len(rows), bool)
    for kind in np.unique(known):
        mine, theirs = np.flatnonzero(kinds == kind), points[known == kind]
        for at in np.array_split(mine, len(mine) // ROWS + 1):
            found[at] = (asked[at] @ theirs.T).max(axis=1) >= cosine
    return [bool(told) for told in found]


# --- what an adapter trained on


@dataclass(frozen=True)
class Trained:
    """What is known of the rows that an adapter trained on: keys of questions, sketches by what their answers mean."""

    keys: frozenset[str]
    sketches: dict[str, Any]  # digest of a meaning -> uint8 (rows, HASHES)
    talks: frozenset[str]
    grams: int = copies.GRAM  # of the sketches of long texts: those of older adapters have 3-grams too

    @classmethod
    def read(cls, folder: Path) -> "Trained":
        """Of an adapter's folder; an older one knows exact copies alone."""
        told = read_json(folder / FILE)
        if isinstance(told, list):
            return cls(frozenset(told), {}, frozenset())
        sketches: dict[str, list[bytes]] = {}
        for _, kind, sketch in told["rows"]:
            sketches.setdefault(kind, []).append(base64.b64decode(sketch))
        read = {kind: np.frombuffer(b"".join(rows), np.uint8).reshape(-1, HASHES) for kind, rows in sketches.items()}
        return cls(
            frozenset(key for key, _, _ in told["rows"]), read, frozenset(told["conversations"]), told.get("grams", copies.GRAM)
        )

    def reasons(self, rows: Sequence[Example], like: Likeness) -> list[str | None]:
        """For each row why it does not judge this adapter, None where it does."""
        return [
            EXACT.format("training") if _short(row.key) in self.keys
            else NEAR.format("training") if self._nearest(kind, sketch) >= like.near
            else TALK.format("trained") if self.talks & {_short(talk) for talk in row.conversations}
            else None
            for row, kind, sketch in zip(rows, like.kinds(rows), _sketches(rows, self.grams), strict=True)
        ]  # fmt: skip

    def _nearest(self, kind: str, sketch: Any) -> float:
        """The estimated similarity of the question most like this one among those with such an answer, 0 to 1."""
        known = self.sketches.get(_short(kind))
        if known is None:
            return 0.0
        return float((((known == sketch).mean(axis=1) - CHANCE) / (1 - CHANCE)).max())


def write_trained(path: Path, rows: Sequence[Example], like: Likeness) -> None:
    """What `Trained` reads, without a text: sketches of 256 bytes cannot be turned back into questions."""
    long = any(len(text) > copies.SHORT for text in _asked(rows))
    grams = {"grams": copies.LONG} if long else {}
    sketches = [base64.b64encode(sketch.tobytes()).decode() for sketch in _sketches(rows, grams.get("grams", copies.GRAM))]
    kinds = [_short(kind) for kind in like.kinds(rows)]
    told = {(_short(row.key), kind, sketch) for row, kind, sketch in zip(rows, kinds, sketches, strict=True)}
    talks = sorted({_short(talk) for row in rows for talk in row.conversations})
    write_json(path, {"schema": 1, "rows": sorted(told), "conversations": talks, **grams})


def _asked(rows: Sequence[Example]) -> list[str]:
    return [skeleton(row.asked[: copies.LONGEST]) for row in rows]


def _sketches(rows: Sequence[Example], grams: int) -> Any:
    short = copies.LONGEST * 20 if grams == copies.GRAM else copies.SHORT
    return copies.signatures(_asked(rows), HASHES, short).astype(np.uint8)


def _short(text: str) -> str:
    return text_digest(text)[:20]
