"""The candidate is asked as it will serve, and the gate compares with what was judged."""

import contextlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import small
import training
from tables import failing, good, judge, served, untold

from retrain import bounds, jobs, ledger, serves
from retrain import params as params_
from retrain.base import Residency
from retrain.card import one_line, plain_lines
from retrain.case import Prediction
from retrain.errors import RetrainError
from retrain.gating import Canned
from retrain.generate import Model
from retrain.process import text_at
from retrain.records import Example, file_digest, read_json, read_jsonl, write_json, write_jsonl
from retrain.serving.engine import Batch, Engine
from retrain.verdict import Check, Served, parse_verdict

ROOT = Path(__file__).parent.parent
MOST = 16  # max_new_tokens where params do not say
LIES = "train.base_residency=fp32"  # the same whatever the machine
LEARNS = (
    LIES, "train.epochs=4", "train.learning_rate=0.003", "train.loraplus=1", "train.batch=8", "train.max_length=64",
    "train.dropout=0",
)  # fmt: skip
FREE = (*LEARNS, "adapters.support.task=generation", "adapters.support.labels=[]")
LABELS = (*LEARNS, f"adapters.support.labels=[{', '.join(small.TELLS.values())}]")
TAUGHT, ROWS = (
    [Example.model_validate_json(line) for line in small.rows(n, source, seed).splitlines()]
    for n, source, seed in ((400, "seed", 1), (60, "golden", 2))
)


# --- what the gate says


def line(**changes: Any) -> Check:
    check = judge(good(), **changes).check("serves")
    assert check
    return check


def differing(n: int) -> list[str]:
    return [f"golden {i:04}" for i in range(n)]


def test_equal_answers_pass_and_the_card_says_so() -> None:
    verdict = judge(good())
    check = verdict.check("serves")
    assert verdict.promote and check and (check.passed, check.candidate, check.n, check.threshold) == (True, 1.0, 50, 1.0)
    said = "as it will serve (cpu fp32) it answers 50 of 50 questions as when it was judged, at least 50 needed"
    assert check.why == said and f"Does it serve as it was judged? Yes: {said}." in plain_lines(verdict, {})


@pytest.mark.parametrize(
    ("on", "evaluated_on", "others", "passed"),
    [
        ("cpu fp32", "cpu fp32", 1, False),  # the same arithmetic: nothing may tip
        ("cpu bf16", "cpu bf16", 1, True),
        ("cpu bf16", "cpu bf16", 2, False),
        ("NVIDIA H100 nf4", "NVIDIA H100 nf4", 1, True),
        ("cpu fp32", "NVIDIA H100 fp32", 1, True),
        ("cpu fp32", None, 1, True),
        ("cpu fp32", None, 2, False),
    ],
)
def test_all_answers_must_be_equal_in_the_same_float32_and_49_of_50_elsewhere(
    on: str, evaluated_on: str | None, others: int, passed: bool
) -> None:
    assert line(served=served(50, *differing(others), on=on, evaluated_on=evaluated_on)).passed is passed


def test_what_rounding_explains_is_the_same_answer_but_not_in_the_same_float32() -> None:
    tied = {"tied": differing(8)}
    told = line(served=served(50, on="cpu bf16", evaluated_on="cpu bf16", **tied))
    assert told.passed and told.candidate == 1.0
    assert "it answers 50 of 50 questions as when it was judged, 8 of them but for rounding, at least 49 needed" in told.why
    assert line(served=served(50, "golden 1", "golden 2", on="cpu bf16", evaluated_on="cpu bf16", **tied)).passed is False
    assert line(served=served(50, **tied)).passed is False


def test_a_refusal_names_some_rows_and_stands_in_the_first_line() -> None:
    verdict = judge(good(), served=served(50, *differing(3), refused=["golden 0098", "golden 0099"]))
    assert failing(verdict) == [("serves", None)] and not verdict.promote
    assert one_line(verdict).endswith(
        "but as it will serve (cpu fp32) it answers 45 of 50 questions as when it was judged, at least 50 needed; other "
        "answers: golden 0098, golden 0099, golden 0000 and more; 2 of them are longer than serve.max_prompt_tokens."
    )


