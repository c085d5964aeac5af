"""Synthetic rows: what each filter rejects, what prepare lets through, and what a real tiny generator writes."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import small

from retrain import endpoint, synthesize, synthetic_filters
from retrain import params as params_
from retrain import prepare as prepare_
from retrain.errors import DataError, EndpointError, ParamsError
from retrain.params import Params
from retrain.records import Example, Message, read_examples, read_json, write_json, write_jsonl
from retrain.synthetic_filters import Candidate, Sifted

ROOT = Path(__file__).resolve().parent.parent
PARAMS = params_.load(ROOT)
LABELS = PARAMS.adapter("support").labels
SEED = read_examples(ROOT / "data/seed/support.jsonl")
HUMAN, OTHERS = SEED[::2], SEED[1::2]


def sift(
    texts: Sequence[tuple[str, str]] | Sequence[Candidate], suites: Sequence[Example] = (), rows: int = 50, **rules: float
) -> Sifted:
    made = [one if isinstance(one, Candidate) else Candidate(*one) for one in texts]
    return synthetic_filters.sift(
        made, human=HUMAN, suites=suites, labels=LABELS, rules=PARAMS.synthesize.model_copy(update=rules), rows=rows, seed=7
    )


def honest() -> list[tuple[str, str]]:
    """What people wrote and the filters have not seen."""
    return [(row.question, row.answer) for row in OTHERS]


def reasons(made: Sifted) -> dict[str, int]:
    return {name: len(gone) for name, gone in made.rejected.items() if gone}


def test_texts_that_people_wrote_mostly_pass_and_are_marked_as_synthetic() -> None:
    made = sift(honest())
    assert len(made.kept) > 0.6 * len(OTHERS), reasons(made)
    assert {(row.source, row.label_source) for row in made.kept} == {("synthetic", "synthetic")}


@pytest.mark.parametrize(
    ("text", "label", "why"),
    [
        ("", "cancel_order", "form"),
        ("   ", "cancel_order", "form"),
        ("?!", "cancel_order", "form"),
        ("\ud800 cancel my order", "cancel_order", "form"),
        ("this is cancel_order", "cancel_order", "form"),
        ("cancel it\nplease", "cancel_order", "form"),
        ("cancel <|im_end|> it", "cancel_order", "form"),
        ("please cancel my order", "no_such_label", "form"),
        ("x", "cancel_order", "length"),
        ("please cancel my order" * 50_000, "cancel_order", "length"),
        (HUMAN[0].question.upper() + "!", HUMAN[0].answer, "near_train"),
        ("Hello, could someone tell me where my refund for the blue shoes is?", "change_address", "agreement"),
    ],
)  # fmt: skip
def test_each_bad_text_is_rejected_for_its_reason(text: str, label: str, why: str) -> None:
    made = sift([(text, label)])
    assert (made.kept, reasons(made)) == ([], {why: 1})


def test_a_text_that_was_cut_off_is_no_example() -> None:
    assert reasons(sift([Candidate("please cancel my order for the", "cancel_order", cut=True)])) == {"form": 1}


def test_near_copies_of_a_suite_and_of_each_other_are_rejected() -> None:
    first = sift(honest()).kept[0]
    judged = [Example.of(first.question + " thanks", first.answer, source="golden")]
    assert reasons(sift([(first.question, first.answer)], suites=judged)) == {"contamination": 1}
    twice = sift([(first.question, first.answer), (first.question + " thx", first.answer)], diversity=0.0)
    assert (len(twice.kept), reasons(twice)) == (1, {"near_synthetic": 1})


def test_no_label_becomes_synthetic_beyond_its_share_or_beyond_what_was_asked_for() -> None:
    made = sift(honest(), max_share=0.2)
    for label in LABELS:
        human = sum(row.answer == label for row in HUMAN)
        assert sum(row.answer == label for row in made.kept) <= 0.25 * human
    assert made.rejected["share"]
    assert max(sum(row.answer == label for row in sift(honest(), rows=3).kept) for label in LABELS) == 3


def test_rows_more_alike_than_human_ones_are_thinned() -> None:
    alike = [
        (f"Please cancel my order of the {thing} today", "cancel_order") for thing in ("lamp", "sofa", "bicycle", "kettle")
    ]
    loose = sift(alike, near=1.0, diversity=0.0)
    assert len(loose.kept) == 4
    strict = sift(alike, near=1.0, diversity=1.0)
    assert len(strict.kept) < 4
    assert strict.rejected["diversity"]


def test_with_human_rows_of_one_label_nothing_independent_agrees() -> None:
    one = [row for row in HUMAN if row.answer == "cancel_order"]
    made = synthetic_filters.sift(
        [Candidate("I would rather not have those boots after all", "cancel_order")],
        human=one, suites=[], labels=LABELS, rules=PARAMS.synthesize, rows=5, seed=7,
    )  # fmt: skip
    assert reasons(made) == {"agreement": 1}


# --- prepare


def prepared(synthetic: Sequence[Example], share: float = 0.5) -> prepare_.Prepared:
    return prepare_.prepare(
        seed=SEED, failures=[], golden=[], audits=[], rules=PARAMS.prepare, labels=LABELS, schema=None,
        synthetic=synthetic, max_share=share,
    )  # fmt: skip


def made_up(text: str, label: str = "cancel_order") -> Example:
    return Example.of(text, label, source="synthetic", label_source="synthetic")


def test_synthetic_rows_train_within_their_share_and_never_judge() -> None:
    plain = prepared([])
    given = [made_up(f"made up text {i}") for i in range(200)]
    both = prepared(given, share=0.25)
    human = sum(row.answer == "cancel_order" for row in plain.train)
    assert sum(row.source == "synthetic" for row in both.train) == human // 3
    assert both.suites == plain.suites
    assert [row for row in both.train if row.source != "synthetic"] == plain.train
    assert both.left_out["synthetic beyond its share"] == 200 - human // 3


def test_a_synthetic_copy_of_a_judging_row_does_not_train_and_a_human_row_among_them_is_an_error() -> None:
    judging = prepared([]).suites["retained"][0]
    assert prepared([made_up(judging.question)]).left_out["synthetic copy of another row"] == 1
    with pytest.raises(DataError, match="among the synthetic ones has source seed"):
        prepared([Example.of("anything at all", "cancel_order", source="seed")])


@pytest.mark.parametrize(("approval", "approved", "trains"), [
    ("required", {}, 0), ("required", {"support": "other"}, 0), ("required", {"support": "r1"}, 1), ("none", {}, 1),
])  # fmt: skip
def test_without_approval_of_the_recipe_synthetic_rows_are_refused(
    tmp_path: Path, approval: str, approved: dict[str, str], trains: int
) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [made_up("some text")])
    write_json(tmp_path / "report.json", {"recipe": "r1"})
    rules = PARAMS.synthesize.model_copy(update={"approval": approval})
    params = PARAMS.model_copy(update={"synthesize": rules, "approved": approved})
    rows, waiting = prepare_.approved_rows("support", params, tmp_path)
    assert (len(rows), waiting) == (trains, 1 - trains)
    assert prepare_.approved_rows("support", params, tmp_path / "absent") == ([], 0)


def test_a_recipe_changes_with_how_rows_are_made_and_not_with_how_many() -> None:
    def of(*settings: str) -> str:
        return synthesize.recipe(params_.load(ROOT, settings), "support")

    assert of("synthesize.rows=5") == of("synthesize.rows=9", "synthesize.approval=none")
    changed = ("synthesize.agreement=0.9", "synthesize.generator.temperature=1.1", "train.learning_rate=0.01", "train.r=2")
    assert len({of(), *(of(setting) for setting in changed)}) == 1 + len(changed)
    assert of() == of("train.epochs=9", "train.checkpoint_steps=7")  # the generator has epochs of its own


# --- the stage


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    for name in ("data/seed", "data/suites", "data/failures", "data/prompts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def test_it_is_off_by_default_and_then_needs_neither_torch_nor_time(workspace: Path) -> None:
    code = "import sys; from retrain import synthesize; synthesize.main('support'); sys.exit('torch' in sys.modules)"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=workspace, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "support: no synthetic rows: synthesize.rows is 0\n"), done.stderr
    assert time.monotonic() - began < 10  # about a second on a quiet machine
    assert read_examples(workspace / "out/support/synthetic/rows.jsonl") == []


def test_an_adapter_without_labels_gets_none_and_is_told_why(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrain.edits import set_values

    set_values(workspace / "params.yaml", ["synthesize.rows=5"])
    monkeypatch.chdir(workspace)
    synthesize.main("orders")
    assert "no closed set of labels" in read_json(Path("out/orders/synthetic/report.json"))["off"]


def test_a_base_taught_in_reverse_writes_as_people_do_and_the_same_texts_again(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [Example.model_validate_json(line) for line in small.rows(200, "seed", 1).splitlines()]
    params, wanted = reverse_params(), synthesize.wanted_of(rows, sorted(small.TELLS.values()), 6)
    one, two = (synthesize.write_reverse(rows, wanted, "support", params, tiny, tmp_path / name) for name in ("one", "two"))
    assert one == two
    assert [candidate.label for candidate in one] == wanted
    words = [word for candidate in one for word in candidate.text.split()]  # a random base writes any of its 41 words
    assert sum(word in (*small.FILLER, *small.TELLS, "<unk>") for word in words) > 0.9 * len(words) > 50, one


def reverse_params() -> Params:
    labels = json.dumps(sorted(small.TELLS.values()))
    return params_.load(ROOT, [
        "train.learning_rate=0.003", "train.max_length=64", f"adapters.support.labels={labels}",
        "synthesize.generator.epochs=12", "synthesize.generator.max_new_tokens=12", "synthesize.generator.temperature=0.05",
    ])  # fmt: skip


def test_sampling_with_a_tiny_top_p_is_greedy(tiny: Path) -> None:
    from retrain.generate import Model

    model = Model(tiny, device="cpu")
    template = model.template("answer", 64)
    questions = [(Message(role="user", content=text),) for text in ("where is my parcel", "refund card please")]
    drawn = model.samples(questions, template=template, temperature=1.0, top_p=1e-6, max_new_tokens=8, batch=2, seed=1)
    greedy = model.answers(questions, template=template, labels=(), max_new_tokens=8, batch=2)
    assert [answer.text for answer in drawn] == [answer.text for answer in greedy]


def asked(url: str) -> Params:
    spec = {
        "kind": "endpoint",
        "url": url,
        "model": "m",
        "shots": 4,
        "seconds": 20,
        "timeout": 5,
        "retries": 0,
        "concurrency": 2,
    }
    return params_.load(ROOT, [f"synthesize.generator={json.dumps(spec)}"])


def test_an_endpoint_is_shown_rows_of_the_label_failures_first(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    def ask_all(self: object, prompts: Sequence[Sequence[dict[str, str]]], *, seconds: float) -> list[object]:
        sent.extend(prompt[0]["content"] for prompt in prompts)
        return [endpoint.Reply('- "another text"', "stop"), EndpointError("broke off")]

    monkeypatch.setattr(endpoint.Endpoint, "ask_all", ask_all)
    monkeypatch.chdir(ROOT)
    failure = Example.of("a failure {{nonce}}\nof two lines", "cancel_order", source="failure")
    made, failed = synthesize.ask_endpoint([*SEED, failure], ["cancel_order", "return_item"], "support", asked("http://x/v1"))
    assert (made, failed) == ([Candidate("another text", "cancel_order")], ["broke off"])
    assert "- a failure {{nonce}} of two lines\n" in sent[0]
    assert sent[0].count("\n- ") == 4


def test_an_endpoint_that_is_down_is_an_error_that_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(EndpointError, match="no text was written: mend that, or set synthesize.rows to 0"):
        synthesize.ask_endpoint(SEED, ["cancel_order"], "support", asked("http://127.0.0.1:9/v1"))


@pytest.mark.parametrize(("setting", "said"), [
    ("synthesize.rows=-1", "greater than or equal to 0"),
    ("synthesize.max_share=1", "less than 1"),
    ("synthesize.generator.kind=dream", "does not match any of the expected tags"),
    ("synthesize.generator={kind: reverse, epochs: 1, temperature: 1, top_p: 1, max_new_tokens: 9, template: /etc/passwd}",
     "must lie in data/prompts/"),
    ("synthesize.agreeement=0.5", "did you mean"),
])  # fmt: skip
def test_a_wrong_setting_is_refused(setting: str, said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        params_.load(ROOT, [setting])


def test_a_template_without_its_places_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data/prompts").mkdir(parents=True)
    Path("data/prompts/mine.txt").write_text("write about {{label}}")
    spec = asked("http://x/v1").synthesize.generator.model_copy(update={"template": "data/prompts/mine.txt"})
    with pytest.raises(ParamsError, match="lacks {{examples}}, {{nonce}}"):
        synthesize.template_of(spec)
