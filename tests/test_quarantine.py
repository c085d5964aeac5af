"""Rows that were kept out: written once beside the collection, and taken by the next one when a person lets them go."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from calling import call

from retrain import collecting, founding, ledger, quarantine, story
from retrain.errors import DataError, NothingToDo, ParamsError, RejectedError
from retrain.process import dvc, git
from retrain.records import Example, Origin, Quarantined, parse_time, read_examples, read_records, write_jsonl
from retrain.workspace import Workspace

DAYS = [f"2026-03-0{day}T00:00:00Z" for day in range(2, 6)]


def correction(request: str, prompt: str, answer: str) -> dict[str, Any]:
    time = "2026-03-01T10:00:00Z"
    return {
        "request_id": request, "timestamp": time, "prompt": prompt, "response": "order_status", "user_id": f"user of {request}",
        "feedback": -1, "correction": answer, "feedback_at": time,
    }  # fmt: skip


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Twenty corrections, one question with two answers, and a correction that says nothing; nobody is drawn."""
    shipped = story.shipped().files
    shipped = {**shipped, "params.yaml": shipped["params.yaml"].replace("audit_rate: 0.3", "audit_rate: 0.0")}
    made = founding.init(tmp_path_factory.mktemp("quarantine") / "space", files=shipped)
    rows = [correction(f"r{i}", f"question {i}", "refund_status") for i in range(20)]
    rows += [correction("a", "my gift is lost", "refund_status"), correction("b", "My gift is lost!", "cancel_order")]
    rows += [correction("blank", "question 40", "\u200b")]
    (made.root / "logs" / "support").mkdir(parents=True)
    write_jsonl(made.root / "logs" / "support" / "a.jsonl", rows)
    return made


def files(space: Workspace, folder: str) -> dict[str, Path]:
    """The tracked files of a folder as the remote has them, by stem."""
    git(space.root, "pull", "--quiet", "origin", "main")
    dvc(space.root, "pull", "--force", f"data/{folder}/support.dvc")
    return {path.stem: path for path in sorted((space.root / "data" / folder / "support").glob("*.jsonl"))}


def test_what_is_kept_out_is_written_once_with_its_reason_and_content_and_taken_when_released(space: Workspace) -> None:
    assert quarantine.listed(space, "support") == []  # a workspace without the folder
    made = collecting.collect(space, "support", parse_time(DAYS[0]))
    assert (made.rows, made.quarantined) == (20, 3)
    (path,) = files(space, "quarantine").values()
    rows = read_records(path, Quarantined)
    assert sorted((row.kind, row.request_id) for row in rows) == [("conflict", "a"), ("conflict", "b"), ("form", "blank")]
    assert {row.example.answer for row in rows if row.example} == {"refund_status", "cancel_order"}
    with pytest.raises(NothingToDo, match="3 are in quarantine"):
        collecting.collect(space, "support", parse_time(DAYS[1]))
    assert list(files(space, "quarantine").values()) == [path]

    right = next(row for row in rows if row.request_id == "a")
    wrong = next(row for row in rows if row.request_id == "b")
    done = call("quarantine", "release", "support", right.id, "--reason", "asked the user", "-w", space.root, "--json")
    assert (done.code, json.loads(done.out)["released"]["id"]) == (0, right.id)
    taken = collecting.collect(space, "support", parse_time(DAYS[2]))
    assert (taken.rows, taken.quarantined) == (1, 2)
    (example,) = read_examples(files(space, "failures")["2026-03-04T00-00-00Z"])
    assert (example.id, example.answer) == (right.id, "refund_status")
    with pytest.raises(NothingToDo):  # once; and the other answer stays out
        collecting.collect(space, "support", parse_time(DAYS[3]))

    listed = call("quarantine", "list", "support", "-w", space.root)
    assert f"{right.id} conflict: request a: one question, two answers: cancel_order | refund_status" in listed.out
    assert listed.out.count("(released: asked the user)") == 1
    again = call("quarantine", "release", "support", right.id, "--reason", "again", "-w", space.root)
    assert (again.code, again.err) == (4, f"{right.id} was released before: asked the user\n")
    lines = ledger.parse(git(space.root, "show", f"{space.remote_head()}:ledger/support.jsonl"), "support")
    assert [line.id for line in lines if isinstance(line, ledger.Release)] == [right.id]
    assert "released from quarantine" in call("history", "support", "-w", space.root).out
    assert not any(row.released for row in quarantine.listed(space, "support") if row.row.id == wrong.id)
    both = call("quarantine", "release", "support", wrong.id, "--reason", "both", "-w", space.root)
    assert (both.code, "neither would train. Take that one out: `retrain data erase --request a`" in both.err) == (3, True)


