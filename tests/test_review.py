"""The review queue: what waits, the files for people, and their answers in the next collection. Real git and DVC."""

import csv
import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from calling import call

from retrain import collecting, founding, quarantine, review, reviewfiles, story, tombstones
from retrain.edits import set_values
from retrain.errors import DataError, NothingToDo
from retrain.params import load
from retrain.process import git
from retrain.records import parse_time, read_examples, write_jsonl
from retrain.review import Review, answers
from retrain.reviewfiles import Given, Near, Task
from retrain.tombstones import Tombstone
from retrain.workspace import Workspace

END = parse_time("2026-03-02T00:00:00Z")
TASK = Task(
    "r1", "where is it", "cancel_order", 0.31, ("feedback", "confidence"), (Near("where is my parcel", "order_status", 0.8),)
)


def asked(request: str, prompt: str, **fields: Any) -> dict[str, Any]:
    time = "2026-03-01T10:00:00Z"
    return {
        "request_id": request,
        "timestamp": time,
        "prompt": prompt,
        "response": "order_status",
        "user_id": f"of {request}",
        **fields,
    }


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Twenty unsure answers, one bad one, a broken one and a good one; nobody is drawn."""
    shipped = story.shipped().files
    shipped = {**shipped, "params.yaml": shipped["params.yaml"].replace("audit_rate: 0.3", "audit_rate: 0.0")}
    made = founding.init(tmp_path_factory.mktemp("review") / "space", files=shipped)
    rows = [asked(f"r{i}", f"where is my parcel number {i}", confidence=0.3) for i in range(20)]
    rows += [asked("bad", "=1+1 give me my money back", feedback=-1, feedback_at="2026-03-01T11:00:00Z", confidence=0.4)]
    rows += [asked("form", 'I was charged twice, see "bill"; why,\nwhy', response="I do not know"), asked("good", "hello")]
    (made.root / "logs" / "support").mkdir(parents=True)
    write_jsonl(made.root / "logs" / "support" / "a.jsonl", rows)
    return made


def take(space: Workspace, *given: tuple[str, str, str | None], day: int = 1, new_labels: bool = False) -> review.Taken:
    rows = [Given(f"f.csv:{n + 2}", *one) for n, one in enumerate(given)]
    return review.take(space, "support", rows, new_labels=new_labels, now=END + timedelta(days=day))


def test_the_queue_holds_what_has_a_reason_and_no_answer_with_the_most_reasons_first(space: Workspace) -> None:
    waits = review.queue(space, "support", END)
    assert [(row.request_id, row.reasons) for row in waits[:2]] == [("bad", ("feedback", "confidence")), ("form", ("form",))]
    assert len(waits) == 22
    assert review.queue(space, "support", END + timedelta(days=31)) == []
    tasks = review.tasks(space, "support", waits[:1])
    assert len(tasks[0].near) == review.NEAREST
    assert all(near.answer in space.params.adapter("support").labels for near in tasks[0].near)


def test_the_command_writes_both_formats_and_the_csv_survives_a_spreadsheet(space: Workspace, tmp_path: Path) -> None:
    end = ("--end", END.isoformat(), "-w", space.root, "--json")
    done = call("review", "export", "support", tmp_path / "q.csv", "--limit", "3", *end)
    assert (done.code, json.loads(done.out)["rows"], json.loads(done.out)["waiting"]) == (0, 3, 22)
    text = (tmp_path / "q.csv").read_bytes().decode("utf-8")
    assert text.startswith("\ufeff")
    rows = list(csv.DictReader(io.StringIO(text[1:], newline="")))
    assert [row["request_id"] for row in rows][:2] == ["bad", "form"]
    assert rows[0]["question"].startswith("'=1+1")  # no spreadsheet runs it
    assert call("review", "export", "support", tmp_path / "q.json", *end).code == 0
    first = json.loads((tmp_path / "q.json").read_text())[0]
    assert first["data"]["request_id"] == "bad"
    (result,) = first["predictions"][0]["result"]
    config = (tmp_path / "q.json.config.xml").read_text()
    assert f'<Choice value="{result["value"]["choices"][0]}"/>' in config
    assert f'name="{result["from_name"]}"' in config and f'toName="{result["to_name"]}"' in config


def test_answers_are_learned_by_the_next_collection_once_and_two_that_differ_are_quarantined(space: Workspace) -> None:
    given = [("r0", "refund_status", "kim"), ("r1", "refund_status", "kim"), ("r1", "cancel_order", "lee")]
    given += [("r2", "order_status", "kim"), ("r3", "", "kim"), ("r4", "refundstatus", "kim"), ("r 5", "refund_status", "kim")]
    made = take(space, *given)
    assert (made.taken, made.blank, made.conflicts) == (4, 1, 1)
    assert [problem.partition(": ")[0] for problem in made.problems] == ["f.csv:7", "f.csv:8"]
    assert "did you mean 'refund_status'" in made.problems[0] and "no request 'r 5'" in made.problems[1]
    with pytest.raises(NothingToDo, match="1 answers are known"):
        take(space, ("r0", "refund_status", "kim"), day=2)
    with pytest.raises(DataError, match="nothing was taken"):
        take(space, ("r4", "refundstatus", "kim"), day=2)
    with pytest.raises(NothingToDo):  # not known yet at that time
        collecting.collect(space, "support", END)
    assert len(review.queue(space, "support", END)) == 19

    collected = collecting.collect(space, "support", END + timedelta(days=3))
    assert (collected.rows, collected.quarantined) == (1, 2)
    git(space.root, "pull", "--quiet", "origin", "main")
    with space.clone("look") as clone:
        clone.pull(["data/failures/support.dvc"])
        (row,) = read_examples(clone.root / collected.file)
    assert (row.answer, row.label_source, row.reasons) == ("refund_status", "human", ("confidence", "review"))
    assert [origin.request_id for origin in row.origins] == ["r0"]
    out = quarantine.listed(space, "support")
    assert {(one.row.kind, one.row.request_id, one.row.reason) for one in out} == {
        ("conflict", "r1", "one question, two answers: cancel_order | refund_status")
    }
    with pytest.raises(NothingToDo):
        collecting.collect(space, "support", END + timedelta(days=4))

    take(space, ("r0", "cancel_order", "kim"), ("r6", "gift_card", "kim"), day=5, new_labels=True)
    with pytest.raises(NothingToDo, match="known before"):  # not before they were given
        collecting.collect(space, "support", END + timedelta(days=5))
    later = collecting.collect(space, "support", END + timedelta(days=6))
    assert (later.rows, later.new_labels) == (1, {"gift_card": (1, 1)})
    assert any("cancel_order | refund_status; one of them" in one.row.reason for one in quarantine.listed(space, "support"))


def test_status_says_what_waits(space: Workspace) -> None:
    data = json.loads(call("status", "-w", space.root, "--json").out)["adapters"]["support"]["review"]
    assert (data["waiting"], data["trouble"], data["oldest"]) == (0, None, None)  # today, their month has passed
    shown = review.standing(space, "support", END + timedelta(days=2), {"new_failures": 12, "unread_audit": 500})
    assert (shown.waiting, shown.reasons) == (18, {"confidence": 17, "feedback": 1, "form": 1})
    lines = shown.lines("support", END + timedelta(days=2))
    assert "wait for a person, the oldest for 2 days" in lines[0]
    assert lines[1:] == ["a retraining waits for labels: 12 of 40 labelled failure cases"]


def test_a_condition_that_is_none_takes_status_not_down(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    path = space.root / "params.yaml"
    before = path.read_text()
    set_values(path, ["failures.where=latency > 2"])
    monkeypatch.setattr(review.jobs, "remote_params", lambda _: load(space.root))
    shown = review.standing(space, "support", END, None)
    assert shown.waiting is None and "failures.where" in str(shown.trouble)
    path.write_text(before)


def test_a_drawn_request_is_refused_for_it_only_judges() -> None:
    why = review._wrong(Given("f:2", "r1", "x", None), {"r1"}, set(), 1.0)
    assert why is not None and "audit" in why


def test_what_was_erased_is_neither_shown_nor_taken(space: Workspace) -> None:
    end = END + timedelta(days=2)
    secret = tombstones.key(space.root, make=True)
    assert secret is not None
    user, request = tombstones.keyed(secret, "of r10"), tombstones.keyed(secret, "r11")
    assert {"r10", "r11"} <= {row.request_id for row in review.queue(space, "support", end)}
    lines = [Tombstone(at="x", kind=kind, hash=told, key=tombstones.fingerprint(secret))
             for kind, told in (("user", user), ("request", request))]  # fmt: skip
    with space.clone("test") as clone:
        tombstones.add(clone.root, lines)
        clone.commit([tombstones.FILE], "two tombstones")
        clone.publish(lambda c: None, tries=1)
    assert not {"r10", "r11"} & {row.request_id for row in review.queue(space, "support", end)}
    made = take(space, ("r10", "refund_status", "kim"), ("r11", "refund_status", "kim"), ("r12", "refund_status", "kim"), day=8)
    assert made.taken == 1
    assert [problem.partition(": ")[2] for problem in made.problems] == [
        f"request {name!r} was erased on request: nothing is learned from it" for name in ("r10", "r11")
    ]


def test_the_newest_import_of_each_reviewer_stands() -> None:
    def said(answer: str, reviewer: str | None, at: str) -> Review:
        return Review(request_id="r", answer=answer, reviewer=reviewer, at=at)

    one, two = "2026-03-01T00-00-00Z", "2026-03-02T00-00-00Z"
    assert answers([said("a", "kim", one), said("b", "kim", two)]) == {"r": ("b",)}
    assert answers([said("a", "kim", one), said("b", "lee", two)]) == {"r": ("a", "b")}
    assert answers([said("a", None, one), said("b", None, one)]) == {"r": ("a", "b")}
    assert answers([said("a", None, one), said("b", None, one), said("b", None, two)]) == {"r": ("b",)}


# --- files


def read(tmp_path: Path, data: str | bytes) -> list[Given]:
    path = tmp_path / "f"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return reviewfiles.read(path)


def short(given: list[Given], tmp_path: Path) -> list[tuple[str, str, str, str | None]]:
    return [(one.where.replace(str(tmp_path), ""), one.request_id, one.answer, one.reviewer) for one in given]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_a_csv_comes_back_whatever_a_spreadsheet_did_to_it(tmp_path: Path, between: str, end: str, mark: str) -> None:
    lines = [
        ["Request_ID", "question", "answer", "reviewer"],
        ["'=r1", f'"a ""b""{between} c\nd"', " x ", "kim"],
        ["", "", "", ""],
    ]
    lines += [["r2", "q", "", ""]]
    text = mark + end.join(between.join(line) for line in lines) + end
    found = short(read(tmp_path, text), tmp_path)
    assert found == [("/f:2", "=r1", "x", "kim"), ("/f:5", "r2", "", None)]


def test_what_was_exported_comes_back(tmp_path: Path) -> None:
    text = reviewfiles.as_csv([TASK]).replace(",,\r\n", ",order_status,kim\r\n")
    assert short(read(tmp_path, text), tmp_path) == [("/f:2", "r1", "order_status", "kim")]
    (task,) = json.loads(reviewfiles.label_studio([TASK], closed=True))
    result = task["predictions"][0]["result"]
    said = [{"result": result, "completed_by": 3}, {"result": [], "completed_by": {"id": 4, "email": "lee@example.org"}}]
    said += [{"result": result, "completed_by": 5, "was_cancelled": True}]
    found = short(read(tmp_path, json.dumps([{"id": 1, **task, "annotations": said}])), tmp_path)
    assert found == [("/f: task 1", "r1", "order_status", "3"), ("/f: task 1", "r1", "", "lee@example.org")]
    slim = [{"request_id": "r1", "answer": "order_status", "annotator": "kim", "annotation_id": 1, "id": 9}]
    assert short(read(tmp_path, json.dumps(slim)), tmp_path) == [("/f: task 1", "r1", "order_status", "kim")]
    text_task = json.loads(reviewfiles.label_studio([TASK], closed=False))[0]
    both = [{"result": text_task["predictions"][0]["result"]}]
    assert read(tmp_path, json.dumps([{**text_task, "annotations": both}]))[0].answer == "order_status"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "is empty"),
        ("request_id,label\nr1,x\n", ":1 must have one column answer"),
        ("request_id,answer,answer\n", "one column answer"),
        ('request_id,answer\nr1,"x\nr2,y\n', ":2 is no CSV"),
        ("request_id,answer\nr1,x\nr2,y,z\n", ":3 has 3 cells, the first line has 2"),
        (b"request_id,answer\nr1,\xff\n", "is not UTF-8"),
        ("[1]", "task 1 is a int"),
        ("[{]", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ('[{"data": {"request_id": "r1"}}]', "no list of annotations"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(tmp_path: Path, data: str | bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, data)


@pytest.mark.parametrize(
    "annotation", [1, {}, {"result": 1}, {"result": [1]}, {"result": [{"from_name": "answer", "value": {"choices": []}}]}]
)
def test_an_annotation_without_one_answer_is_blank(tmp_path: Path, annotation: Any) -> None:
    found = read(tmp_path, json.dumps([{"data": {"request_id": "r1"}, "annotations": [annotation]}]))
    assert [one.answer for one in found] == [""]
