"""git and DVC: the workspace of a person, and the ephemeral clones in which automation works.

A job never writes in a person's checkout: it clones the remote, shares the DVC cache, commits by name, pushes the data and
then the branch. A push that is refused because somebody moved first is redone on top of what they pushed.
"""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from retrain.errors import BusyError, IntegrityError, ParamsError, StaleError
from retrain.objects import verify_uploaded
from retrain.params import Params, load
from retrain.process import dvc, failure, git, try_git
from retrain.records import file_digest, parse_yaml, write_text

ORIGIN, DVC_STORE = ".retrain/origin.git", ".retrain/dvc"
SILENT = 60.0  # seconds after which a remote that is asked where its branch is counts as not there
MOVED = re.compile(r"fetch first|non-fast-forward|cannot lock ref|failed to update ref|incorrect old value")


@dataclass(frozen=True)
class Behind:
    """A person's checkout against the remote: commits it lacks, and whether it holds changes that are not committed."""

    commits: int
    dirty: bool


@dataclass(frozen=True)
class Workspace:
    """root holds params.yaml; everything of this machine alone is in root/.retrain."""

    root: Path
    params: Params

    @classmethod
    def open(cls, root: Path | str = ".") -> "Workspace":
        root = Path(root).absolute()
        return cls(root, load(root))

    @property
    def local(self) -> Path:
        """Machine-local state, in no commit: origin.git, dvc, mlflow, clones, locks, answers, reports."""
        return self.root / ".retrain"

    @property
    def remote(self) -> str:
        """Address of the git remote that jobs push to; a relative one is resolved against root."""
        remote = self.params.workspace.remote
        if remote is None:
            raise ParamsError(
                f"this workspace names no remote ({self.root}): set workspace.remote in params.yaml, "
                "or make a workspace with `retrain init DIR`"
            )
        return _address(self.root, remote)

    @property
    def dvc_remote(self) -> str:
        store = self.params.workspace.dvc_remote
        if store is None:
            raise ParamsError(
                f"this workspace names no store for its data ({self.root}): set workspace.dvc_remote in params.yaml, "
                "or make a workspace with `retrain init DIR`"
            )
        return _address(self.root, store)

    @contextlib.contextmanager
    def lock(self, name: str, *, wait_seconds: float) -> Iterator[None]:
        """Only one process at a time holds the name; after the wait BusyError names the holder. A holder's death frees it."""
        folder = self.local / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        holder = folder / f"{name}.pid"
        lock = FileLock(folder / f"{name}.lock")
        try:
            lock.acquire(timeout=wait_seconds)
        except Timeout as error:
            pid = holder.read_text().strip() if holder.exists() else "unknown"
            raise BusyError(
                f"another job holds {name} (pid {pid}, waited {wait_seconds:g} s): try again when it has ended"
            ) from error
        try:
            write_text(holder, f"{os.getpid()}\n")
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def clone(self, job: str) -> Iterator["Clone"]:
        """A clone of the remote, named after the job and this pid, gone at the end; what dead jobs left is swept first.

        It shares root's DVC cache, so that data of this machine is there without a download.
        """
        remote, branch = self.remote, self.params.workspace.branch

        def fetch(folder: Path) -> None:
            git(folder.parent, "clone", "--quiet", "--branch", branch, remote, str(folder))

        with ephemeral(self.local, job, fetch, store=self.dvc_remote, cache=self.root / ".dvc" / "cache") as folder:
            yield Clone(folder, branch)

    def remote_head(self) -> str:
        """The commit that the remote's branch is at, its objects brought into root's repository.

        No ref and no FETCH_HEAD is written, so that any number of readers may ask at once.
        """
        branch = self.params.workspace.branch
        head = git(self.root, "ls-remote", self.remote, f"refs/heads/{branch}", timeout=SILENT).partition("\t")[0]
        if not head:
            raise ParamsError(f"{self.remote} has no branch {branch!r} (params.yaml, workspace): push it, or name another")
        if try_git(self.root, "cat-file", "-e", f"{head}^{{commit}}").returncode:
            # as one pack, which is there whole or not at all: loose objects of a fetch that was cut look complete
            whole = ("-c", "fetch.unpackLimit=1", "fetch", "--quiet", "--no-write-fetch-head", "--no-auto-maintenance")
            git(self.root, *whole, self.remote, branch, timeout=10 * SILENT)
        return head

    def behind(self) -> Behind:
        """How far root is behind the remote; root's files are left alone."""
        commits = int(git(self.root, "rev-list", "--count", f"HEAD..{self.remote_head()}"))
        return Behind(commits, dirty=bool(git(self.root, "status", "--porcelain")))

    def unpushed(self) -> str | None:
        """What root holds that the remote does not, in words; None where there is nothing."""
        changed = git(self.root, "diff", "--name-only", "HEAD").splitlines()
        changed += git(self.root, "ls-files", "--others", "--exclude-standard").splitlines()
        ahead = int(git(self.root, "rev-list", "--count", f"{self.remote_head()}..HEAD"))
        said = [f"{ahead} commits that are not pushed"] if ahead else []
        said += (
            [f"changes that are not committed ({', '.join(changed[:3])}{', ...' if changed[3:] else ''})"] if changed else []
        )
        return f"{self.root} has " + " and ".join(said) if said else None


