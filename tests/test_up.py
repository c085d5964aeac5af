"""`retrain up`: a real scheduler runs the DAGs, and Ctrl-C leaves no process behind."""

import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import services
from small import children_of, wait, workspace

from retrain import jobs, ledger
from retrain.workspace import Workspace

pytestmark = pytest.mark.slow
FIRST = "2026-03-02T00:00:00Z"


@pytest.fixture(scope="module")
def up(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, "subprocess.Popen[str]", str]]:
    """A workspace, `retrain up` on it, and what it printed once all of it answered."""
    space = workspace(tmp_path_factory.mktemp("up"), tiny)
    with services.run(space) as (process, said):
        yield space, process, said


def test_the_scheduler_trains_and_promotes_and_nothing_is_left_after_an_interrupt(
    up: tuple[Workspace, "subprocess.Popen[str]", str],
) -> None:
    space, process, said = up
    airflow = services.Airflow.of(said)
    for name, words in (
        ("pages", "How the adapters are doing"),
        ("Evidently", "Evidently"),
        ("MLflow", "MLflow"),
        ("door", "Was this"),
    ):
        address = re.search(rf"{name} +(http://\S+)", said)
        assert address, said
        with urllib.request.urlopen(address[1].removesuffix("v1"), timeout=30) as answer:
            assert words in answer.read().decode()
    for name in ("mlflow", "evidently"):
        assert "http://127.0.0.1:" in (space.local / "reports" / name / "index.html").read_text()
    airflow.wait_for_dag("retrain_support")
    assert airflow("GET", "/api/v2/importErrors")["total_entries"] == 0
    assert airflow.run("retrain_support", {"end": FIRST}) == "success"
    champion = ledger.state(jobs.entries(space, "support")).champion
    assert champion is not None
    assert champion.tag == "support-v1"
    assert airflow.run("guard_champion", {}) == "success"
    assert children_of(space)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    wait(lambda: not children_of(space), f"still there: {children_of(space)}", 10)
