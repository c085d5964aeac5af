"""A person changes what judges: the overlay, its ledger line, the card. Real git and DVC."""

import json
from pathlib import Path

import pytest
from calling import call

from retrain import founding, jobs, ledger, lineage, overlay, story
from retrain import params as params_
from retrain.card import card
from retrain.overlay import Change
from retrain.prepare import prepare
from retrain.records import Example
from retrain.rows import Row
from retrain.store import Store
from retrain.verdict import Verdict
from retrain.workspace import Workspace

AT = "2026-03-01T00:00:00Z"
A, B = (Example.of(question, "a", source="golden") for question in ("first question", "second question"))


def relabel(row: Example, answer: str) -> Change:
    return Change(at=AT, kind="relabel", reason="r", id=row.id, answer=answer, new=overlay.relabelled(row, answer).id)


def test_changes_are_applied_in_their_order() -> None:
    there, back = relabel(A, "b"), relabel(overlay.relabelled(A, "b"), "a")
    assert [row.answer for row in overlay.applied([A, B], [there])] == ["b", "a"]
    assert overlay.applied([A], [there, back]) == [A]
    assert [row.answer for row in overlay.applied([A], [there, back, there])] == ["b"]
    gone = Change(at=AT, kind="retire", reason="r", id=A.id)
    assert overlay.applied([A, B], [gone]) == [B]
    assert overlay.applied([A], [gone, there]) == []
    again = Change(at=AT, kind="add", reason="r", row=A)
    assert overlay.golden([A, B], [gone, again]) == [B, A]
    assert overlay.golden([], [again, there, relabel(overlay.relabelled(A, "b"), "c")])[0].answer == "c"


def test_what_is_changed_judges_so_in_every_suite_and_trains_nothing_else() -> None:
    rules = params_.load(".").prepare
    seed = [Example.of(f"question {i}", "a", source="seed") for i in range(40)]
    rows = {"seed": seed, "failures": [], "golden": [A, B], "audits": [("s", [A])], "rules": rules, "schema": None}
    plain = prepare(**rows, labels=("a", "b"))
    held = plain.suites["retained"][0]
    retired = [Change(at=AT, kind="retire", reason="r", id=row.id) for row in (A, held)]
    made = prepare(**rows, labels=("a", "b"), changes=[*retired, relabel(B, "b")])
    assert made.train == plain.train
    assert [row.answer for row in made.suites["golden"]] == ["b"]
    assert "audit" not in made.suites
    assert held.id not in {row.id for row in made.suites["retained"]}
    assert len(made.suites["retained"]) == len(plain.suites["retained"]) - 1


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return founding.init(tmp_path_factory.mktemp("suites") / "ws", files=story.shipped().files)


def golden(space: Workspace) -> dict[str, Row]:
    found = lineage.rows_at(Store(space), "support", space.remote_head())
    return {row.id: row for row in found if row.part == "golden"}


def suite(space: Workspace, *words: object) -> tuple[object, str]:
    called = call("suite", *words, "-w", space.root)
    return called.code, called.out + called.err


