"""What today's champion makes of the collected failures, with a real adapter on a random two-layer Llama."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from retrain import params as params_
from retrain import recheck, train
from retrain.records import Example, read_json, read_jsonl, write_jsonl

ROOT = Path(__file__).resolve().parent.parent
LABELS = ("order status", "refund card", "refund order")
WORDS = ("parcel", "refund", "card", "order")
ROWS = [Example.of(f"where is my {word}", LABELS[i % 3], source="failure") for i, word in enumerate(WORDS)]
OUT = Path("out/support/recheck")


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> params_.Params:
    """A folder with the shipped params.yaml, of which support has other labels."""
    (tmp_path / "data/prompts").mkdir(parents=True)
    (tmp_path / "data/prompts/support.txt").write_text("answer")
    settings = [f"adapters.support.labels={json.dumps(LABELS)}", "train.epochs=40", "train.batch=2", "train.max_length=32"]
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    from retrain.edits import set_values

    set_values(tmp_path / "params.yaml", [*settings, "train.learning_rate=0.01"])
    monkeypatch.chdir(tmp_path)
    return params_.load().of("support")


def failures(name: str, rows: list[Example]) -> None:
    write_jsonl(Path("data/failures/support") / f"{name}.jsonl", rows)


def test_without_champion_or_failures_the_result_is_empty_and_torch_is_not_loaded(params: params_.Params) -> None:
    code = "import sys; from retrain import recheck; recheck.main('support'); sys.exit('torch' in sys.modules)"
    for rows, champion in ((ROWS, False), ([], True)):
        failures("2026-03-01T00-00-00Z", rows)
        if champion:
            Path("champion/support").mkdir(parents=True)
            Path("champion/support/manifest.json").write_text("{}")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
        assert done.returncode == 0, done.stderr
        report = read_json(OUT / "recheck.json")
        assert (report["asked"], report["champion"] is None) == (0, not champion)
        assert recheck.known(OUT) == set()
    assert recheck.known(Path("nowhere")) == set()


def test_the_champion_is_asked_each_failure_once_and_what_it_knows_is_told(
    params: params_.Params, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny, "out/base/smollm2")
    Path("champion").mkdir()
    train.train(ROWS, "support", params, tiny, Path("champion/support"), Path("log.jsonl"), home=Path("home"))
    wrong = [Example.of(row.question, LABELS[(i + 1) % 3], source="failure") for i, row in enumerate(ROWS)]
    failures("2026-03-01T00-00-00Z", ROWS)
    recheck.main("support")
    first = read_jsonl(OUT / "answers.jsonl")
    assert recheck.known(OUT) == {row["id"] for row in first if row["right"]} and len(first) == 4
    assert recheck.known(OUT), "an adapter that learned these rows for 40 epochs knows none of them"
    failures("2026-03-02T00-00-00Z", [*ROWS[:2], *wrong])  # two again, and four that the champion cannot know
    recheck.main("support")
    both = read_jsonl(OUT / "answers.jsonl")
    assert both[:4] == first and [row["id"] for row in both[4:]] == [row.id for row in wrong]
    assert not recheck.known(OUT) & {row.id for row, before in zip(wrong, first, strict=True) if before["right"]}
    report = read_json(OUT / "recheck.json")
    assert (report["champion"], report["asked"]) == (train.digest(Path("champion/support")), 8)

    monkeypatch.setattr("retrain.evaluate.Model", None)  # whoever loads it fails: all answers are known
    recheck.main("support")
    assert read_jsonl(OUT / "answers.jsonl") == both
