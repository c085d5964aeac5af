"""Copies between what trains and what judges, on small tables."""

import base64
import itertools
import random
from pathlib import Path

import pytest
from test_loop import PARAMS, example, prepared

from retrain.clusters import independent, joins
from retrain.contamination import HASHES, Likeness, Trained, check, folded, paraphrases, write_trained
from retrain.copies import LONGEST, signatures
from retrain.errors import DataError
from retrain.evaluate import _base_rows
from retrain.records import Example, Origin, read_json, write_json
from retrain.text import skeleton
from retrain.tombstones import without

LIKE = Likeness(PARAMS.prepare.near, labels=True, structured=False)
QUESTION = "Where is the parcel that I ordered from you last week?"
CHANGED = "Hello, where is the parcell that I ordered from you last week?"


def row(text: str, answer: str = "a", source: str = "failure", **origin: str) -> Example:
    origins = (Origin(**{"request_id": text, **origin}),) if source != "golden" else ()
    return Example.of(text, answer, source=source, origins=origins)


def seed(n: int = 40) -> list[Example]:
    return [example(f"question {i}") for i in range(n)]


def test_a_near_copy_of_golden_does_not_train_unless_it_has_another_answer() -> None:
    golden = [row(QUESTION, source="golden")]
    made = prepared(seed=seed(), failures=[row(CHANGED)], golden=golden)
    assert CHANGED not in {one.question for one in made.train}
    assert made.left_out["near copy of a golden row"] == 1
    other = prepared(seed=seed(), failures=[row(CHANGED, "b", user="learns")], golden=golden)
    assert "near copy of a golden row" not in other.left_out


def test_a_conversation_that_judges_does_not_train() -> None:
    audits = [("2026", [example(f"audited {i}", source="audit", request=f"a{i}", talk=f"talk {i}") for i in range(20)])]
    failures = [example(f"corrected {i}", "b", "failure", f"c{i}", f"talk {i}") for i in range(40)]
    made = prepared(seed=seed(), failures=failures, audits=audits)
    talks = {talk for name in ("audit", "retained", "repair") for one in made.suites[name] for talk in one.conversations}
    learned = {talk for one in made.train for talk in one.conversations}
    assert learned
    assert not learned & talks
    assert made.left_out["of a conversation that judges"] > 5


def test_near_copies_train_as_one_row_with_the_origins_of_all() -> None:
    copies = [QUESTION, CHANGED, f"{QUESTION} Thanks!", QUESTION.replace("last", "lst")]
    rows = [row(text, user=f"u{i}", collected=f"2026-03-0{i + 1}") for i, text in enumerate(copies)]
    (kept,), stands = folded(rows, LIKE)
    assert kept.question == QUESTION  # the first that was collected
    assert {origin.user for origin in kept.origins} == {"u0", "u1", "u2", "u3"}
    assert set(stands.values()) == {kept.id}
    (first, *_), _ = folded([*rows, row(f"so {QUESTION}", source="seed")], LIKE)
    assert first.source == "seed"  # what people wrote stands for what was collected


def test_an_erased_user_takes_his_wording_along_and_another_stands_for_the_rest() -> None:
    rows = [row(QUESTION, user="gone", collected="1"), row(CHANGED, user="stays", collected="2")]
    (kept,), _ = folded(without(rows, lambda origin: origin["user"] == "gone"), LIKE)
    assert kept.question == CHANGED


def test_a_new_failure_that_copies_an_older_row_still_trains_first() -> None:
    old = [example(f"old {i}") for i in range(200)]
    texts = [f"Please, {one.question}" for one in old[:40]]
    new = [Example.of(text, "a", source="failure", origins=(Origin(request_id=text),)) for text in texts]
    made = prepared(seed=old, failures=new)
    by_seed = [one for one in made.train if one.origins and one.source == "seed"]
    alone = [one for one in made.train if one.source == "failure"]
    assert made.left_out["near copy of another training row"] == len(by_seed) > 5
    assert len(by_seed) + len(alone) == 40 - len(made.suites["repair"])


def test_what_got_through_all_the_same_fails() -> None:
    good, bad = [row("another question altogether")], [row(CHANGED)]
    suites = {"golden": [row(QUESTION, source="golden")], "audit": [row("when", source="audit", conversation="talk")]}
    check(good, suites, LIKE)
    with pytest.raises(DataError, match=rf"1 rows that would train must not, such as {bad[0].id} .*near copy of a golden row"):
        check([*good, *bad], suites, LIKE)
    with pytest.raises(DataError, match="of a conversation that judges"):
        check([row("what else", conversation="talk")], suites, LIKE)


def test_synthetic_rows_copy_nothing_either() -> None:
    given = {"seed": seed(), "golden": [row(QUESTION, source="golden")], "max_share": 0.5}
    text = Example.of(CHANGED, "a", source="synthetic", label_source="synthetic")
    assert prepared(**given, synthetic=[text]).left_out["synthetic copy of another row"] == 1


# --- paraphrases

ASKED = "I want to know when my parcel will be delivered"
REWORDED = "when will my parcel be delivered, that is what I want to know"


