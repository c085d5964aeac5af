"""Real NF4 and LoRA on a random two-layer Llama: what training writes, refuses and reproduces; what generation answers."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from retrain import base, prompts, train
from retrain import params as params_
from retrain.errors import DataError, IntegrityError, ParamsError
from retrain.evaluate import Arms
from retrain.generate import Answer, Model
from retrain.records import Example, Message, read_json
from retrain.scoring import Judge

LABELS = ("order status", "refund card", "refund order")


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> params_.Params:
    root = Path(__file__).resolve().parent.parent
    labels = json.dumps(list(LABELS))
    found = params_.load(root, ["train.epochs=2", "train.batch=2", "train.max_length=32", f"adapters.support.labels={labels}"])
    (tmp_path / "data/prompts").mkdir(parents=True)
    (tmp_path / "data/prompts/support.txt").write_text("answer")
    monkeypatch.chdir(tmp_path)
    return found


WORDS = ("parcel", "refund", "card", "order")
ROWS = [
    Example.of(f"where is my {word}", LABELS[i % 3], source="seed")
    for i, word in enumerate(("parcel", "refund", "card", "order"))
]


def trained(params: params_.Params, tiny: Path, name: str = "adapter") -> Path:
    train.train(ROWS, "support", params, tiny, Path(name), Path("log.jsonl"), home=Path("home"))
    return Path(name)


def test_an_adapter_folder_holds_weights_configuration_and_a_manifest_of_all_of_it(params: params_.Params, tiny: Path) -> None:
    folder = trained(params, tiny)
    files = {"adapter_model.safetensors", "adapter_config.json", "run.json", "trained_on.json", "manifest.json"}
    assert {path.name for path in folder.iterdir()} == files
    run = read_json(folder / "run.json")
    assert run["base_digest"] == base.digest(tiny)
    assert run["steps"] == 6  # the two rarer labels twice
    assert not {"commit", "time", "host"} & run.keys()
    assert [json.loads(line)["step"] for line in Path("log.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]


def test_the_same_data_base_and_parameters_give_the_same_bytes(params: params_.Params, tiny: Path) -> None:
    assert train.verify(trained(params, tiny, "one")) == train.verify(trained(params, tiny, "two"))


def with_train(params: params_.Params, **settings: Any) -> params_.Params:
    return params.model_copy(update={"train": params.train.model_copy(update=settings)})


def test_a_rarer_label_is_shown_as_often_as_a_frequent_one_but_no_row_more_than_twice(
    params: params_.Params, tiny: Path
) -> None:
    rows = [Example.of(f"card {i}", LABELS[0 if i < 5 else 1 if i < 9 else 2], source="seed") for i in range(10)]
    shown = train.evened(rows)
    assert shown[:10] == rows
    assert Counter(row.answer for row in shown) == {LABELS[0]: 5, LABELS[1]: 5, LABELS[2]: 2}
    assert max(Counter(row.id for row in shown).values()) == 2
    assert train.evened(shown[:5]) == rows[:5] and train.evened([]) == []
    counts = zip("abcde", (4, 6, 6, 5, 90), strict=True)
    one_everywhere = [Example.of(f"{label} {i}", label, source="seed") for label, n in counts for i in range(n)]
    assert Counter(row.answer for row in train.evened(one_everywhere)) == {"a": 6, "b": 6, "c": 6, "d": 6, "e": 90}
    folder = trained(params, tiny)  # two rows of one label, one of each of the others
    run = read_json(folder / "run.json")
    assert (run["rows"], run["repeated"], run["steps"]) == (4, 2, 6)


def test_b_learns_as_many_times_as_fast_as_it_is_told(params: params_.Params, tiny: Path) -> None:
    moved = {}
    for ratio in (1.0, 4.0):
        one_step = with_train(params, epochs=1, batch=6, warmup=0.0, loraplus=ratio)
        weights = load_file(trained(one_step, tiny, f"x{ratio:g}") / "adapter_model.safetensors")
        moved[ratio] = sum(float(w.abs().sum()) for name, w in weights.items() if "lora_B" in name)
        assert json.loads(Path("log.jsonl").read_text())["learning_rate"] == one_step.train.learning_rate
    assert moved[4.0] == pytest.approx(4 * moved[1.0], rel=1e-3)  # AdamW's first step has the length of its rate


def test_one_flipped_byte_is_refused(params: params_.Params, tiny: Path) -> None:
    folder = trained(params, tiny)
    weights = folder / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(IntegrityError, match="not what its manifest.json says"):
        train.verify(folder)


def test_an_answer_that_fills_the_length_limit_is_named(params: params_.Params, tiny: Path) -> None:
    rows = [Example.of("where is my parcel", "refund " * 40, source="seed")]
    with pytest.raises(DataError, match=rows[0].id):
        train.train(rows, "support", params, tiny, Path("adapter"), Path("log.jsonl"), home=Path("home"))
    assert not Path("adapter").exists()


def test_a_few_answers_that_are_too_long_are_left_out_and_counted(params: params_.Params, tiny: Path) -> None:
    short = [Example.of(f"where is my {a} {b}", LABELS[0], source="seed") for a in WORDS for b in "abcdefghijklmno"]
    long = Example.of("where is my card", "refund " * 40, source="seed")
    train.train([*short, long], "support", params, tiny, Path("adapter"), Path("log.jsonl"), home=Path("home"))
    run = read_json(Path("adapter/run.json"))
    assert (run["rows"], run["too_long"]) == (len(short), 1)
    assert len(read_json(Path("adapter/trained_on.json"))["rows"]) == len(short)


def test_a_gpu_that_is_not_there_is_said_before_work_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParamsError, match="no CUDA device"):
        base.choose_device("cuda")


def test_rows_are_asked_apart_whatever_was_asked_before(
    params: params_.Params, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("out/base").mkdir(parents=True)
    Path("out/base/smollm2").symlink_to(tiny)
    rows = [Example.of(text, "a", source="golden") for text in ("where is a card", "where < is | a card >")]
    assert rows[0].key == rows[1].key

    def ask(some: list[Example], cache: str) -> list[str]:
        return Arms("orders", params, Path(cache)).base_arm(some)

    Path("data/prompts/orders.txt").write_text("answer")
    together = ask(rows, "cache")
    assert together[0] != together[1]
    ask(rows[:1], "begun")  # answered alone, in a batch of another shape
    asked: list[int] = []
    real = Model.answers

    def counted(model: Model, questions: Any, **given: Any) -> Any:
        asked.append(len(questions))
        return real(model, questions, **given)

    monkeypatch.setattr(Model, "answers", counted)
    assert ask(rows, "cache") == ask(rows, "begun") == together
    assert asked == [2]  # not at all, or all of them: never what is left


def test_examples_that_are_too_long_are_not_shown_and_the_question_stays(
    params: params_.Params, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("out/base").mkdir(parents=True)
    Path("out/base/smollm2").symlink_to(tiny)
    shown = [Example.of("parcel " * length, "a", source="seed") for length in (5, 3_000, 7)]
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(Arms, "_ask", lambda self, *given: asked.append((given[4], given[6])) or [])
    Arms("support", params, Path("cache")).prompted_arm(shown[:1], shown)
    ((system, length),) = asked
    assert system.count("=> a") == 2
    template = prompts.Template(base.tokenizer(tiny), system, length)
    first, second = (template.question([Message(role="user", content=text)]) for text in ("where is my card", "cancel order"))
    assert first != second


def test_a_prompt_that_leaves_no_room_for_a_question_ends_the_training_before_it_starts(
    params: params_.Params, tiny: Path
) -> None:
    Path("data/prompts/support.txt").write_text("where is my parcel " * 20)
    rows = [Example.of("where is my card", "a", source="seed")]
    with pytest.raises(ParamsError, match=r"the prompt \(data/prompts/support.txt\) alone takes \d+ tokens"):
        train.train(rows, "support", params, tiny, Path("adapter"), Path("log.jsonl"), home=Path("home"))
    assert not Path("adapter").exists()


def test_an_expected_answer_that_is_no_json_is_not_measured_and_stops_nothing() -> None:
    judge = Judge("generation", {"type": "object"})
    assert judge.right('{"a": 1}', '{"a":1}') is True
    assert judge.right('{"a": 1', '{"a":1}') is False
    assert judge.right('{"a": 1}', '{"a":1') is None
    assert judge.right('{"b": null, "a": 1.0}', '{"a":1,"b":null}') is True
    assert judge.right('{"a": true}', '{"a": 1}') is False  # Python's True == 1
    assert judge.right('{"a": %s}' % ("9" * 5000), '{"a": 1}') is False
    assert judge.right('{"a": 1e999}', '{"a": 1}') is False


def test_batched_answers_are_those_of_one_row_at_a_time_and_held_to_the_labels(params: params_.Params, tiny: Path) -> None:
    model = Model(tiny, device="cpu", adapter=trained(params, tiny))
    template = model.template("answer", 32)
    questions = [row.messages[:-1] for row in ROWS] + [
        Example.of("please cancel my lost order", "a", source="seed").messages[:-1]
    ]

    def ask(some: list, batch: int) -> list[str]:
        answers = model.answers(some, template=template, labels=LABELS, max_new_tokens=4, batch=batch)
        return [answer.text for answer in answers]

    together = ask(questions, 5)
    assert together == [ask([question], 1)[0] for question in questions]
    assert set(together) <= set(LABELS)


def test_one_load_of_the_base_answers_for_every_arm_as_clean_loads_do(params: params_.Params, tiny: Path) -> None:
    other = params.model_copy(update={"train": params.train.model_copy(update={"learning_rate": 0.05}), "seed": 3})
    arms = [trained(params, tiny, "one"), None, trained(other, tiny, "two"), None]
    questions = [row.messages[:-1] for row in ROWS]

    def ask(model: Model) -> list[Answer]:
        template = model.template("answer", 32)
        return model.answers(questions, template=template, labels=(), max_new_tokens=4, batch=4)

    clean = [ask(Model(tiny, device="cpu", adapter=arm)) for arm in arms]
    assert len({answers[0].confidence for answers in clean}) == 3  # two adapters and the base
    model, switched = Model(tiny, device="cpu"), []
    for arm in arms:
        model.use(arm)
        switched.append(ask(model))
    assert switched == clean
    assert not [name for name, _ in model.model.named_modules() if "lora" in name]


@pytest.mark.parametrize(
    ("method", "wanted", "kept"), [("qlora", "nf4", "nf4"), ("lora", "fp32", "fp32"), ("lora", "bf16", "bf16")]
)
def test_each_method_and_residency_trains_and_is_asked_as_it_was_trained(
    params: params_.Params, tiny: Path, method: str, wanted: str, kept: str
) -> None:
    settings = params.train.model_copy(update={"method": method, "base_residency": wanted})
    folder = trained(params.model_copy(update={"train": settings}), tiny)
    assert read_json(folder / "run.json")["residency"] == kept
    assert Model(tiny, device="cpu", adapter=folder).lies == base.Residency(method == "qlora", kept, "")


def test_a_base_kept_in_nf4_learns_what_one_does_that_is_dequantised_once(params: params_.Params, tiny: Path) -> None:
    curves, weights = [], []
    for kept in ("nf4", "fp32"):
        settings = params.train.model_copy(update={"base_residency": kept, "epochs": 4, "learning_rate": 0.01})
        folder = trained(params.model_copy(update={"train": settings}), tiny, kept)
        curves.append([json.loads(line)["loss"] for line in Path("log.jsonl").read_text().splitlines()])
        weights.append(load_file(folder / "adapter_model.safetensors"))
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)
    assert curves[0][-1] < 0.9 * curves[0][0]
    for name, one in weights[0].items():
        assert (one - weights[1][name]).norm() < 0.05 * one.norm(), name


def test_a_base_stays_in_nf4_where_a_dense_one_would_take_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "memory", lambda device: 48 * 10**9)
    assert base.residency("cuda", "qlora", "auto", 7 * 10**9).kept == "bf16"
    found = base.residency("cuda", "qlora", "auto", 9 * 10**9)
    assert (found.through_nf4, found.kept) == (True, "nf4")
    assert "bf16 takes 18.00 GB of at most 16.00" in found.why
    assert base.residency("cuda", "lora", "auto", 9 * 10**9) == base.Residency(False, "bf16", "")


def test_modules_to_save_and_lora_on_an_nf4_base_are_refused_with_the_reason() -> None:
    root = Path(__file__).resolve().parent.parent
    text = (root / "params.yaml").read_text().replace("  method: qlora\n", "  method: qlora\n  modules_to_save: [lm_head]\n")
    with pytest.raises(ParamsError, match="modules_to_save would train whole layers.*answers without them: remove it"):
        params_.parse(text, "params.yaml")
    with pytest.raises(ParamsError, match="method lora trains on the unrounded base"):
        params_.load(root, ["train.method=lora", "train.base_residency=nf4"])


def test_a_long_row_does_not_make_the_others_of_its_batch_longer() -> None:
    from retrain.generate import _alike

    assert _alike([10, 10, 12, 16, 17, 60, 61], 32) == [4, 5, 7]
    assert _alike([10] * 5, 2) == [2, 4, 5]
    assert _alike([], 2) == []


def test_a_long_question_is_cut_at_the_front_and_keeps_its_end(tiny: Path) -> None:
    tokenizer = base.tokenizer(tiny)
    template = prompts.Template(tokenizer, "answer", 24)
    long = Example.of("where " * 50 + "refund card", "a", source="seed").messages[:-1]
    ids = template.question(long)
    assert len(ids) <= 24
    assert "refund card" in tokenizer.decode(ids)
