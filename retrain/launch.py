"""A training on another machine: a command starts it there, and nothing but git and the DVC remote lies between the two.

The stage `train` does its work so where a job tells it to (RETRAIN_LAUNCH): what it reads is pushed, under a ref of its own;
the command starts `retrain.elsewhere`; the adapter comes back from the DVC remote by digest. To DVC it is a stage as any other,
so that what trained once is found again; a `dvc repro` by hand trains where it runs.
"""

import json
import os
import shlex
import shutil
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from retrain import base, objects, process
from retrain import params as params_
from retrain.errors import DataError, IntegrityError, ParamsError, RetrainError
from retrain.records import file_digest, read_json, text_digest, verify_folder, write_json
from retrain.sections import Launch
from retrain.workspace import Workspace

VARIABLE = "RETRAIN_LAUNCH"
STEP, MADE = "retrain-step: ", "retrain-made: "  # begin what `retrain.elsewhere` says to this side; all else is for people
SHOWN = 12  # lines of a command that failed


@dataclass(frozen=True)
class Order:
    """What the job tells the stage: the command, the addresses, and the ref of this workspace and adapter."""

    command: str
    device: str
    git: str
    dvc: str
    ref: str


@dataclass(frozen=True)
class Request:
    """What the other side is asked for, as words that pass any number of shells unharmed."""

    adapter: str
    git: str
    dvc: str
    ref: str
    commit: str
    device: str
    code: str

    def words(self) -> list[str]:
        return [f"{name}={quote(value, safe='/:@+,').replace('~', '%7E')}" for name, value in asdict(self).items()]

    @classmethod
    def of(cls, words: Sequence[str]) -> "Request":
        named = {name: unquote(value) for name, _, value in (word.partition("=") for word in words)}
        if set(named) != {field.name for field in fields(cls)}:
            raise ParamsError("usage: launch.command of params.yaml starts this, with " + " ".join(f.name for f in fields(cls)))
        return cls(**named)


def check(launch: Launch | None) -> None:
    """ParamsError where the command is no program of this machine."""
    program = shlex.split(launch.command)[0] if launch and launch.command else None
    if program and shutil.which(program, path=process.environment()["PATH"]) is None:
        raise ParamsError(
            f"launch.command (params.yaml) begins with {program!r}, which is no program here: install or correct it"
        )


def environment(workspace: Workspace, params: params_.Params, adapter: str) -> dict[str, str]:
    """What tells the stage to train elsewhere; {} where params name no command."""
    if params.launch is None or params.launch.command is None:
        return {}
    mine = text_digest(f"{socket.gethostname()}:{workspace.root}")[:12]  # one ref, written over: none can pile up
    ref = f"refs/retrain/{adapter}/{mine}"
    order = Order(params.launch.command, params.launch.device, workspace.remote, workspace.dvc_remote, ref)
    return {VARIABLE: json.dumps(asdict(order))}


def ordered() -> Order | None:
    """What the job told this stage."""
    told = os.environ.get(VARIABLE)
    return Order(**json.loads(told)) if told else None


def code() -> str:
    """A digest of this package's sources: other code may make other bytes."""
    root = Path(__file__).parent
    return text_digest("\n".join(f"{path.relative_to(root)} {file_digest(path)}" for path in sorted(root.rglob("*.py"))))


def data(root: Path, params: params_.Params, adapter: str) -> list[str]:
    """What the stage `train` reads and git does not hold."""
    spec = params.adapter(adapter)
    read = [f"out/base/{spec.base}", f"out/{adapter}/data", spec.prompt]
    return [path for path in read if not process.git(root, "ls-files", "--", path)]


def train(order: Order, adapter: str, params: params_.Params, target: Path, log: Path) -> None:
    """Have the adapter trained by the command and put it into target, every byte verified; log grows meanwhile.

    Whatever goes wrong leaves no adapter and raises; the ref is gone again at the end. Runs in the root of a clone.
    """
    root = Path.cwd()
    process.dvc(root, "push", *data(root, params, adapter))
    request = Request(adapter, order.git, order.dvc, order.ref, _commit(root, adapter), order.device, code())
    try:
        process.git(root, "push", "--quiet", "--force", "origin", f"{request.commit}:{order.ref}")
        made = _run(order, request, log)
    finally:
        gone = process.try_git(root, "push", "--quiet", "origin", f":{order.ref}")
        if gone.returncode:
            print(f"warning: {order.ref} stays on the remote until the next training: {gone.stderr.strip()[-200:]}", flush=True)
    _receive(order, made, target, _expected(params, adapter))
    if made["cost"]:
        write_json(log.with_suffix(".cost.json"), made["cost"])


