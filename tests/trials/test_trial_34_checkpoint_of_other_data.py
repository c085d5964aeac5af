"""Trial 34: a checkpoint of other data, another order, base or other parameters is never resumed."""

from pathlib import Path

import pytest
import training


@pytest.mark.parametrize("other", ["rows", "parameters", "seed", "itself"])
def test_only_the_very_run_is_gone_on_with(tiny: Path, tmp_path: Path, other: str, capfd: pytest.CaptureFixture[str]) -> None:
    training.cut_off(tiny, tmp_path, 6)
    more = {"parameters": ["train.learning_rate=0.001"], "seed": ["seed=8"]}.get(other, [])
    rows = training.ROWS[:-2] if other == "rows" else None
    training.run(tiny, tmp_path, *more, rows=rows)
    assert ("goes on after step 6" in capfd.readouterr().out) == (other == "itself")
    left = training.checkpoints(tmp_path)
    assert bool(left) == (other != "itself")  # the other run may still be gone on with
