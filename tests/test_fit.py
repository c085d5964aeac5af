"""What a training will take is told before a weight is loaded, with numbers, and a no has numbers too."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import training

from retrain import base, fit, meter
from retrain import params as params_
from retrain.errors import ParamsError
from retrain.records import read_json
from retrain.registry.runs import TrainingRun

ROWS = [([5] * 20, [6] * (1 + i % 3)) for i in range(16)]
FP32 = base.Residency(True, "fp32", "")


def planned(tiny: Path, has: int, *overrides: str, flops: float | None = None) -> fit.Plan:
    settings = params_.load(training.ROOT, overrides).of("support").train
    return fit.plan(tiny, settings, FP32, ROWS, device="cpu", cut=0, has=has, flops=flops)


def test_weights_trained_weights_tokens_and_time_are_counted(tiny: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(tiny / "model.safetensors")
    found = planned(tiny, 10**9, flops=1e9)
    assert found.parameters == sum(w.numel() for w in weights.values())
    assert found.trained == sum(16 * sum(w.shape) for name, w in weights.items() if name.endswith("_proj.weight"))
    assert found.memory["base"] == 4 * found.parameters
    assert found.tokens == sum(20 + len(c) for _, c in ROWS)
    assert found.supervised == (1, 2.0, 3)
    inner = sum(w.numel() for name, w in weights.items() if name.endswith("_proj.weight"))
    assert found.seconds == pytest.approx(4 * inner * found.tokens * 4 / (fit.SHARE * 1e9))
    assert found.at_once == 8
    assert "rows at once; 16 rows" in found.told()


def test_a_base_in_nf4_computes_in_fp32_on_a_cpu_and_that_is_what_its_rows_take(tiny: Path) -> None:
    settings = params_.load(training.ROOT).of("support").train
    given = {"device": "cpu", "cut": 0, "has": 10**9, "flops": 1e9}
    nf4 = fit.plan(tiny, settings, base.Residency(True, "nf4", ""), ROWS, **given)
    assert nf4.memory["micro-batch"] == planned(tiny, 10**9).memory["micro-batch"]
    assert nf4.memory["base"] < planned(tiny, 10**9).memory["base"]


def test_the_micro_batch_is_what_fits_and_nothing_that_fits_is_refused_with_the_numbers(tiny: Path) -> None:
    whole = planned(tiny, 10**9)
    fixed = whole.memory["base"] + whole.memory["adapter and optimizer"]
    tight = planned(tiny, round((fixed + whole.memory["micro-batch"] / 3) / fit.MOST))
    assert tight.at_once == 2
    with pytest.raises(ParamsError, match=r"one row of 23 tokens does not fit: GB needed are base .* lower train.max_length"):
        planned(tiny, fixed)


def test_a_training_tells_its_plan_first_and_writes_what_it_cost(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    real = base.load
    monkeypatch.setattr(base, "load", lambda *given: (loaded.append(capsys.readouterr().out), real(*given))[1])
    training.run(tiny, tmp_path)
    assert "12 rows" in loaded[0] and "rows at once" in loaded[0] and "on cpu" in loaded[0]
    cost = read_json(tmp_path / "log.cost.json")
    assert cost["device_seconds"] > 0 and cost["peak_bytes"] > 10**8
    assert cost["tokens"] > cost["supervised"] == 2 * sum(2 + 1 for _ in training.ROWS)
    assert not cost.keys() & read_json(tmp_path / "adapter" / "run.json").keys() - {"schema"}
    assert "device" not in meter.read(tmp_path / "log.cost.json")
    assert meter.read(tmp_path / "none.json") == {}


def test_a_plan_that_says_fewer_rows_at_once_is_followed(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = training.run(tiny, tmp_path / "one", "train.dropout=0")
    monkeypatch.setattr(base, "memory", lambda device: 10**9)
    monkeypatch.setattr(fit, "_activations", lambda rows, config, width: len(rows) * 10**9 // 2)
    assert training.run(tiny, tmp_path / "two", "train.dropout=0") != one
    assert read_json(tmp_path / "two/adapter/run.json")["at_once"] == 1
    curves = [training.losses(tmp_path / name) for name in ("one", "two")]
    assert curves[0] == pytest.approx(curves[1], rel=0.02)


def test_the_budget_counts_the_seconds_of_the_device_where_they_were_recorded() -> None:
    start = datetime(2026, 3, 2, tzinfo=UTC)
    end = start + timedelta(hours=1)
    assert TrainingRun("a", start, end, "FINISHED", {}).span == (start, end)
    assert TrainingRun("a", start, end, "FINISHED", {}, 60.0).span == (start, start + timedelta(minutes=1))
    assert TrainingRun("a", start, None, "RUNNING", {}, 60.0).span == (start, None)
