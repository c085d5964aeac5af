"""Trial 21: an interval that is zero, reversed, without a zone or no time at all is refused with the reason."""

import subprocess
import sys
from pathlib import Path

import pytest

from monitoring.windows import of_interval
from retrain.errors import ParamsError

ROOT = Path(__file__).parents[2]
DAY, NEXT = "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"


@pytest.mark.parametrize(
    ("start", "end"), [(DAY, DAY), (NEXT, DAY), (DAY, ""), ("", NEXT), (DAY, "2026-03-02T00:00:00"), ("yesterday", NEXT)]
)
def test_an_interval_that_holds_no_time_is_refused_with_the_reason(start: str, end: str) -> None:
    with pytest.raises(ParamsError) as refused:
        of_interval(start, end)
    assert any(word in str(refused.value) for word in ("before", "must be", "zone", "no length"))


@pytest.mark.parametrize(("start", "end"), [(DAY, DAY), (NEXT, DAY)])
def test_the_command_line_refuses_it_as_bad_usage_and_writes_nothing(tmp_path: Path, start: str, end: str) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    done = subprocess.run(
        [sys.executable, "-m", "retrain.cli", "monitor", "support", "--start", start, "--end", end, "-w", str(tmp_path)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