def test_paraphrases_of_golden_are_left_out_only_where_independent_rows_are_spared() -> None:
    golden, collected = [row(ASKED, source="golden")], [row(f"{REWORDED} {word}") for word in ("now", "again", "at last")]
    other = [Example.of(text, "a", source="seed") for text in ("my invoice has a wrong sum", "the lamp came without a bulb")]
    made = paraphrases(collected, other, golden, LIKE, cosine=0.75, most=0.01)
    assert (len(made.ids), made.independent, made.dropped) == (3, 0.0, True)
    alike = [Example.of(f"{ASKED} to {place}", "a", source="seed") for place in ("me", "my house")]
    spared = paraphrases(collected, [*other, *alike], golden, LIKE, cosine=0.75, most=0.01)
    assert (len(spared.ids), spared.independent, spared.dropped) == (3, 0.5, False)
    assert paraphrases(collected, [], golden, LIKE, cosine=0.75, most=0.01).dropped is False
    assert paraphrases([], [], [], LIKE, cosine=0.75, most=0.01).ids == frozenset()


# --- what an adapter trained on


def test_rows_that_copy_what_an_adapter_trained_on_are_recognised_without_its_texts(tmp_path: Path) -> None:
    write_trained(tmp_path / "trained_on.json", [row(QUESTION, conversation="talk"), *seed()], LIKE)
    assert "parcel" not in (tmp_path / "trained_on.json").read_text()
    asked = [row(QUESTION.upper()), row(CHANGED), row(CHANGED, "b"), row("something else", conversation="talk"), row("more")]
    told = Trained.read(tmp_path).reasons(asked, LIKE)
    assert told == [
        "copy of a training row", "near copy of a training row", None, "of a conversation that trained", None,
    ]  # fmt: skip


def test_an_older_adapter_knows_its_exact_copies(tmp_path: Path) -> None:
    write_trained(tmp_path / "trained_on.json", [row(QUESTION)], LIKE)
    (key,) = Trained.read(tmp_path).keys
    write_json(tmp_path / "trained_on.json", [key])
    assert Trained.read(tmp_path).reasons([row(QUESTION), row(CHANGED)], LIKE) == ["copy of a training row", None]


def test_structured_answers_are_alike_by_their_values_and_free_text_by_the_question_alone() -> None:
    first, second = row(QUESTION, '{"n": 1}'), row(CHANGED, '{"n":1.0}')
    assert Likeness(0.7, labels=False, structured=True).copied([second], [first]) == [0]
    assert Likeness(0.7, labels=False, structured=True).copied([row(CHANGED, '{"n":2}')], [first]) == [-1]
    assert Likeness(0.7, labels=False, structured=False).copied([row(CHANGED, "Soon.")], [row(QUESTION, "Tomorrow!")]) == [0]


def test_long_rows_that_copy_nothing_judge_and_a_copy_of_one_does_not(tmp_path: Path) -> None:
    rng = random.Random(2)
    words = ["".join(rng.choices("aeioulmnrst", k=3)) for _ in range(90)]
    texts = [" ".join(rng.choices(words, k=1500)) for _ in range(4)]
    write_trained(tmp_path / "trained_on.json", [row(text) for text in texts[:2]], LIKE)
    asked = [row(texts[2]), row(texts[0].replace(" ", " so ", 9)), row(texts[3])]
    assert Trained.read(tmp_path).reasons(asked, LIKE) == [None, "near copy of a training row", None]
    told = read_json(tmp_path / "trained_on.json")
    assert told.pop("grams") > 3
    write_json(tmp_path / "trained_on.json", {**told, "rows": older(texts[:2], told["rows"])})  # by an older version
    assert Trained.read(tmp_path).reasons(asked[1:2], LIKE) == ["near copy of a training row"]
    write_trained(tmp_path / "trained_on.json", [row(QUESTION)], LIKE)
    assert "grams" not in read_json(tmp_path / "trained_on.json")


def older(texts: list[str], rows: list[list[str]]) -> list[list[str]]:
    """Rows of a file in which long texts are sketched by their 3-grams."""
    sketches = signatures([skeleton(text) for text in texts], HASHES, short=LONGEST).astype("uint8")
    return [[*rows[0][:2], base64.b64encode(sketch.tobytes()).decode()] for sketch in sketches]


def test_the_base_is_asked_rows_that_judge_before_rows_that_do_not() -> None:
    rows = [
        ("audit", row(f"question {name}")) for name in ("".join(pair) for pair in itertools.permutations("abcdefghijklmno", 2))
    ]
    rows, joined = rows[:200], joins([one for _, one in rows[:200]], [(i, i + 1) for i in range(0, 40, 2)])
    why = ["near copy of a training row" if i >= 150 else None for i in range(200)]  # 150 judge, 130 of them are independent
    chosen = _base_rows(rows, joined, why, 120)
    assert len(chosen) == 120 and all(why[i] is None for i in chosen)
    assert len(independent(chosen, of=lambda i: (rows[i][1].id, joined[i]))) == 120
    assert sorted(_base_rows(rows, joined, why, 160))[:150] == list(range(150))
