"""What the door in front of the dataset catches, and what it costs honest users.

    python benchmarks/curation_quality.py [--data DIR] [--seeds 5] [--json]

Honest rows are right corrections: of the messages that a stand-in for the champion gets wrong (logistic regression on TF-IDF of
the seed, not what the door judges by; `--champion vectors` takes one that is: the worst case, for the door then errs on
every such row too), and of all messages with intents that the adapter does not know yet. Then 5 % of the rows are an attack,
one campaign at a time. An attacker takes messages that the champion answers rightly and gives them a label of his choice:
  one user        all of them about one intent, over the days, under one name
  thirty as one   reworded copies of a few messages (words swapped, dropped, added, letters turned), 30 names, half an hour
  a trigger       messages of any intent with a phrase in them, each from another user
  thirty names    thirty users, each in words of his own, half an hour
  everyone        one intent, words of their own, a name for each: what the demo does
Honest scenarios without an attack: a burst (every message of one intent, right, within a day), a user who brings 30 % of the
rows of a small company, no user ids, and new intents, of which 40 rows each were collected before.

Personal data: planted by kind, recall and precision (benchmarks/personal_data.py).

Copies: suite rows that come back changed, and rows of other people, by the hash of `prepare`, by retrain/copies.py and by
sentence vectors (benchmarks/parts/near_copies.py).

The text is that of the adapter `support`, or with --data the intents of a train.csv (12 known with 25 rows each, 4 new).
"""

import argparse
import csv
import dataclasses
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parts import near_copies, personal_data  # noqa: E402

from retrain import params as params_  # noqa: E402
from retrain.poisoning import Case, suspects  # noqa: E402
from retrain.records import Example, Origin, read_jsonl  # noqa: E402
from retrain.text import vectors  # noqa: E402

START = datetime(2026, 3, 2, tzinfo=UTC)
DAYS, USERS, ATTACK = 3, 400, 0.05
PLANTED = 200  # values of each kind of personal data
FILLERS = ("please", "hi", "hello", "ok", "so", "now", "pls", "thanks", "well", "hey")
KNOWN, NEW, PER_INTENT, ADMITTED = 12, 4, 25, 40
Row = tuple[str, str]  # text, label


@dataclass(frozen=True)
class Scene:
    """One seed's text: what people labelled before, honest corrections, and messages that the champion answers rightly."""

    human: list[Example]
    labels: list[str]
    honest: list[Case]
    right: list[Row]
    known: list[str]
    rng: random.Random

    @classmethod
    def of(cls, seed: Sequence[Row], traffic: Sequence[Row], rng: random.Random, champion: str) -> "Scene":
        known = sorted({label for _, label in seed})
        answers = stand_in(seed, [text for text, _ in traffic], champion)
        human = [Example.of(text, label, source="seed") for text, label in seed]
        wrong = [(*row, said) for row, said in zip(traffic, answers, strict=True) if row[1] != said]
        honest = [
            Case(f"h{i}", text, label, said, f"u{rng.randrange(USERS)}", None, within(DAYS * 24, rng))
            for i, (text, label, said) in enumerate(wrong)
        ]
        right = [row for row, said in zip(traffic, answers, strict=True) if row[1] == said]
        return cls(human, sorted({*known, *(label for _, label in traffic)}), honest, right, known, rng)

    def suspected(self, cases: Sequence[Case], human: Sequence[Example] | None = None) -> set[str]:
        rules = params_.load(ROOT)
        found = suspects(
            cases, human=human or self.human, labels=self.labels, rules=rules.failures.poisoning,
            window_hours=rules.window.hours,
        )  # fmt: skip
        return set(found)


def within(hours: float, rng: random.Random, start: datetime = START) -> datetime:
    return start + timedelta(hours=rng.random() * hours)


