"""The environment holds together: every vendor imports, versions are pinned by name alone, light modules stay light."""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

from retrain import doctor

ROOT = Path(__file__).parents[1]
VENDORS = (
    "airflow.sdk", "bitsandbytes", "duckdb", "dvc.repo", "evidently", "psycopg", "pyspark.sql", "great_expectations", "ibis",
    "mlflow", "peft", "sklearn", "torch", "transformers", "wordllama",
)  # fmt: skip
HEAVY = (
    "airflow",
    "bitsandbytes",
    "evidently",
    "great_expectations",
    "mlflow",
    "pandas",
    "peft",
    "scipy",
    "torch",
    "transformers",
)
ADDRESS = re.compile(r"(index-url|find-links|--trusted-host)\b.*://|files\.pythonhosted\.org|^\S+ @ \w+://", re.MULTILINE)
LOCK_FILES = {"uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "package-lock.json"}


def fresh(code: str) -> str:
    """What a new interpreter prints when it runs code in the repository root."""
    with tempfile.TemporaryDirectory() as home:  # airflow writes its configuration as soon as it is imported
        env = {**os.environ, "AIRFLOW_HOME": home}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code: str) -> set[str]:
    """Which heavy packages are loaded once code has run."""
    return set(fresh(f"{code}\nimport sys\nprint(*[m for m in {HEAVY} if m in sys.modules])").split())


def project_files() -> list[Path]:
    """Tracked files, and new ones that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_every_vendor_imports_in_one_fresh_process_which_lives_on():
    # an import can end the process with exit code 0: great_expectations does, beside pyspark without grpcio-status
    code = "import importlib\n" + "\n".join(f"importlib.import_module({v!r}); print('imported', {v!r})" for v in VENDORS)
    printed = re.findall(r"^imported (\S+)$", fresh(code), re.MULTILINE)
    assert printed == list(VENDORS)


def test_constraints_are_names_and_versions_alone():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.]+", line)] == []
    assert lines == sorted(set(lines), key=lambda line: re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower())


def test_what_is_installed_is_what_constraints_say():
    wanted = doctor.constraints(ROOT / "constraints.txt")
    differ = {
        name: (found, version) for name, version in wanted.items() if (found := doctor.installed(name)) not in (None, version)
    }
    assert differ == {}


def test_every_requirement_has_a_pinned_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = project["dependencies"] + [need for name, needs in extras.items() if name != "all" for need in needs]
    names = {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", need).group()).lower() for need in named}
    assert names - set(doctor.constraints(ROOT / "constraints.txt")) == set()


def test_a_watching_machine_needs_no_torch_and_a_trainer_no_airflow():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert not re.search(r"torch|transformers|peft|airflow", " ".join(extras["watch"]))
    assert not re.search(r"airflow|evidently", " ".join(extras["train"]))


def test_no_file_names_a_download_address():
    files = project_files()
    assert ROOT / "constraints.txt" in files
    assert [path for path in files if path.name in LOCK_FILES] == []
    text = {path: path.read_bytes() for path in files if path != Path(__file__)}
    found = [path for path, data in text.items() if b"\0" not in data and ADDRESS.search(data.decode("utf-8", "replace"))]
    assert found == []


def test_the_shared_modules_load_nothing_heavy():
    assert loaded_by("import retrain.params, retrain.records, retrain.ledger") == set()


def test_the_command_line_and_its_help_load_nothing_heavy():
    shown = "import contextlib, io, sys\nfrom retrain import cli\nsys.argv = ['retrain', '--help']\n"
    shown += "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out: cli.main()"
    assert loaded_by(f"{shown}\nassert 'simulate' in out.getvalue()") == set()


def test_dag_files_load_without_what_they_schedule():
    dags = sorted(str(dag) for dag in ROOT.glob("dags/*.py"))
    code = f"import runpy, sys\nsys.path.insert(0, 'dags')\nfor dag in {dags}: runpy.run_path(dag)"
    assert loaded_by(code) & {"torch", "transformers", "mlflow", "evidently", "great_expectations"} == set()


def test_every_module_stands_in_a_layer():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = " ".join(next(contract for contract in contracts if contract["id"] == "layers")["layers"])
    modules = {
        f"retrain.{path.stem}"
        for path in (ROOT / "retrain").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert modules - set(re.findall(r"[\w.]+", layers)) - {"retrain.__init__"} == set()


SELDOM = """
import atexit, gc, runpy, sys
sys.argv = ["it", "nobody"]
try:
    runpy.run_module({module!r}, run_name="__main__")
except SystemExit:
    print("looks", gc.isenabled(), gc.get_threshold()[0], gc.get_freeze_count())
atexit._run_exitfuncs()
print("left alone", gc.get_freeze_count())
"""


@pytest.mark.parametrize("module", ["retrain.cli", "retrain.gate"])
def test_the_collector_looks_seldom_at_what_a_command_or_a_stage_loads_and_never_as_it_ends(module):
    printed = fresh(SELDOM.format(module=module))
    assert "looks True 50000 0" in printed
    assert int(printed.rpartition("left alone ")[2]) > 10_000
