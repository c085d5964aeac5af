"""doctor finds what is wrong and says the fix, and prints no password."""

import shutil
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from retrain import doctor, edits

ROOT = Path(__file__).parents[1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def finding(root: Path, name: str, *overrides: str) -> doctor.Finding:
    if overrides:
        edits.set_values(root / "params.yaml", overrides)
    return next(found for found in doctor.examine(root) if found.name == name)


def test_a_healthy_checkout_has_nothing_wrong(root: Path):
    assert [found for found in doctor.examine(root) if found.ok is False] == []


def test_every_fault_comes_with_its_fix(root: Path):
    edits.set_values(
        root / "params.yaml", ["workspace.remote=nowhere.git", "mlflow.uri=http://127.0.0.1:1", "train.device=cuda"]
    )
    wrong = [found for found in doctor.examine(root) if found.ok is False]
    assert {"git remote", "mlflow server"} <= {found.name for found in wrong}
    assert all(found.fix for found in wrong)


def test_a_wrong_params_file_is_a_finding_and_not_a_crash(root: Path):
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("  epochs:", "  epoch:"))
    assert "did you mean 'epochs'" in finding(root, "params.yaml").found


def test_a_folder_without_params_is_told_how_to_become_a_workspace(tmp_path: Path):
    found = finding(tmp_path, "params.yaml")
    assert found.ok is False and "retrain init" in found.found


def test_a_remote_is_asked_for_the_branch(root: Path):
    subprocess.run(["git", "init", "-q", "--bare", root / "origin.git"], check=True)
    found = finding(root, "git remote", "workspace.remote=origin.git")
    assert found.ok is False and "has no branch main" in found.found


def test_a_server_that_answers_is_seen(root: Path):
    class Health(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Health)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert finding(root, "mlflow server", f"mlflow.uri=http://127.0.0.1:{server.server_port}/").ok is True
    finally:
        server.shutdown()
        server.server_close()


def test_passwords_in_addresses_are_not_shown(root: Path):
    overrides = ["workspace.remote=https://me:hunter2@127.0.0.1:1/x.git", "mlflow.uri=http://me:hunter2@127.0.0.1:1"]
    edits.set_values(root / "params.yaml", overrides)
    assert "hunter2" not in str(doctor.examine(root))


def test_another_version_than_pinned_is_wrong_and_an_absent_extra_is_not(root: Path, tmp_path: Path, monkeypatch):
    pinned = tmp_path / "constraints.txt"
    pinned.write_text("duckdb==0.0.1\n")
    monkeypatch.setattr(doctor, "CONSTRAINTS", pinned)
    monkeypatch.setattr(doctor, "VENDORS", {"duckdb": "watch", "no-such-distribution": "train"})
    assert finding(root, "duckdb").ok is False
    assert finding(root, "no-such-distribution").ok is None
