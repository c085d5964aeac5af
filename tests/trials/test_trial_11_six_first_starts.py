"""Trial 11: six first starts at once, on a fresh SQLite file and on a fresh MLflow server (PostgreSQL): one initialisation."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import servers

from retrain.params import Mlflow
from retrain.registry import Registry

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[2]
FIRST = """
import sys
from pathlib import Path
from retrain.params import Mlflow
from retrain.records import file_digest, write_json
from retrain.registry import Registry

uri, root, day = sys.argv[1] or None, Path(sys.argv[2]), sys.argv[3]
registry = Registry.open(Mlflow(uri=uri, timeout=30), root)
registry.log_window("fresh", {"start": "2026-03-01T00:00:00Z", "end": f"2026-03-0{day}T00:00:00Z"}, {"rows": 1}, [])
folder = root / day
folder.mkdir()
(folder / "adapter_model.safetensors").write_text(day)
write_json(folder / "manifest.json", {"files": {path.name: file_digest(path) for path in folder.iterdir()}})
run, digest = registry.start_training("fresh", {}), file_digest(folder / "manifest.json")
registry.register("fresh", folder, digest=digest, tags={}, description="", run_id=run, taken={})
"""


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_six_first_starts_at_once_make_one_registry_and_each_finds_its_own(
    tmp_path: Path, store: str, mlflow_server: servers.Server
) -> None:
    uri = mlflow_server.uri if store == "postgresql" else None

    def start(day: int) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", FIRST, uri or "", str(tmp_path), str(day)]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)

    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(start, range(2, 8)))
    assert [(one.returncode, one.stderr) for one in done] == [(0, "")] * 6
    registry = Registry.open(Mlflow(uri=uri, timeout=30), tmp_path)
    assert len(registry.windows("fresh", 9)) == 6
    versions = registry.versions("fresh")
    assert [version.version for version in versions] == [1, 2, 3, 4, 5, 6]
    assert len({version.digest for version in versions}) == 6
