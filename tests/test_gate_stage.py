"""Stage `gate`: the files around the verdict."""

import json
from pathlib import Path

import pytest
from tables import SHA, Rows, good, right, served, suite

from retrain import gate
from retrain.records import file_digest
from retrain.verdict import ChampionState, read_verdict

ROOT = Path(__file__).parent.parent


def workspace(root: Path, rows: Rows) -> Path:
    """A workspace with the files that the stage reads, for adapter `support`."""
    out = root / "out" / "support"
    for folder in ("adapter", "predictions", "suites"):
        (out / folder).mkdir(parents=True)
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (root / "champion").mkdir()
    state = ChampionState(adapter="support", purpose="improve", version=1, digest=SHA["v1"], attempts=(), audit=None)
    (root / "champion" / "support.json").write_text(json.dumps(state.as_dict()))
    run = {"base_digest": SHA["base"], "template_digest": SHA["template"], "dataset": SHA["dataset"]}
    (out / "adapter" / "run.json").write_text(json.dumps(run))
    (out / "adapter" / "manifest.json").write_text("{}")
    for name in {row["suite"] for row in rows}:
        (out / "suites" / f"{name}.jsonl").write_text("{}\n" * sum(row["suite"] == name for row in rows))
    (out / "predictions" / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    digest = file_digest(out / "adapter" / "manifest.json")
    hashes = {path.stem: file_digest(path) for path in (out / "suites").iterdir()}
    metrics = {"schema": 1, "suites": {}, "candidate": digest, "champion": SHA["v1"], "hashes": hashes}
    (out / "metrics.json").write_text(json.dumps(metrics))
    told = served(50, candidate=digest, predictions=file_digest(out / "predictions" / "predictions.jsonl"))
    (out / "serves.json").write_text(json.dumps(told))
    return out


def test_the_stage_writes_verdict_and_card_and_returns_whatever_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = workspace(tmp_path, good(golden=suite("golden", right(200, 40), right(200))))
    monkeypatch.chdir(tmp_path)
    gate.main("support")
    verdict = read_verdict(out / "verdict.json")
    assert verdict.status == "failed" and verdict.bound["adapter"] == file_digest(out / "adapter" / "manifest.json")
    assert set(verdict.bound["suites"]) == {"audit", "golden", "retained", "repair"}
    assert (out / "card.md").read_text().startswith("Not promoted: ")
    assert "support: Not promoted: " in capsys.readouterr().out
    first = (out / "verdict.json").read_bytes()
    gate.main("support")
    assert (out / "verdict.json").read_bytes() == first


def test_the_stage_tells_nothing_when_the_adapter_is_not_the_one_that_was_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = workspace(tmp_path, good())
    (out / "adapter" / "manifest.json").write_text('{"files": {}}')
    monkeypatch.chdir(tmp_path)
    gate.main("support")
    assert read_verdict(out / "verdict.json").status == "not_evaluated"
    assert (out / "card.md").read_text().startswith("Could not tell: the predictions are of candidate")