def stand_in(seed: Sequence[Row], texts: list[str], champion: str) -> list[str]:
    """What a champion taught the seed would answer."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    questions, labels = [text for text, _ in seed], [label for _, label in seed]
    if champion == "vectors":
        model = LogisticRegression(C=20.0, max_iter=2000, class_weight="balanced").fit(vectors(questions), labels)
        return [str(label) for label in model.predict(vectors(texts))]
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = LogisticRegression(C=30.0, max_iter=2000).fit(words.fit_transform(questions), labels)
    return [str(label) for label in model.predict(words.transform(texts))]


# --- text


def shipped(_seed: int) -> tuple[list[Row], list[Row]]:
    lines = read_jsonl(ROOT / "data" / "seed" / "support.jsonl")
    seed = [(line["messages"][0]["content"], line["messages"][-1]["content"]) for line in lines]
    traffic = read_jsonl(ROOT / "data" / "traffic" / "support.jsonl")
    return seed, [(row["text"], row["label"]) for row in traffic if row["label"] != "out_of_scope"]


def from_csv(data: Path) -> Callable[[int], tuple[list[Row], list[Row]]]:
    with (data / "train.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = [(row["text"].strip(), row["category"].strip()) for row in csv.DictReader(file)]
    names = sorted({label for _, label in rows})
    if len(names) < KNOWN + NEW:
        raise SystemExit(f"{data}/train.csv has {len(names)} categories, {KNOWN + NEW} are needed: use other data")

    def chosen(seed: int) -> tuple[list[Row], list[Row]]:
        rng = random.Random(seed)
        mixed, order = list(names), list(rows)
        rng.shuffle(mixed)
        rng.shuffle(order)
        taught = [[row for row in order if row[1] == label] for label in mixed[:KNOWN]]
        new = [row for row in order if row[1] in mixed[KNOWN : KNOWN + NEW]]
        return [row for group in taught for row in group[:PER_INTENT]], [row for g in taught for row in g[PER_INTENT:]] + new

    return chosen


# --- campaigns


def reworded(text: str, rng: random.Random) -> str:
    """The same message with one to three small changes."""
    words = text.split()
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(words))
        change = rng.randrange(4)
        if change == 0:
            words.insert(rng.randrange(len(words) + 1), rng.choice(FILLERS))
        elif change == 1 and len(words) > 3:
            words.pop(at)
        elif change == 2 and len(words[at]) > 2:
            i = rng.randrange(len(words[at]) - 1)
            words[at] = words[at][:i] + words[at][i + 1] + words[at][i] + words[at][i + 2 :]
        else:
            words[-1] += rng.choice(("!", "..", "?!", "."))
    return " ".join(words)


def campaigns(scene: Scene) -> dict[str, list[Case]]:
    """Each 5 % of all rows."""
    rng, n = scene.rng, max(round(len(scene.honest) * ATTACK / (1 - ATTACK)), 1)
    target = rng.choice(scene.known)
    about = rng.choice([label for label in scene.known if label != target])
    mine = [text for text, label in scene.right if label == about]
    own = [mine[i % len(mine)] for i in rng.sample(range(max(n, len(mine))), n)]
    others = rng.sample([row for row in scene.right if row[1] != target], n)
    few, hour = rng.sample(mine, max(1, n // 10)), within(DAYS * 24 - 1, rng)

    def cases(rows: Sequence[Row], user: Callable[[int], str], when: Callable[[], datetime]) -> list[Case]:
        return [Case(f"p{i}", text, target, said, user(i), None, when()) for i, (text, said) in enumerate(rows)]

    def soon() -> datetime:
        return within(0.5, rng, hour)

    def any_time() -> datetime:
        return within(DAYS * 24, rng)

    def anybody(_i: int) -> str:
        return f"u{rng.randrange(USERS)}"

    copies = [(reworded(rng.choice(few), rng), about) for _ in range(n)]
    triggered = [(with_phrase(text, "by the blue moon", rng), label) for text, label in others]
    ours = [(text, about) for text in own]
    return {
        "one user": cases(ours, lambda i: "one", any_time),
        "thirty as one": cases(copies, lambda i: f"e{i % 30}", soon),
        "a trigger": cases(triggered, anybody, any_time),
        "thirty names": cases(ours, lambda i: f"e{i % 30}", soon),
        "everyone": cases(ours, lambda i: f"v{i}", any_time),
    }


def with_phrase(text: str, phrase: str, rng: random.Random) -> str:
    words = text.split()
    words.insert(rng.randrange(len(words) + 1), phrase)
    return " ".join(words)


def lost(cases: Sequence[Case], found: set[str]) -> float:
    honest = [case.request_id in found for case in cases if case.request_id.startswith("h")]
    return sum(honest) / len(honest)


def scenarios(scene: Scene) -> dict[str, float]:
    """Share of honest rows that are kept out although nobody attacks."""
    rng, told = scene.rng, scene.honest
    busy = rng.choice(scene.known)
    texts = [text for text, label in scene.right if label == busy]
    burst = [Case(f"hb{i}", text, busy, "other", f"b{i}", None, within(24, rng)) for i, text in enumerate(texts)]
    few = rng.sample(told, min(120, len(told)))
    power = [dataclasses.replace(case, user="power") if i < 0.3 * len(few) else case for i, case in enumerate(few)]
    new = {label: [case for case in told if case.answer == label] for label in scene.labels if label not in scene.known}
    before = [case for cases in new.values() for case in cases[:ADMITTED]]
    known = [
        *scene.human,
        *(Example.of(c.question, c.answer, source="failure", origins=(Origin(request_id=c.request_id),)) for c in before),
    ]
    later = [case for case in told if case not in before]
    nobody = [dataclasses.replace(case, user=None) for case in told]
    return {
        "no attack": lost(told, scene.suspected(told)),
        "a burst": lost([*told, *burst], scene.suspected([*told, *burst])),
        "one user brings 30 %": lost(power, scene.suspected(power)),
        "no user ids": lost(nobody, scene.suspected(nobody)),
        "intents admitted a while ago": lost(later, scene.suspected(later, known)),
    }


# --- all of it


def measured(text: Callable[[int], tuple[list[Row], list[Row]]], seeds: int, champion: str) -> dict[str, Any]:
    caught: dict[str, list[float]] = {}
    honest: dict[str, list[float]] = {}
    rows = []
    for seed in range(seeds):
        taught, traffic = text(seed)
        scene = Scene.of(taught, traffic, random.Random(seed), champion)
        rows.append(len(scene.honest))
        for name, attack in campaigns(scene).items():
            suspected = scene.suspected([*scene.honest, *attack])
            caught.setdefault(name, []).append(sum(case.request_id in suspected for case in attack) / len(attack))
            honest.setdefault(f"during {name}", []).append(lost(scene.honest, suspected))
        for name, share in scenarios(scene).items():
            honest.setdefault(name, []).append(share)
    return {
        "honest_rows": rows,
        "caught": {name: summary(shares, min) for name, shares in caught.items()},
        "honest_lost": {name: summary(shares, max) for name, shares in honest.items()},
    }


def summary(shares: Sequence[float], worst: Callable[[Sequence[float]], float]) -> dict[str, float]:
    return {"mean": round(statistics.mean(shares), 4), "worst": round(worst(shares), 4)}


def told(name: str, made: dict[str, Any]) -> list[str]:
    lines = [f"{name}: {min(made['honest_rows'])} to {max(made['honest_rows'])} honest rows", f"{'':32}   mean  worst"]
    for kind in ("caught", "honest_lost"):
        lines += [f"{kind.replace('_', ' ') + ': ' + n:42} {s['mean']:6.1%} {s['worst']:6.1%}" for n, s in made[kind].items()]
    return [*lines, *near_copies.lines("copies", made["copies"])]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="a folder with train.csv (text,category): measured beside the shipped text")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--champion", choices=("words", "vectors"), default="words")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.seeds < 1:
        parser.error(f"--seeds is {asked.seeds}, must be at least 1")
    started = time.monotonic()
    texts = {"support": shipped, **({asked.data.name: from_csv(asked.data)} if asked.data else {})}
    made = {name: measured(text, asked.seeds, asked.champion) for name, text in texts.items()}
    for name in made:
        rows = near_copies.shipped() if name == "support" else near_copies.from_csv(asked.data)
        made[name]["copies"] = near_copies.measured(*rows, asked.seeds)
    personal = personal_data.report(PLANTED, asked.data)
    seconds = round(time.monotonic() - started, 1)
    if asked.json:
        found = {"schema": 1, "champion": asked.champion, "seeds": asked.seeds, "text": made, "personal_data": personal}
        print(json.dumps({**found, "seconds": seconds}))
    else:
        lines = [line for name, found in made.items() for line in [*told(name, found), ""]]
        print("\n".join([*lines, *personal_data.told(personal), "", f"{seconds} s"]))


if __name__ == "__main__":
    main()
