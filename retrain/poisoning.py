"""PURE: which corrections look like an attack rather than like users, and why.

A correction is held against the human rows around it: it *disagrees* where they make another label several times as likely.
Honest corrections do so now and then, for they are of the messages that are hard; so nothing but the extreme is held against
a single row. What tells an attack is a group (a user, a source, near copies, a burst, a phrase, one answer) in which most
rows disagree. A label that few human rows have yet cannot be disagreed with: what is new is not suspect.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from retrain.copies import groups
from retrain.poisoning_rules import Poisoning
from retrain.records import Example, text_digest, unit_hash
from retrain.regression import fitted
from retrain.text import LONGEST, normalise, vectors

PER_LABEL = 100  # human rows of a label that are learned from, by hash
STRENGTH = 3.0  # of the regression
SMALLEST = 1e-9  # probability
CHUNK = 4096  # texts asked about at a time
BURST_SECONDS = 3600
COPIES = 3  # of one message, before they count as near copies
SAME_ANSWER = 0.9  # of the rows with a phrase
DISAGREE = "disagree with the human rows around them"


@dataclass(frozen=True)
class Case:
    """One correction as a user gave it; `at` is when, `source` where it came from (params failures.poisoning.source)."""

    request_id: str
    question: str
    answer: str
    response: str | None = None
    user: str | None = None
    source: str | None = None
    at: datetime | None = None
    trains: bool = True  # False: drawn for the audit, so that it only tells about the others


@dataclass(frozen=True)
class Taken:
    """How many corrections of each user and source earlier collections hold."""

    users: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, earlier: Sequence[Example], own: Collection[str] = ()) -> "Taken":
        """own: requests that are asked about now, which count for no earlier one."""
        origins = [origin for row in earlier for origin in row.origins if origin.request_id not in own]
        return cls(Counter(o.user for o in origins if o.user), Counter(o.source for o in origins if o.source))


def suspects(
    cases: Sequence[Case], *, human: Sequence[Example], labels: Sequence[str], rules: Poisoning, window_hours: float,
    taken: Taken | None = None, held: Mapping[str, str] | None = None,
) -> dict[str, str]:  # fmt: skip
    """Request id -> why, in plain words, of the cases that should wait for a person; empty where rules.door is off.

    human: rows whose labels people gave before (seed and earlier corrections); those of the cases themselves do not count.
    labels: of the task; without any (generation) no label can disagree, and only the caps hold. held: what is in quarantine
    already: it is evidence against what comes now, stays there for its first reason, and counts for no cap.
    """
    if not rules.door or not cases:
        return {}
    own = {case.request_id for case in cases}
    told = [row for row in human if not any(origin.request_id in own for origin in row.origins)]
    found: dict[str, str] = {}
    if labels:
        evidence = Evidence.of(cases, [row for row in told if row.answer in labels], rules)
        for looks in ((_users, _sources), (_copied, _corrected, _phrases, _claimed, _hurried), (_alone,)):
            left = [i for i, case in enumerate(cases) if case.request_id not in found]
            if not left:
                break
            rest, about = [cases[i] for i in left], evidence.of_rows(left)  # what is suspected is no evidence against others
            for members, why in (group for look in looks for group in look(rest, about, rules)):
                for i in members:
                    found.setdefault(rest[i].request_id, why)
    found.update({request: why for request, why in (held or {}).items() if request in own})
    return found | _capped(
        [case for case in cases if case.trains and case.request_id not in found], rules, taken or Taken(), window_hours
    )


# --- what the human rows say


@dataclass(frozen=True)
class Evidence:
    """Of each case: how many times likelier the human rows make the likeliest label than its own, that label, its near copies.

    odds is 1 where the likeliest is its own, and NaN where nothing can be told: its own has too few human rows, or no human row
    is about anything like it.
    """

    odds: Any  # float (cases,)
    likeliest: list[str]
    copy: Any  # int (cases,): equal for near copies
    disagrees: Any  # bool (cases,)

    def of_rows(self, rows: Sequence[int]) -> "Evidence":
        return Evidence(self.odds[rows], [self.likeliest[i] for i in rows], self.copy[rows], self.disagrees[rows])

    @classmethod
    def of(cls, cases: Sequence[Case], human: Sequence[Example], rules: Poisoning) -> "Evidence":
        texts = list(dict.fromkeys(case.question for case in cases))
        at = {text: i for i, text in enumerate(texts)}
        rows = np.array([at[case.question] for case in cases])
        copy = groups(texts, rules.copies)[rows]
        names, p, near = likelihoods(texts, human, rules.min_rows)
        if not names:
            return cls(np.full(len(cases), np.nan), [""] * len(cases), copy, np.zeros(len(cases), bool))
        column = {name: i for i, name in enumerate(names)}
        own = np.array([column.get(case.answer, -1) for case in cases])
        told = (own >= 0) & (near >= rules.near)[rows]
        odds = np.where(~told, np.nan, p.max(axis=1)[rows] / p[rows, np.maximum(own, 0)])
        return cls(odds, [names[i] for i in p.argmax(axis=1)[rows]], copy, np.nan_to_num(odds) > rules.odds)


def likelihoods(texts: Sequence[str], human: Sequence[Example], least: int) -> tuple[list[str], Any, Any]:
    """(labels, probabilities (texts, labels) > 0, cosine of the nearest human row (texts,)) by a regression on the human rows.

    On sentence vectors it orders honest and false corrections better than the nearest rows themselves do (AUC 0.96 against
    0.91 on the shipped text, 0.99 on Banking77). Labels with fewer than `least` human rows are left out; with fewer than two
    labels nothing is told.
    """
    by_label: dict[str, list[Example]] = {}
    for row in human:
        by_label.setdefault(row.answer, []).append(row)
    names = sorted(name for name, rows in by_label.items() if len(rows) >= least)
    if len(names) < 2:
        return [], np.zeros((len(texts), 0)), np.zeros(len(texts))
    chosen = [row for name in names for row in sorted(by_label[name], key=lambda row: unit_hash(row.id, "human"))[:PER_LABEL]]
    points = vectors([row.question for row in chosen])
    model = fitted(points, [row.answer for row in chosen], strength=STRENGTH)
    found, near = [], []
    for start in range(0, len(texts), CHUNK):
        asked = vectors(texts[start : start + CHUNK])
        found.append(model.predict_proba(asked))
        near.append((asked @ points.T).max(axis=1))
    return [str(name) for name in model.classes_], np.maximum(np.concatenate(found), SMALLEST), np.concatenate(near)


# --- groups


Found = Iterator[tuple[Any, str]]  # (indices, why) of each suspected group


def _users(cases: Sequence[Case], evidence: Evidence, rules: Poisoning) -> Found:
    for members, n, off in _standing_out([case.user for case in cases], evidence, rules):
        yield members, f"user {_shown(cases[members[0]].user)}: {off} of {n} different corrections {DISAGREE}"


def _sources(cases: Sequence[Case], evidence: Evidence, rules: Poisoning) -> Found:
    for members, n, off in _standing_out([case.source for case in cases], evidence, rules):
        yield members, f"source {cases[members[0]].source}: {off} of {n} different corrections {DISAGREE}"


def _corrected(cases: Sequence[Case], evidence: Evidence, rules: Poisoning) -> Found:
    """One answer of the champion that is corrected to one other; of what is claimed only rows that disagree are suspect."""
    pairs = [(case.response, case.answer) if case.response else None for case in cases]
    yield from _claims(pairs, "answered {0.response}, corrected to {0.answer}", cases, evidence, rules)


def _claimed(cases: Sequence[Case], evidence: Evidence, rules: Poisoning) -> Found:
    yield from _claims([case.answer for case in cases], "corrected to {0.answer}", cases, evidence, rules)


def _hurried(cases: Sequence[Case], evidence: Evidence, rules: Poisoning) -> Found:
    keys = [(hour, case.answer) if hour >= 0 else None for hour, case in zip(_hours(cases).tolist(), cases, strict=True)]
    yield from _claims(keys, "corrected to {0.answer} within one hour", cases, evidence, rules)


def _claims(keys: Sequence[Any], words: str, cases: Sequence[Case], evidence: Evidence, rules: Poisoning) -> Found:
    for members, n, off in _standing_out(keys, evidence, rules):
        against = members[evidence.odds[members] != 1]
        yield against, f"{words.format(cases[members[0]])}: {off} of {n} {DISAGREE} ({_people(cases, against)})"


def _codes(keys: Sequence[Any]) -> Any:
    """Integers, equal for equal keys; -1 for None."""
    known: dict[Any, int] = {}
    return np.array([-1 if key is None else known.setdefault(key, len(known)) for key in keys])


def _standing_out(keys: Sequence[Any], evidence: Evidence, rules: Poisoning) -> Iterator[tuple[Any, int, int]]:
    """(members, texts, those that disagree) of the groups in which too many disagree; near copies count as one text."""
    codes = _codes(keys)
    judged = (codes >= 0) & ~np.isnan(evidence.odds)
    if not judged.any():
        return
    pairs, inverse = np.unique(np.stack([codes[judged], evidence.copy[judged]]), axis=1, return_inverse=True)
    share = np.bincount(inverse.ravel(), weights=evidence.disagrees[judged]) / np.bincount(inverse.ravel())
    n = np.bincount(pairs[0])
    off = np.bincount(pairs[0], weights=share > 0.5).astype(int)
    for code in np.flatnonzero(too_many(off, n, rules)):
        yield np.flatnonzero(codes == code), int(n[code]), int(off[code])


def too_many(off: Any, n: Any, rules: Poisoning) -> Any:
    """bool for each group: more of its n rows disagree than honest groups' do, by a binomial test over all groups at once."""
    from scipy.stats import binom

    tested = n >= rules.min_rows
    p = binom.sf(off - 1, n, rules.expected)
    return tested & (off >= rules.share * n) & (p * max(int(tested.sum()), 1) < rules.level)


