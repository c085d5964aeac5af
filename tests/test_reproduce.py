"""Promise 4: from a promotion's tag, in another clone with nothing cached, the same adapter, predictions and verdict."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small import workspace

from retrain import jobs, watch
from retrain.records import parse_time
from retrain.workspace import Workspace

RECIPE = """
set -euo pipefail
git clone --quiet --branch support-v1 "$ORIGIN" again
cd again
dvc remote add --quiet --local --default retrain "$STORE"
dvc pull --quiet $(git ls-files '*.dvc')
dvc repro --force --no-run-cache
git diff --exit-code
"""


@pytest.fixture(scope="module")
def promoted(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    space = workspace(tmp_path_factory.mktemp("reproduce"), tiny)
    watch.retrain(space, "support", parse_time("2026-03-02T00:00:00Z"), say=lambda line: None)
    assert jobs.promote(space, "support").tag == "support-v1"
    return space


def test_another_clone_of_the_tag_reproduces_every_byte(promoted: Workspace, tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key != "RETRAIN_CACHE"}
    env |= {"ORIGIN": promoted.remote, "STORE": promoted.dvc_remote, "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}
    done = subprocess.run(["bash", "-c", RECIPE], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Running stage 'train@support'" in done.stdout
    assert "cached" not in done.stdout