def test_a_release_that_cannot_be_says_why(space: Workspace) -> None:
    with contextlib.suppress(NothingToDo, ParamsError):  # where this test runs alone nothing was collected
        collecting.collect(space, "support", parse_time(DAYS[0]))
    blank = next(one.row for one in quarantine.listed(space, "support") if one.row.kind == "form")
    with pytest.raises(RejectedError, match="never released: it would train nothing: mend the correction"):
        quarantine.release(space, "support", blank.id, reason="please")
    with pytest.raises(ParamsError, match=f"did you mean '{blank.id}'"):
        quarantine.release(space, "support", blank.id[:-1], reason="please")
    with pytest.raises(ParamsError, match="--reason has 0 characters"):
        quarantine.release(space, "support", blank.id, reason=" ")


# --- what stays out, as values


def example(question: str, answer: str, request: str) -> Example:
    return Example.of(question, answer, source="failure", label_source="correction", origins=(Origin(request_id=request),))


def suspect(row: Example, kind: Any = "poisoning") -> Quarantined:
    return Quarantined(request_id=row.origins[0].request_id, kind=kind, reason="too many from one user", example=row)


def test_what_was_kept_out_before_stays_out_though_nothing_is_wrong_with_it_now() -> None:
    row, other = example("question", "a", "r1"), example("another", "a", "r2")
    made = quarantine.settle([row, other], [], earlier=[suspect(row)], released=(), seen=set())
    assert (made.rows, made.new, made.out) == ([other], [], 1)


def test_a_released_row_is_taken_though_its_log_is_gone_and_only_once() -> None:
    row = example("question", "a", "r1")
    assert quarantine.settle([], [], earlier=[suspect(row)], released={row.id}, seen=set()).rows == [row]
    assert quarantine.settle([], [], earlier=[suspect(row)], released={row.id}, seen={("r1", "a")}).rows == []


def test_a_released_row_that_is_suspected_again_is_taken() -> None:
    row = example("question", "a", "r1")
    made = quarantine.settle([], [suspect(row)], earlier=[suspect(row)], released={row.id}, seen=set())
    assert (made.rows, made.new, made.out) == ([row], [], 0)


def test_a_record_of_another_kind_or_id_is_refused_with_file_and_line(tmp_path: Path) -> None:
    good = suspect(example("question", "a", "r1")).as_dict()
    for change, words in (({"kind": "odd"}, "kind"), ({"id": "0" * 20}, "must be"), ({"schema": 9}, "update retrain-loop")):
        write_jsonl(tmp_path / "a.jsonl", [good, {**good, **change}])
        with pytest.raises(DataError, match=f"a.jsonl:2 .*{words}"):
            read_records(tmp_path / "a.jsonl", Quarantined)


def test_a_reviewers_answer_stands_above_the_doubt_about_a_user() -> None:
    given: dict[str, Any] = {"source": "failure", "label_source": "correction", "origins": (Origin(request_id="a"),)}
    doubted = Example.of("where is it", "refund_status", **given)
    held = [Quarantined(request_id="a", kind="poisoning", reason="a bad hand", example=doubted)]
    human = doubted.model_copy(update={"label_source": "human"})
    for row, taken in ((human, [human]), (doubted, [])):
        settled = quarantine.settle([row], [], earlier=held, released=(), seen=set())
        assert (settled.rows, settled.out) == (taken, 1 - len(taken))