def _commit(root: Path, adapter: str) -> str:
    """A commit of what stands in the clone now, on no branch."""
    process.git(root, "add", "--", "params.yaml", "dvc.lock")
    tree = process.git(root, "write-tree")
    return process.git(root, "commit-tree", tree, "-p", "HEAD", "-m", f"{adapter}: to be trained elsewhere")


def _run(order: Order, request: Request, log: Path) -> dict[str, Any]:
    """What the other side says that it made."""
    command = [*shlex.split(order.command), "-m", "retrain.elsewhere", *request.words()]
    made: list[str] = []
    lines: deque[str] = deque(maxlen=200)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as steps:

        def take(line: str) -> None:
            if line.startswith(STEP):
                steps.write(line.removeprefix(STEP) + "\n")
                steps.flush()
            elif line.startswith(MADE):
                made.append(line.removeprefix(MADE))
            else:
                lines.append(line)
                print(line, flush=True)

        code = process.run_group(command, cwd=Path.cwd(), env=_child(), on_line=take)
    if code:
        raise process.refusal(list(lines)) or _failed(order, f"ended with {code}", lines)
    if not made:
        raise _failed(order, "ended without an adapter: is what it starts a Python that has this package?", lines)
    try:
        told = json.loads(made[-1])
        return {name: told[name] for name in ("digest", "md5", "cost")}
    except (ValueError, KeyError, TypeError) as error:
        raise _failed(order, f"said of its adapter {made[-1][:200]!r}, which cannot be read", lines) from error


def _child() -> dict[str, str]:
    """Without what is of this machine alone, or of the `dvc repro` that runs this stage."""
    own = (VARIABLE, "RETRAIN_CACHE", "DVC_ROOT", "DVC_STAGE")
    return {name: value for name, value in process.environment().items() if name not in own}


def _failed(order: Order, what: str, lines: Sequence[str] | deque[str]) -> RetrainError:
    last = "".join(f"\n  {line}" for line in list(lines)[-SHOWN:]) or " nothing"
    told = f"launch.command (params.yaml) `{process.public(order.command)}` {what}"
    return RetrainError(f"{told}; nothing is lost, the same command goes on from its checkpoint. Its last lines:{last}")


def _expected(params: params_.Params, adapter: str) -> dict[str, Any]:
    """What run.json of an adapter trained on what was sent must say."""
    spec = params.adapter(adapter)
    return {
        "adapter": adapter, "base": spec.base, "base_digest": base.digest(Path("out/base") / spec.base), "seed": params.seed,
        "labels": list(spec.labels), "train": params.train.model_dump(mode="json"),
    }  # fmt: skip


def _receive(order: Order, made: dict[str, Any], target: Path, expected: dict[str, Any]) -> None:
    """Bring the adapter from the DVC remote to target; other bytes than were told, or another's, raise IntegrityError."""
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        _download(order.dvc, made["md5"], scratch)
        verify_folder(scratch, made["digest"])
        run = read_json(scratch / "run.json")
        other = [name for name, value in expected.items() if run.get(name) != value]
        if other:
            raise IntegrityError(f"its run.json has another {', '.join(other)} than was sent")
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
    except (DataError, IntegrityError) as error:
        raise IntegrityError(
            f"`{process.public(order.command)}` (launch.command) said that it made {made['digest'][:12]}, and what "
            f"{process.public(order.dvc)} holds is not that: {str(error).replace(f'{scratch}', 'the adapter')}; nothing of it "
            "is kept: look at the DVC remote, then run the same again"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _download(url: str, md5: str, folder: Path) -> None:
    """The files of a listing, from the DVC remote alone; each has the md5 that the listing says."""
    remote = objects.stores(Path.cwd(), url)[1:]
    for name, of in objects.listing(remote, md5).items():
        if Path(name).name != name:
            raise IntegrityError(f"{name!r} is no file of an adapter")
        (folder / name).write_bytes(objects.read(remote, of))
