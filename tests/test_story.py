"""A demo on any labelled CSV pair: labels that YAML would misread, rows that are no rows, and who is taught what."""

import csv
import random
from pathlib import Path

import pytest

from retrain import demo, edits, params, story
from retrain.errors import DataError, ParamsError
from retrain.prepare import learns
from retrain.records import Example, question_key

ODD = [
    "yes",
    "no",
    "1",
    "2.5",
    "null",
    "12:30",
    "card",
    "card lost",
    "Card: lost & found",
    "é/à",
    "-x",
    "#tag",
    "it's",
    "{c}",
    "~",
]


def csvs(folder: Path, rows: list[tuple[str, str]]) -> Path:
    """Those rows in train.csv, and as many others in test.csv."""
    for name, text in (("train", rows), ("test", [(text[::-1], label) for text, label in rows])):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file).writerows([("text", "category"), *text])
    return folder


def questions(label: str, rows: int) -> list[tuple[str, str]]:
    """Of unlike words."""
    rng = random.Random(label)
    return [(" ".join("".join(rng.choices("abcdefghijklmnoprstuvw", k=6)) for _ in range(8)), label) for _ in range(rows)]


def pair(folder: Path, labels: list[str], rows: int = 60) -> Path:
    return csvs(folder, [row for label in labels for row in questions(label, rows)])


def test_labels_that_yaml_reads_as_something_else_stay_labels(tmp_path: Path) -> None:
    told = story.from_csv(pair(tmp_path, ODD), initial=len(ODD) - 1, arriving=1, per_intent=5, seed=0)
    text = told.files["params.yaml"]
    assert params.parse(text, "params.yaml").adapter("intents").labels == tuple(sorted(told.initial))
    path = tmp_path / "params.yaml"
    path.write_text(text, "utf-8")
    edits.add_label(path, "intents", "off")
    assert params.parse(path.read_text("utf-8"), "params.yaml").adapter("intents").labels[-1] == "off"
    assert "# " in text and text.count("\n") > 50  # comments and layout are kept


def test_an_unquoted_label_that_is_no_text_says_to_quote_it(tmp_path: Path) -> None:
    text = story.params_text("intents", ["a", "b"]).replace("- b\n", "- no\n")
    with pytest.raises(ParamsError, match=r"adapters\.intents\.labels\.1 is False: .*put it in quotes"):
        params.parse(text, "params.yaml")


def test_who_trains_who_judges_and_what_users_ask_do_not_overlap(tmp_path: Path) -> None:
    told = story.from_csv(
        pair(tmp_path, [f"label {i}" for i in range(8)], rows=150), initial=5, arriving=2, per_intent=10, seed=1
    )
    files = {name: told.files[f"data/{name}"] for name in ("seed/intents.jsonl", "suites/intents/golden.jsonl")}
    asked = {question_key(row["text"]) for row in told.traffic}
    for text in files.values():
        assert not any(row["text"] in text for row in told.test)
    taught = params.parse(told.files["params.yaml"], "params.yaml").adapter("intents").labels
    assert set(taught) == set(told.initial) and not set(told.arriving) & set(taught)
    assert {row["label"] for row in told.traffic} == {*told.initial, *told.arriving}
    assert len(asked) == len(told.traffic)


def test_text_that_is_too_little_to_judge_by_is_said_before_anything_is_made(tmp_path: Path) -> None:
    few = pair(tmp_path, [f"label {i}" for i in range(8)], rows=30)
    with pytest.raises(DataError, match=r"leaves 5 rows that judge .* smaller --per-intent"):
        story.from_csv(few, initial=5, arriving=2, per_intent=25, seed=1)


@pytest.mark.parametrize(
    ("categories", "rows", "told"),
    [(20, 200, (12, 4, 25)), (16, 60, (12, 4, 20)), (5, 120, (4, 1, 20)), (6, 200, (5, 1, 25)), (3, 400, (2, 1, 25))],
)
def test_what_is_not_asked_for_fits_the_data(tmp_path: Path, categories: int, rows: int, told: tuple[int, ...]) -> None:
    made = story.from_csv(
        pair(tmp_path, [f"label {i}" for i in range(categories)], rows), initial=None, arriving=None, per_intent=None, seed=0
    )
    assert (len(made.initial), len(made.arriving), made.per_intent) == told