@dataclass
class Clone:
    """An ephemeral clone: write, `dvc_add`, `commit` by name, `publish`."""

    root: Path
    branch: str
    _pulled: dict[str, str] = field(default_factory=dict)  # path -> its .dvc file as it was then

    def git(self, *args: str) -> str:
        return git(self.root, *args)

    def dvc(
        self, *args: str, on_line: Callable[[str], None] | None = None, env: Mapping[str, str] | None = None
    ) -> str:  # fmt: skip
        """Run `dvc ...` here, alone in this clone (several at once lose locks); returns its output."""
        with FileLock(self.root / ".dvc" / "tmp" / "retrain.lock"):
            return dvc(self.root, *args, on_line=on_line, env=env)

    def pull(self, paths: Iterable[str]) -> None:
        """Bring tracked data here, from the shared cache or the DVC remote; what was brought before is here."""
        wanted = {path: self._pointer(path) for path in sorted(set(paths))}
        new = [path for path, pointer in wanted.items() if not pointer or pointer != self._pulled.get(path)]
        if new:
            self.dvc("pull", "--force", *new)
            self._pulled.update(wanted)

    def _pointer(self, path: str) -> str:
        file = self.root / path
        return file.read_text("utf-8") if path.endswith(".dvc") and file.exists() else ""

    def dvc_add(self, *paths: str) -> list[str]:
        """Track files or folders; returns what git has to commit for them."""
        self.dvc("add", *paths)
        return [name for path in paths for name in (f"{path}.dvc", f"{Path(path).parent.as_posix()}/.gitignore")]

    def commit(self, paths: Iterable[str], message: str) -> str | None:
        """Commit these paths, by name, never all; the commit, or None when nothing changed."""
        self.git("add", "--", *paths)
        if not self.git("diff", "--cached", "--name-only"):
            return None
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def publish(self, redo: Callable[["Clone"], None], *, tries: int, tags: tuple[str, ...] = ()) -> str:
        """Push the data and read back new dataset versions, then the branch (and tags) in one step; returns its commit.

        A push refused because the branch moved: reset to the remote, pull again what was pulled here, `redo(clone)` puts
        its own inputs back and commits (and tags) again, push again; after that many tries StaleError. Any other refusal
        is a fault.
        """
        for attempt in range(tries):
            if attempt:
                self._reset()
                redo(self)
            changed = self.git("diff", "--name-only", "--diff-filter=d", f"origin/{self.branch}", "HEAD").splitlines()
            pointers = [path for path in changed if path.endswith(".dvc")]
            if pointers or "dvc.lock" in changed:  # a ledger line alone needs no `dvc push` (a second)
                self.dvc("push")
                verify_uploaded(self.root, pointers, f"origin/{self.branch}")
            if self._push(tags):
                return self.git("rev-parse", "HEAD")
        raise StaleError(f"{self.branch} moved on the remote {tries} times while this was pushed: try again later")

    def _push(self, tags: tuple[str, ...]) -> bool:
        """Whether the remote took it; a commit that it had already, byte by byte, is somebody else's of this very second."""
        refs = [f"HEAD:refs/heads/{self.branch}", *(f"refs/tags/{tag}" for tag in tags)]
        news = self.git("rev-parse", "HEAD") != self.git("rev-parse", f"origin/{self.branch}")
        result = try_git(self.root, "push", "--porcelain", "--atomic", "origin", *refs)
        if result.returncode == 0:
            return not (news and f"=\tHEAD:refs/heads/{self.branch}" in result.stdout)
        output = result.stdout + result.stderr
        if MOVED.search(output):
            return False
        raise failure(["git", "push", *refs], self.root, result.returncode, output.splitlines())

    def _reset(self) -> None:
        self.git("fetch", "--quiet", "origin", self.branch)
        self.git("reset", "--quiet", "--hard", "FETCH_HEAD")
        # the data of the new commit, not of the one that lost; what it does not track is redo's
        pulled, self._pulled = self._pulled, {}
        self.pull(path for path in pulled if (self.root / f"{path.removesuffix('.dvc')}.dvc").exists())

    def set_champion(self, adapter: str, *, commit: str, digest: str) -> list[str]:
        """Make out/<adapter>/adapter of that commit the tracked champion; returns what git has to commit.

        Its entry in the commit's dvc.lock becomes champion/<adapter>.dvc: no byte is copied, the cache delivers it.
        Other bytes than the ledger's digest (sha256 of manifest.json) raise IntegrityError.
        """
        out = self._locked_out(f"train@{adapter}", f"out/{adapter}/adapter", commit)
        folder = self.root / "champion" / adapter
        self.git("rm", "-r", "--quiet", "--ignore-unmatch", "--", f"champion/{adapter}")  # "none.json" in git
        shutil.rmtree(folder, ignore_errors=True)
        _ignore(self.root / "champion" / ".gitignore", f"/{adapter}")
        write_text(folder.with_suffix(".dvc"), yaml.safe_dump({"outs": [{**out, "path": adapter}]}, sort_keys=False))
        self.pull([f"champion/{adapter}.dvc"])
        manifest = folder / "manifest.json"
        found = file_digest(manifest) if manifest.exists() else "no manifest.json"
        if found != digest:
            raise IntegrityError(f"commit {commit[:12]} holds {adapter} adapter {found[:12]}, the ledger says {digest[:12]}")
        return [f"champion/{adapter}.dvc", "champion/.gitignore"]

    def _locked_out(self, stage: str, path: str, commit: str) -> dict[str, Any]:
        lock = parse_yaml(self.git("show", f"{commit}:dvc.lock"))
        outs = lock["stages"].get(stage, {}).get("outs", [])
        out = next((out for out in outs if out["path"] == path), None)
        if out is None:
            raise IntegrityError(f"dvc.lock of commit {commit[:12]} has no {path} in {stage}: not a commit of a retraining")
        return dict(out)