def _copied(cases: Sequence[Case], evidence: Evidence, rules: Poisoning) -> Found:
    """Near copies of a few messages with one answer that the human rows do not bear out: one hand, however many names.

    With them goes what came in the same hours with the same answer and is not borne out either: the copies that are not near.
    """
    answers, hours, doubted = _codes([case.answer for case in cases]), _hours(cases), evidence.odds != 1
    codes = _codes(list(zip(evidence.copy, answers, strict=True)))
    counts, doubts = np.bincount(codes), np.bincount(codes, weights=doubted)
    pooled = ((counts >= COPIES) & (doubts > counts / 2))[codes] & doubted
    told = pooled & ~np.isnan(evidence.odds)
    n, off = np.bincount(answers[told]), np.bincount(answers[told], weights=evidence.disagrees[told])
    for code in np.flatnonzero((n >= rules.min_rows) & (off >= rules.share * n)):
        copies = np.flatnonzero(pooled & (answers == code))
        busy = [hour for hour, rows in Counter(hours[copies].tolist()).items() if hour >= 0 and rows >= COPIES]
        members = np.flatnonzero(doubted & (answers == code) & (pooled | np.isin(hours, busy)))
        messages, people = len(np.unique(evidence.copy[copies])), _people(cases, members)
        what = f"near copies of {_count(messages, 'message')} ({people}) corrected to {cases[members[0]].answer}"
        yield members, f"{what}: {int(off[code])} of {n[code]} {DISAGREE}"