def test_a_new_version_of_the_suites_is_a_commit_with_a_ledger_line_and_its_files_stay(
    space: Workspace, tmp_path: Path
) -> None:
    before, rows = golden(space), tmp_path / "new.jsonl"
    files = Store(space).files(space.remote_head(), "data/suites/support")
    new = [{"question": f"may I return a gift {i}", "answer": "return_item"} for i in range(2)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in new))
    one, two, *_ = before.values()
    other = next(row.answer for row in before.values() if row.answer != one.answer)
    assert suite(space, "add", "support", rows, "--reason", "gifts can be returned")[0] == 0
    assert suite(space, "relabel", "support", one.id, other, "--reason", "moved")[0] == 0
    assert suite(space, "retire", "support", two.id, "--reason", "gone")[0] == 0
    after = golden(space)
    assert len(after) == len(before) + 1
    assert two.id not in after
    assert one.id not in after
    assert next(row for row in after.values() if row.question == one.question).answer == other
    lines = jobs.entries(space, "support")
    assert [(line.change, line.rows, line.reason) for line in lines if isinstance(line, ledger.Suite)] == [
        ("add", 2, "gifts can be returned"), ("relabel", 1, "moved"), ("retire", 1, "gone"),
    ]  # fmt: skip
    now = Store(space).files(space.remote_head(), "data/suites/support")
    assert {name: blob for name, blob in now.items() if name != overlay.FILE} == files
    assert "suites changed: 1 row retired: gone" in call("history", "support", "-w", space.root).out
    for again in (("add", "support", rows), ("retire", "support", two.id)):
        code, said = suite(space, *again, "--reason", "twice")
        assert (code, "so already" in said) == (4, True)
    assert jobs.entries(space, "support") == lines


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("retire", "support", "f" * 20, "--reason", "r"), "no row"),
        (("retire", "support", "../../x", "--reason", "r"), "no row"),
        (("retire", "support", "{id}", "--reason", "  "), "--reason"),
        (("retire", "support", "{id}", "--reason", "x" * 501), "--reason"),
        (("relabel", "support", "{id}", "no_such_label", "--reason", "r"), "does not list"),
        (("relabel", "support", "{id}", " ", "--reason", "r"), "blank"),
        (("add", "support", "/no/such", "--reason", "r"), "does not exist"),
        (("add", "support", "{empty}", "--reason", "r"), "holds no rows"),
        (("add", "support", "{other}", "--reason", "r"), "is golden with the answer"),
        (("add", "support", "{twice}", "--reason", "r"), "has two answers, 'return_item' and 'cancel_order'"),
        (("add", "nobody", "{empty}", "--reason", "r"), "is not in params.yaml"),
    ],
)
def test_what_cannot_be_a_change_is_refused_and_nothing_is_pushed(
    space: Workspace, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    row = next(iter(golden(space).values()))
    label = "return_item" if row.answer != "return_item" else "cancel_order"
    (tmp_path / "empty").write_text("\n\n")
    (tmp_path / "other").write_text(json.dumps({"question": row.question, "answer": label}))
    twice = [{"question": "both of them", "answer": answer} for answer in ("return_item", "cancel_order")]
    (tmp_path / "twice").write_text("".join(json.dumps(one) + "\n" for one in twice))
    head = space.remote_head()
    known = {"id": row.id, "empty": tmp_path / "empty", "other": tmp_path / "other", "twice": tmp_path / "twice"}
    code, told = suite(space, *(word.format(**known) for word in words))
    assert (code, said in told) == (2, True), told
    assert space.remote_head() == head


def test_the_card_tells_what_was_changed_since_the_champion_was_judged() -> None:
    attempt = {
        "adapter": "support",
        "at": AT,
        "purpose": "first",
        "end": "e",
        "commit": "c",
        "status": "passed",
        "promote": True,
    }
    tried = ledger.Attempt(**attempt, digest="d", dataset="x", audit=None, champion=None, why="w")
    early, late = (ledger.Suite(at=AT, adapter="support", change="retire", rows=n, reason="r") for n in (2, 3))
    known = ledger.suite_changes([early, tried, late], "d")
    changes = [Change(at=AT, kind="retire", reason=f"why {i > 1}", id=str(i)) for i in range(5)]
    assert overlay.since(changes, known) == ["3 rows retired (why True)"]
    verdict = Verdict(
        adapter="support", purpose="improve", promote=False, status="not_evaluated", checks=(), excluded={}, bound={}
    )
    told = card(verdict, {"suites": {}}, [], overlay.since(changes, known))
    assert "**The suites were changed since the champion was judged:** 3 rows retired (why True)." in told
    assert "suites were changed" not in card(verdict, {"suites": {}}, [])
