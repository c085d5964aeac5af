"""Files of OpenAI's formats: what becomes of each line, and a first gate on nothing else (a tiny base, real training)."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import small
from calling import call

from retrain import lineage, openai
from retrain.overlay import FILE
from retrain.records import read_examples
from retrain.store import Store
from retrain.workspace import Workspace

ASK = {"role": "user", "content": "where is my parcel"}
CALL = {"function": {"name": "track", "arguments": '{"parcel": "é1"}'}}


TOLD = {"name": "track", "arguments": {"parcel": "é1"}}
SPELT = json.dumps(TOLD, ensure_ascii=False)


def said(**message: Any) -> dict[str, Any]:
    """A question and this answer."""
    return {"messages": [ASK, {"role": "assistant", **message}]}


def line(data: Any) -> str:
    return json.dumps(data)


@pytest.mark.parametrize(
    ("data", "answer", "source", "label_source"),
    [
        (said(content="soon"), "soon", "seed", "human"),
        (said(content=[{"type": "text", "text": "soon"}]), "soon", "seed", "human"),
        ({**said(content=None, tool_calls=[CALL]), "tools": [{"function": TOLD}]}, SPELT, "seed", "human"),
        (said(function_call=CALL["function"]), SPELT, "seed", "human"),
        (
            {
                "input": {"messages": [{"role": "developer", "content": "be kind"}, ASK]},
                "preferred_output": [{"role": "assistant", "content": "soon"}],
                "non_preferred_output": [{"role": "assistant", "content": "no"}],
            },
            "soon", "seed", "correction",
        ),
        ({"input": [ASK], "ideal": "soon"}, "soon", "golden", "human"),
        ({"input": "where", "ideal": ["soon", "soon"]}, "soon", "golden", "human"),
        ({"item": {"ticket_text": "my screen", "correct_label": "hardware"}}, "hardware", "golden", "human"),
        ({"item": {"question": "2 + 2", "ideal": 4}}, "4", "golden", "human"),
        ({"prompt": "where ->", "completion": " soon"}, "soon", "seed", "human"),
    ],
)  # fmt: skip
def test_a_line_becomes_a_row_as_it_is(data: dict[str, Any], answer: str, source: str, label_source: str) -> None:
    taken = openai.parse(line(data))
    assert (taken.row.answer, taken.row.source, taken.row.label_source) == (answer, source, label_source)
    assert taken.tools == (("track",) if "tools" in data else ())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "must be an object"),
        ("{}", "its fields are none"),
        (line({"messages": []}), "empty one"),
        (line({"messages": "x"}), "no list"),
        (line({"messages": [ASK]}), "end with the assistant's answer"),
        (line(said(content=" ")), "blank"),
        (line(said(content=None)), "no content"),
        (line(said(content="a", weight=0)), "weight 0"),
        (line(said(content=[{"type": "image_url"}])), "image_url"),
        (line(said(tool_calls=[{"function": {"name": "f", "arguments": "{"}}])), "no JSON"),
        (line(said(content="\ud800")), "surrogate"),
        (line({"messages": [ASK, {"role": "robot", "content": "a"}]}), "Input should be"),
        (line({"messages": [3, {"role": "assistant", "content": "a"}]}), "no object with a role"),
        (line({"input": {}, "preferred_output": []}), "without input.messages"),
        (line({"input": {"messages": [ASK]}, "preferred_output": [], "non_preferred_output": []}), "empty one"),
        (line({"input": "a", "ideal": ["x", "y"]}), "2 right answers"),
        (line({"item": {"frage": "a", "ideal": "x"}}), "--question-field"),
        ('{"input": "a", "ideal": NaN}', "not JSON"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_says_why(text: str, why: str) -> None:
    with pytest.raises(openai.NotTaken) as told:
        openai.parse(text)
    assert why in str(told.value)


def test_items_with_names_of_their_own_are_named() -> None:
    taken = openai.parse(line({"item": {"frage": "wo", "antwort": "da"}}), question="frage", answer="antwort")
    assert (taken.row.question, taken.row.answer) == ("wo", "da")


# --- to a first gate


def chat(label: str, text: str) -> str:
    return line({"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": label}]}) + "\n"


@pytest.fixture(scope="module")
def made(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, dict[str, Any]]:
    """docs/openai.md up to the import: 300 chat lines, 60 items, and lines that cannot be taken."""
    folder, rng, labels = tmp_path_factory.mktemp("openai"), random.Random(4), sorted(small.TELLS.values())
    base = ["bases.smollm2.name=" + json.dumps(str(tiny.parent / "raw"))]
    fewer = ["gates.min_rows=40", "prepare.retained_share=0.2", "prepare.first_audit_share=0.3", "prepare.max_per_label=100"]
    settings = [word for value in (*small.FAST, *base, *fewer, "promotion.approval=auto") for word in ("--set", value)]
    named = [word for label in labels for word in ("--label", label)]
    assert call("init", folder / "ws", "--empty", "tickets", *named, *settings).code == 0
    train, judge = folder / "train.jsonl", folder / "eval.jsonl"
    texts = list(dict.fromkeys(small.message(labels[i % 4], rng) for i in range(400)))
    told = [(next(told for word, told in small.TELLS.items() if word in text.split()), text) for text in texts]
    train.write_text("".join(chat(*row) for row in told[:300]) + "{\n" + chat("no_such", "what is my parcel") + chat(*told[0]))
    judge.write_text("".join(line({"item": {"input": text, "ideal": label}}) + "\n" for label, text in told[300:360]))
    called = call("import", "openai", train, judge, "-w", folder / "ws", "--json")
    assert called.code == 0, called.err
    return Workspace.open(folder / "ws"), json.loads(called.out)


def test_the_report_counts_what_was_taken_and_names_the_other_lines(made: tuple[Workspace, dict[str, Any]]) -> None:
    train, judge = made[1]["files"]
    assert (train["lines"], train["seed"], train["golden"], train["known"]) == (303, 300, 0, 1)
    assert [(one["line"], one["why"][:9]) for one in train["not_taken"]] == [(301, "it is not"), (302, "the label")]
    assert (judge["golden"], judge["kinds"], judge["not_taken"]) == (60, {"eval": 60}, [])
    rows = lineage.rows_at(Store(made[0]), "tickets", made[0].remote_head())
    assert [sum(row.part == part for row in rows) for part in ("seed", "golden")] == [300, 60]


def test_the_same_files_again_add_nothing_and_a_second_file_leaves_the_first_as_it_is(
    made: tuple[Workspace, dict[str, Any]], tmp_path: Path
) -> None:
    space, _ = made
    again = tmp_path / "eval.jsonl"
    rows = lineage.rows_at(Store(space), "tickets", space.remote_head())
    one, two = [row for row in rows if row.part == "golden"][:2]
    other = next(label for label in small.TELLS.values() if label != two.answer)
    again.write_text(chat(one.answer, one.question))
    head = space.remote_head()
    told = call("import", "openai", again, "--to", "golden", "-w", space.root)
    assert (told.code, "holds all 1 rows already" in told.err, space.remote_head()) == (4, True, head)
    again.write_text(chat(one.answer, "brand new question") + chat(other, two.question))
    told = call("import", "openai", again, "--to", "golden", "-w", space.root)
    assert told.code == 0
    assert "1 into golden" in told.out
    assert "is golden with the answer" in told.out
    files = Store(space).files(space.remote_head(), "data/suites/tickets")
    assert set(files) == {"golden.jsonl", FILE}


@pytest.mark.slow
def test_a_first_candidate_from_these_files_passes_the_gate_and_serves(made: tuple[Workspace, dict[str, Any]]) -> None:
    space, _ = made
    called = call("repro", "tickets", "-w", space.root)
    assert called.code == 0, called.out[-500:] + called.err
    assert call("promote", "tickets", "-w", space.root).out.startswith("tickets-v1 is champion")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("{file}", "--to", "attic"), "must be seed or golden"),
        (("/no/such.jsonl",), "does not exist"),
        (("{file}", "--adapter", "nobody"), "is not in params.yaml"),
        (("{file}",), "no line could be taken"),
    ],
)
def test_a_call_that_cannot_be_followed_says_the_fix(
    made: tuple[Workspace, dict[str, Any]], tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "file").write_text("\n[]\n")
    called = call("import", "openai", *(word.format(file=tmp_path / "file") for word in words), "-w", made[0].root)
    assert (called.code, said in called.err) == (2, True), called.err


def test_a_workspace_for_answers_needs_no_labels_and_names_are_checked(tmp_path: Path) -> None:
    assert call("init", tmp_path / "a", "--empty", "writer").code == 0
    assert read_examples(tmp_path / "a" / "data" / "seed" / "writer.jsonl") == []
    assert Workspace.open(tmp_path / "a").params.adapter("writer").task == "generation"
    for words in (
        ("--empty", "../x"),
        ("--empty", "x", "--label", "one"),
        ("--label", "one"),
        ("--empty", "x", "--adapter", "support"),
    ):
        assert call("init", tmp_path / "b", *words).code == 2
        assert not (tmp_path / "b").exists()