def _hours(cases: Sequence[Case]) -> Any:
    """The hour of each case as an integer, -1 where it has no time."""
    return np.array([int(case.at.timestamp() // BURST_SECONDS) if case.at else -1 for case in cases])


def _phrases(cases: Sequence[Case], evidence: Evidence, rules: Poisoning) -> Found:
    """Words that go with one answer, whatever the message around them is about."""
    from sklearn.feature_extraction.text import CountVectorizer

    against = np.flatnonzero(evidence.disagrees)
    texts = [normalise(case.question[:LONGEST]) for case in cases]
    options: dict[str, Any] = {"ngram_range": (1, 4), "binary": True, "token_pattern": r"\S+", "lowercase": False}
    if len(against) < rules.min_rows:
        return
    fitted = CountVectorizer(min_df=rules.min_rows, **options)
    try:
        fitted.fit([texts[i] for i in against])
    except ValueError:  # no words are in so many rows
        return
    found = fitted.transform(texts).tocsc()
    phrases = fitted.get_feature_names_out()
    answers = _codes([case.answer for case in cases])
    judged = ~np.isnan(evidence.odds)
    groups = [_one_answer(found.indices[found.indptr[j] : found.indptr[j + 1]], answers) for j in range(len(phrases))]
    n = np.array([len(np.unique(evidence.copy[g[judged[g]]])) for g in groups])
    off = np.array([len(np.unique(evidence.copy[g[evidence.disagrees[g]]])) for g in groups])
    out = np.flatnonzero(too_many(off, n, rules))
    for j in sorted(map(int, out), key=lambda j: (-len(phrases[j].split()), -len(groups[j]))):
        what = f'the words "{phrases[j]}" go with {cases[int(groups[j][0])].answer} alone'
        yield groups[j], f"{what}: {off[j]} of {n[j]} {DISAGREE} ({_people(cases, groups[j])})"


def _one_answer(rows: Any, answers: Any) -> Any:
    """The rows that have the commonest answer, where nearly all of them do; else none."""
    counts = np.bincount(answers[rows])
    most = int(counts.argmax())
    return rows[answers[rows] == most] if counts[most] >= SAME_ANSWER * len(rows) else rows[:0]


def _alone(cases: Sequence[Case], evidence: Evidence, rules: Poisoning) -> Found:
    """Single rows that disagree as hardly any honest one does."""
    for i in map(int, np.flatnonzero(np.nan_to_num(evidence.odds) > rules.row_odds)):
        yield [i], f"corrected to {cases[i].answer}: the human rows around it say {evidence.likeliest[i]}, by far"


# --- caps


def _capped(cases: Sequence[Case], rules: Poisoning, taken: Taken, window_hours: float) -> dict[str, str]:
    """What is more than one user or one source may bring, in one window and in all; which rows stay is chosen by hash."""
    found: dict[str, str] = {}
    ordered = sorted(cases, key=lambda case: unit_hash(case.request_id, "cap"))
    for kind, window, total, before in (
        ("user", rules.user_window, rules.user_total, taken.users),
        ("source", rules.source_window, rules.source_total, taken.sources),
    ):
        counts: Counter[Any] = Counter({("all", who): n for who, n in before.items()})
        for case in ordered:
            who = case.user if kind == "user" else case.source
            if who is None or case.request_id in found:
                continue
            day = int(case.at.timestamp() // (3600 * window_hours)) if case.at else None
            limits = [(window, (day, who), "in one window", "window"), (total, ("all", who), "in all", "total")]
            over = next((limit for limit in limits if limit[0] is not None and counts[limit[1]] >= limit[0]), None)
            if over:
                name = _shown(who) if kind == "user" else who
                rule = f"failures.poisoning.{kind}_{over[3]}"
                found[case.request_id] = f"{kind} {name}: more than {over[0]} corrections {over[2]} ({rule})"
            else:
                counts.update(limit[1] for limit in limits)
    return found


def _people(cases: Sequence[Case], members: Any) -> str:
    users = {cases[i].user for i in members} - {None}
    return f"{len(members)} rows, {len(users)} users" if users else f"{len(members)} rows, no user ids"


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def _shown(user: str | None) -> str:
    """Who it was, without naming him: the start of a hash."""
    return text_digest(user or "")[:8]