def test_what_cannot_be_loaded_is_refused_with_the_reason() -> None:
    verdict = judge(good(), served=served(0, why="out/support/adapter is no plain LoRA (use_dora in adapter_config.json)"))
    assert failing(verdict) == [("serves", None)]
    assert "but it cannot be loaded as it will serve: out/support/adapter is no plain LoRA" in one_line(verdict)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (None, "nobody has asked the candidate as it will serve: run dvc repro"),
        (served(50, candidate="f" * 64), "serves.json is about another adapter"),
        (served(50, predictions="f" * 64), "serves.json is about another predictions"),
        (served(0), "asked 0 questions as it will serve, 50 are needed"),
        (served(49), "asked 49 questions as it will serve, 50 are needed"),
        (served(50, equal=math.nan), "serves.json is malformed at equal"),
        (served(50, equal=math.inf), "serves.json is malformed at equal"),
        (served(50, equal=51), "51 equal and 0 other answers are not the 50 asked"),
        (served(50, *differing(2), equal=50), "50 equal and 2 other answers are not the 50 asked"),
        (served(50, schema=2), "schema is 2"),
        ({"schema": 1}, "serves.json is malformed at adapter"),
        ([], "serves.json is malformed at the file"),
    ],
)
@pytest.mark.parametrize("purpose", ["improve", "replace"])
def test_what_is_not_known_of_these_bytes_is_not_evaluated(told: Any, words: str, purpose: str) -> None:
    verdict = judge(good(), served=told, purpose=purpose)
    assert (verdict.status, verdict.promote) == ("not_evaluated", False)
    assert words in untold(verdict)["serves", None]


def test_fewer_rows_than_questions_are_all_asked() -> None:
    everything, canned = len(good()), Canned(prompts=900, equal=0.98)
    assert line(served=served(everything), serves=canned).passed
    assert line(served=served(everything - 1), serves=canned).passed is None


# --- the stage


@dataclass(frozen=True)
class Site:
    """A workspace's products of a trained candidate."""

    root: Path
    params: params_.Params

    @property
    def out(self) -> Path:
        return self.root / "out" / "support"

    def judged(self, *, prompt: str | None = None, labels: Sequence[str] | None = None, length: int | None = None) -> None:
        """Write what the candidate answered when it was judged, asked otherwise than it serves where something is given."""
        model, run = Model(self.root / "out/base/smollm2", device="cpu", adapter=self.out / "adapter"), self.run
        template = model.template(prompt or run["prompt"], length or run["max_length"])
        said = model.answers(
            [row.messages[:-1] for row in ROWS], template=template, labels=run["labels"] if labels is None else labels,
            max_new_tokens=MOST, batch=32,
        )  # fmt: skip
        arms = [{"candidate": {"answer": one.text}} for one in said]
        rows = [{"suite": "golden", "id": row.id, "arms": arm} for row, arm in zip(ROWS, arms, strict=True)]
        write_jsonl(self.out / "predictions" / "predictions.jsonl", rows)

    def predictions(self) -> list[dict[str, Any]]:
        return read_jsonl(self.out / "predictions" / "predictions.jsonl")

    @property
    def run(self) -> dict[str, Any]:
        return dict(read_json(self.out / "adapter" / "run.json"))

    def serves(self) -> Served:
        with contextlib.chdir(self.root):
            return serves.serves("support", self.params)

    def copy(self, folder: Path) -> "Site":
        return replace(self, root=Path(shutil.copytree(self.root, folder)))