@contextlib.contextmanager
def ephemeral(
    home: Path, job: str, fetch: Callable[[Path], None], *, store: str, cache: Path
) -> Iterator[Path]:  # fmt: skip
    """A repository in home/clones, which `fetch` makes, with this DVC remote and cache; what dead owners left goes first."""
    clones = home / "clones"
    clones.mkdir(parents=True, exist_ok=True)
    _sweep(clones)
    folder = clones / f"{job}-{os.getpid()}-{secrets.token_hex(3)}"
    with FileLock(f"{folder}.lock") as lock:
        try:
            fetch(folder)
            identify(folder)
            shared = f'[cache]\n    dir = "{cache}"'
            configure_dvc(folder, store=store, more=f'    site_cache_dir = "{folder}/.dvc/tmp/site"\n{shared}')
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)


def _sweep(clones: Path) -> None:
    """Remove clones whose owner is dead: its lock tells, where its pid may have been given to another process."""
    for path in clones.glob("*.lock"):
        with contextlib.suppress(Timeout), FileLock(path, timeout=0):
            shutil.rmtree(str(path).removesuffix(".lock"), ignore_errors=True)
            path.unlink(missing_ok=True)


def configure_dvc(root: Path, *, store: str, more: str) -> None:
    """.dvc/config.local as `dvc remote add --local` writes it, without its second a call; never committed.

    A clone keeps DVC's state of files (site cache) inside as well, or each would leave one in /var/tmp.
    """
    text = f'[core]\n    remote = retrain\n{more}\n[\'remote "retrain"\']\n    url = "{store}"\n'
    write_text(root / ".dvc" / "config.local", text)
    (root / ".dvc" / "tmp").mkdir(exist_ok=True)


def _ignore(path: Path, line: str) -> None:
    lines = path.read_text().splitlines() if path.exists() else []
    if line not in lines:
        write_text(path, "\n".join([*lines, line, ""]))


def _address(root: Path, address: str) -> str:
    """URLs and user@host:path as they are, a path made absolute."""
    if "://" in address or re.match(r"[\w.-]+@?[\w.-]*:", address):
        return address
    return str(root / Path(address).expanduser())


def identify(root: Path) -> None:
    """Commits need a name; where the machine has none, ours."""
    for key, value in (("user.name", "retrain"), ("user.email", "retrain@localhost")):
        if try_git(root, "config", key).returncode:
            git(root, "config", key, value)