@pytest.mark.parametrize(
    ("initial", "arriving", "words"),
    [
        (None, None, "a demo needs 3"),
        (2, None, "--initial 2 and --arriving 0"),
        (12, 4, "--initial 12 and --arriving 4 ask for 16"),
    ],
)
def test_more_categories_than_there_are_is_said_with_the_number_there_are(
    tmp_path: Path, initial: int | None, arriving: int | None, words: str
) -> None:
    with pytest.raises(ParamsError, match=f"{words}.* has 2 categories"):
        story.from_csv(pair(tmp_path, ["a", "b"]), initial=initial, arriving=arriving, per_intent=None, seed=0)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("a,b\n1,2\n", DataError, "must have text and category"),
        ("text,category\n", ParamsError, "0 categories"),
        ("text,category\nhello,\n,x\n", ParamsError, "0 categories"),
    ],
)
def test_a_csv_without_rows_or_columns_says_so(tmp_path: Path, text: str, error: type[Exception], words: str) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text(text)
    with pytest.raises(error, match=words):
        story.from_csv(tmp_path, initial=2, arriving=1, per_intent=5, seed=0)


def test_a_field_without_an_end_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text('text,category\nhello,x\n"' + "word " * 40_000 + "\n")
    with pytest.raises(DataError, match="begins at line 3: field larger"):
        story.from_csv(tmp_path, initial=2, arriving=1, per_intent=5, seed=0)


def test_a_csv_that_is_not_utf8_names_the_byte(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(b"text,category\nca\xe9,x\n")
    with pytest.raises(DataError, match="not UTF-8"):
        story.from_csv(tmp_path, initial=2, arriving=1, per_intent=5, seed=0)


def test_a_quote_that_is_never_closed_names_the_row_that_it_opens(tmp_path: Path) -> None:
    lines = [f"question {i},label {i % 3}" for i in range(1000)]
    lines[400] = '"' + lines[400]
    (tmp_path / "train.csv").write_text("\n".join(["text,category", *lines, ""]))
    with pytest.raises(DataError, match="row that begins at line 402: .*end of data"):
        story.from_csv(tmp_path, initial=2, arriving=1, per_intent=5, seed=0)


def test_rare_categories_are_left_out_and_named(tmp_path: Path) -> None:
    rows = [row for i in range(10) for row in questions(f"often {i}", 120)]
    rows += [row for i in range(6) for row in questions(f"rare {i}", 1 + i % 3)]
    csvs(tmp_path, [*rows, ("no category", ""), (" ", "no text")])
    for seed in range(20):
        told = story.from_csv(tmp_path, initial=None, arriving=None, per_intent=None, seed=seed)
        seeds = [Example.model_validate_json(line) for line in told.files["data/seed/intents.jsonl"].splitlines()]
        rules = params.parse(told.files["params.yaml"], "params.yaml").prepare
        assert {row.answer for row in seeds if learns(row, rules)} == set(told.initial)
        assert set(told.initial) | set(told.arriving) == {row["label"] for row in told.traffic}
        assert not any("rare" in label for label in (*told.initial, *told.arriving))
    assert told.left_out[0] == "2 rows of train.csv have no text or no category and were skipped"
    assert "6 categories are too rare" in told.left_out[-1] and "rare 0" in told.left_out[-1]


def test_the_final_scores_are_over_all_rows_of_test_csv(tmp_path: Path) -> None:
    rows = [row for i in range(4) for row in questions(f"label {i}", 150)]
    csvs(tmp_path, [*rows, *rows[:10]])
    assert len(story.from_csv(tmp_path, initial=3, arriving=1, per_intent=None, seed=0).test) == 610


def test_a_category_named_out_of_scope_arrives_when_it_is_told_to(tmp_path: Path) -> None:
    csvs(tmp_path, [row for name in ("a", "b", "c", "out_of_scope") for row in questions(name, 150)])
    for seed in range(8):
        told = story.from_csv(tmp_path, initial=3, arriving=1, per_intent=None, seed=seed)
        assert demo._initial(told) == told.initial


def test_near_copies_inside_a_category_count_once_as_they_do_at_the_gate(tmp_path: Path) -> None:
    rows = [row for i in range(4) for row in questions(f"label {i}", 150)]
    rows += [(f"{text} please {i}", label) for text, label in rows[:10] for i in range(40)]
    csvs(tmp_path, rows)
    for seed in range(4):
        told = story.from_csv(tmp_path, initial=3, arriving=1, per_intent=10, seed=seed)
        assert told.left_out == (
            "400 rows of train.csv are near copies of another row of their category: users alone ask them",
        )
        held = "".join(text for name, text in told.files.items() if name.endswith(".jsonl"))
        asked = {row["text"] for row in told.traffic}
        assert all(text in asked and text not in held for text, _ in rows[600:])
        assert told.copies == (400 / 550 if told.arriving == ("label 0",) else 0)
    templates = [(f"please show me flights from city {i:03} to town {n}", f"kind {n}") for n in range(5) for i in range(300)]
    with pytest.raises(ParamsError, match="0 categories .beside 5 with fewer than 10 rows that copy no other"):
        story.from_csv(csvs(tmp_path, templates), initial=3, arriving=1, per_intent=10, seed=0)