def site(tiny: Path, folder: Path, *settings: str) -> Site:
    training.run(tiny, folder / "made", *settings, rows=TAUGHT)
    made = Site(folder, params_.load(ROOT, [*settings, "serve.batch=4"]))
    shutil.copytree(folder / "made" / "adapter", made.out / "adapter")
    shutil.copytree(tiny, folder / "out" / "base" / "smollm2")
    write_jsonl(made.out / "suites" / "golden.jsonl", [row.as_dict() for row in ROWS])
    write_json(made.out / "metrics.json", {"on": "cpu fp32"})
    made.judged()
    return made


@pytest.fixture(scope="module")
def chooses(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """One that chooses among labels."""
    return site(tiny, tmp_path_factory.mktemp("chooses"), *LABELS)


@pytest.fixture(scope="module")
def writes(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """One that writes."""
    return site(tiny, tmp_path_factory.mktemp("writes"), *FREE)


def verdict_of(told: Served) -> Check:
    """What the gate says of it, where these are the bytes that it judges."""
    bound = {"adapter": told.candidate, "predictions": told.predictions}
    rows = [Prediction.model_construct(arms={"candidate": None}) for _ in ROWS]
    return bounds.serves(told.as_dict(), rows, bound, Canned(prompts=50, equal=0.98))


@pytest.mark.parametrize("kind", ["chooses", "writes"])
def test_it_answers_as_it_was_judged_and_the_same_bytes_come_out_again(kind: str, request: pytest.FixtureRequest) -> None:
    where: Site = request.getfixturevalue(kind)
    told = where.serves()
    assert (told.on, told.asked, told.equal, told.tied + told.differing, told.why) == ("cpu fp32", 50, 50, (), None)
    assert told.candidate == file_digest(where.out / "adapter" / "manifest.json")
    assert verdict_of(told).passed and where.serves() == told


@pytest.mark.parametrize(
    ("kind", "otherwise"),
    [
        ("writes", {"prompt": "parcel parcel parcel parcel"}),
        ("writes", {"length": 12}),
        ("chooses", {"labels": ["card", "refund_status"]}),
    ],
)
def test_one_that_was_judged_with_another_prompt_length_or_labels_fails_and_the_rows_are_named(
    kind: str, otherwise: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    where: Site = request.getfixturevalue(kind).copy(tmp_path / "other")
    where.judged(**otherwise)
    told = where.serves()
    check = verdict_of(told)
    assert check.passed is False and told.differing[0] in check.why
    assert set(told.differing) <= {f"golden {row.id}" for row in ROWS}
    assert not any(row.question in json.dumps(told.as_dict()) for row in ROWS)


def test_a_judged_answer_within_rounding_is_tied_and_one_that_it_cannot_give_never_is(
    chooses: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = chooses.copy(tmp_path / "tied")
    where.judged(labels=["card", "refund_status"])  # the first is no label of the adapter
    before = where.serves()
    monkeypatch.setattr(serves, "ROUNDING", math.inf)
    after = where.serves()
    said = {f"{row['suite']} {row['id']}": row["arms"]["candidate"]["answer"] for row in where.predictions()}
    assert after.equal == before.equal and {said[name] for name in after.tied} == {"refund_status"}
    assert {said[name] for name in after.differing} == {"card"} and {*after.tied, *after.differing} == {*before.differing}


def test_in_one_batch_with_the_champion_it_answers_the_same(
    chooses: Site, writes: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = writes.copy(tmp_path / "beside")
    shutil.copytree(chooses.out / "adapter", where.root / "champion" / "support")
    asked = []
    together = Engine.ask_together
    monkeypatch.setattr(Engine, "ask_together", lambda engine, rows: asked.extend(rows) or together(engine, rows))
    assert where.serves() == writes.serves()
    weights = Counter(row.of.weights.digest for row in asked)
    assert sorted(weights.values()) == [13, 100]  # asked twice, the second time without a champion


def test_a_judged_answer_is_followed_and_its_distance_from_the_likeliest_is_told_in_bf16s_last_place(chooses: Site) -> None:
    import torch

    engine = Engine(chooses.root / "out/base/smollm2", device="cpu", lies=Residency(True, "fp32", "a test"), batch=4, queue=9)
    of = engine.specialist(chooses.out / "adapter", file_digest(chooses.out / "adapter" / "manifest.json"), MOST)
    engine.close()
    (best, *_), (second, *_) = (of.paths[label] for label in ("order_status", "refund_status"))
    logits = torch.full((1, 64), 40.0)
    logits[0, [path[0] for path in of.paths.values()]] = 2.0
    logits[0, best], logits[0, second] = 31.25, 31.0
    chosen, other = serves.Follow(of, "order_status"), serves.Follow(of, "refund_status")
    assert chosen.step([0], logits) == [best] and chosen.behind == 0  # what no label allows does not count
    assert other.step([0], logits) == [second] and other.behind == 2.0  # between 16 and 32 a unit is 1/8
    assert other.step([0], torch.full((1, 64), math.nan)) == [None] and other.behind == math.inf


def test_what_is_no_plain_lora_is_told_and_what_fails_of_ours_raises(
    writes: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = writes.copy(tmp_path / "dora")
    config = where.out / "adapter" / "adapter_config.json"
    write_json(config, {**read_json(config), "use_dora": True})
    manifest = where.out / "adapter" / "manifest.json"
    listed = read_json(manifest)
    write_json(manifest, {**listed, "files": {**listed["files"], config.name: file_digest(config)}})
    told = where.serves()
    assert told.why and "is no plain LoRA (use_dora in adapter_config.json)" in told.why
    assert (told.asked, told.equal) == (0, 0) and verdict_of(told).passed is False

    def out_of_memory(*args: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(Batch, "compute", out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        writes.serves()
    monkeypatch.undo()
    monkeypatch.setattr(Batch, "join", out_of_memory)
    with pytest.raises(RetrainError, match="the model failed: RuntimeError: CUDA out of memory"):
        writes.serves()


def test_bytes_that_are_not_the_manifests_cannot_be_loaded(writes: Site, tmp_path: Path) -> None:
    where = writes.copy(tmp_path / "flipped")
    with (where.out / "adapter" / "adapter_model.safetensors").open("rb+") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert "missing, added or changed" in (where.serves().why or "")


def test_questions_that_the_door_refuses_are_other_answers(writes: Site) -> None:
    most = writes.params.serve.model_copy(update={"max_prompt_tokens": 19})
    told = replace(writes, params=writes.params.model_copy(update={"serve": most})).serves()
    assert (len(told.refused), told.differing, told.asked) == (50, (), 50)
    assert "; 50 of them are longer than serve.max_prompt_tokens" in verdict_of(told).why


def test_golden_is_asked_first_and_only_what_the_candidate_was_asked(tmp_path: Path) -> None:
    rows = {name: [Example.of(f"{name} {i}", "x", source=name) for i in range(6)] for name in ("golden", "audit")}
    for name, some in rows.items():
        write_jsonl(tmp_path / f"{name}.jsonl", [row.as_dict() for row in some])
    arms = {"candidate": {"answer": "x"}}
    told = [{"suite": name, "id": row.id, "arms": arms} for name, some in rows.items() for row in some]
    told[0] = {**told[0], "arms": {"base": {"answer": "x"}}}
    found = [(name, row.id) for name, row, _ in serves.drawn(told, tmp_path, 8)]
    assert [name for name, _ in found] == ["golden"] * 5 + ["audit"] * 3 and ("golden", told[0]["id"]) not in found
    assert found[:3] == [(name, row.id) for name, row, _ in serves.drawn(told, tmp_path, 3)]


def test_a_version_that_was_really_trained_was_asked_before_it_served(learned: Any, tmp_path: Path) -> None:
    space = learned(tmp_path)
    commit = ledger.state(jobs.entries(space, "support")).champion.commit
    verdict = parse_verdict(text_at(space.root, commit, "out/support/verdict.json") or "", "verdict.json")
    check = verdict.check("serves")
    assert check and check.passed and check.n == 50 and "nobody knows" not in check.why  # the evaluation said where it ran
