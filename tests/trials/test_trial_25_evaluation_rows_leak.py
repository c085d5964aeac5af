"""Trial 25: evaluation rows leak into training, exact, as near copies and as paraphrases, and one conversation on both sides.

Injected into the logs of a real workspace: users send questions of `golden` back, in other words, and correct the answers;
drawn requests ask what already trains; and a user corrects one request of a conversation of which another was drawn.
"""

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small

from monitoring import failures
from retrain import collecting, jobs, prepare, suites, watch
from retrain.errors import DataError
from retrain.records import Example, parse_time, read_examples, read_json, write_jsonl
from retrain.workspace import Workspace

pytestmark = pytest.mark.slow  # two trainings of a tiny base

LABELS = sorted(small.TELLS.values())
END = "2026-03-03T00:00:00Z"
ALIKE: dict[str, Callable[[str], str]] = {
    "exact": lambda text: f"{text.upper()}!",
    "typo": lambda text: text[:9] + text[10] + text[9] + text[11:],
    "polite": lambda text: f"Hello, {text}, thanks",
    "lookalike": lambda text: text.replace("a", "а").replace("e", "е"),  # Cyrillic
    "words swapped": lambda text: " ".join([*text.split()[1:3], text.split()[0], *text.split()[3:]]),
}
PARAPHRASES = [  # golden, in other words, label
    ("I want to know when my parcel will be delivered", "please tell me when the parcel gets delivered", "order_status"),
    ("Please cancel the order that I made this morning", "could you please cancel this morning's order", "cancel_order"),
]


class Log:
    """What users asked on one day, answered wrongly and corrected or, where the draw says so, audited."""

    def __init__(self, rate: float) -> None:
        self.rate, self.rows = rate, list[dict[str, Any]]()

    def ask(self, name: str, text: str, label: str, *, drawn: bool, **fields: Any) -> str:
        n = next(n for n in range(999) if failures.drawn(f"{name}-{n}", self.rate) == drawn)
        self.rows.append({
            "request_id": f"{name}-{n}", "timestamp": "2026-03-02T10:00:00Z", "feedback_at": "2026-03-02T11:00:00Z",
            "prompt": text, "response": next(other for other in LABELS if other != label), "user_id": f"user of {name}",
            "latency_ms": 100.0, "model_version": "support-v1", "audit_label" if drawn else "correction": label, **fields,
        })  # fmt: skip
        return f"{name}-{n}"


@pytest.fixture(scope="module")
def leaked(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A champion that serves, a day with every leak, and the retraining after it: what trained, what judged, the verdict."""
    folder = tmp_path_factory.mktemp("trial25")
    space = small.workspace(folder, tiny)
    natural = [Example.of(text, label, source="golden") for text, _, label in PARAPHRASES]
    suites.add(space, "support", natural, reason="questions in plain words")
    small.promoted(space, "2026-03-01T00:00:00Z")
    golden, trained = _rows(space, "golden"), _rows(space, "train")
    log, rng = Log(space.params.failures.audit_rate), random.Random(25)
    for kind, change in ALIKE.items():
        for i in range(4):
            row = golden[i]
            log.ask(f"golden {kind} {i}", change(row.question), row.answer, drawn=False)
            log.ask(f"trained {kind} {i}", change(trained[i].question), trained[i].answer, drawn=True)
    for i, (_, reworded, label) in enumerate(PARAPHRASES):
        log.ask(f"paraphrase {i}", reworded, label, drawn=False)
    for i in range(200):
        label, talk = LABELS[i % 4], f"talk {i % 60}"
        drawn = i < 140
        log.ask(f"talk {i}", small.message(label, rng), label, drawn=drawn, conversation_id=talk if i % 2 else None)
    write_jsonl(space.root / "logs" / "support" / "2026-03-02.jsonl", log.rows)
    collecting.collect(space, "support", parse_time(END))
    made = watch.retrain(space, "support", parse_time(END), say=lambda line: None)
    assert made.verdict is not None
    found = {name: _rows(space, name, made.attempt.commit) for name in ("train", "audit", "retained", "repair", "golden")}
    predictions = jobs.predictions(space, "support", made.attempt.commit)
    return {"space": space, "verdict": made.verdict, "rows": found, "predictions": predictions, "report": _report(space, made)}


def _rows(space: Workspace, name: str, commit: str | None = None) -> list[Example]:
    """Rows that train, or a suite, as `prepare` wrote them."""
    with _at(space, commit) as root:
        folder = root / "out" / "support"
        path = folder / "data" / "train.jsonl" if name == "train" else folder / "suites" / f"{name}.jsonl"
        return read_examples(path) if path.exists() else []


def _report(space: Workspace, made: jobs.Attempted) -> dict[str, Any]:
    with _at(space, made.attempt.commit) as root:
        return dict(read_json(root / "out" / "support" / "data" / "prepare.json"))


@contextlib.contextmanager
def _at(space: Workspace, commit: str | None) -> Any:
    with space.clone("look") as clone:
        commit = commit or jobs.entries(space, "support")[-1].commit
        clone.git("checkout", "--quiet", commit)
        clone.dvc("pull", "--force")
        yield clone.root


def requests(rows: list[Example]) -> set[str]:
    return {origin.request_id for row in rows for origin in row.origins}


@pytest.mark.parametrize("kind", ALIKE)
def test_what_copies_golden_trains_nothing(leaked: dict[str, Any], kind: str) -> None:
    assert not [name for name in requests(leaked["rows"]["train"]) if name.startswith(f"golden {kind}")]


def test_the_copies_are_counted(leaked: dict[str, Any]) -> None:
    held = {name for name in requests(leaked["rows"]["repair"]) if name.startswith("golden")}
    left = leaked["report"]["left_out"]
    assert left["copy of a golden row"] > 0
    assert left["copy of a golden row"] + left["near copy of a golden row"] + len(held) == 4 * len(ALIKE)
    assert left["paraphrase of a golden row"] == len(PARAPHRASES)
    assert leaked["report"]["paraphrases"]["dropped"]
    assert leaked["report"]["paraphrases"]["independent"] <= 0.01
    assert not [name for name in requests(leaked["rows"]["train"]) if name.startswith("paraphrase")]


def test_what_copies_a_training_row_judges_no_arm(leaked: dict[str, Any]) -> None:
    copies = {row.id for name in ("audit", "retained") for row in leaked["rows"][name] if _asks(row, "trained ")}
    told = {row["id"]: row["excluded"] for row in leaked["predictions"] if row["suite"] in ("audit", "retained")}
    assert len(copies) >= 10
    assert {told[row] for row in copies} == {"copy of a training row", "near copy of a training row"}
    assert sum(n for reasons in leaked["verdict"].excluded.values() for n in reasons.values()) >= len(copies)


def _asks(row: Example, name: str) -> bool:
    return any(origin.request_id.startswith(name) for origin in row.origins)


def test_no_conversation_lies_on_both_sides(leaked: dict[str, Any]) -> None:
    judging = {talk for name, rows in leaked["rows"].items() if name != "train" for row in rows for talk in row.conversations}
    training = {talk for row in leaked["rows"]["train"] for talk in row.conversations}
    assert judging
    assert not judging & training
    assert leaked["report"]["left_out"]["of a conversation that judges"] > 0
    assert [name for name in requests(leaked["rows"]["train"]) if name.startswith("talk")]  # honest rows train


def test_prepare_fails_where_one_got_through_all_the_same(leaked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "_without_leaks", lambda rows, *rest: rows)
    with _at(leaked["space"], None) as root, contextlib.chdir(root), pytest.raises(DataError, match="would train must not"):
        prepare.main("support")
