"""The router that serves: fitted again in a clone, measured beside the one before it, recorded in git by push.

`ledger/router.jsonl` has a line a fit. The newest that was accepted names what serves: a digest, and the commit whose dvc.lock
has its bytes. A fit that is worse than what serves is recorded and changes nothing; a fault leaves no line.
"""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from retrain import jobs, ledger, router, routing
from retrain.errors import IntegrityError, NothingToDo, RetrainError
from retrain.jobs import LOCK_WAIT, ROUTER, TRIES, now
from retrain.params import Params, load
from retrain.process import text_at
from retrain.records import Record, dumps, write_text
from retrain.routing import NAME, Figures, Router
from retrain.store import Store
from retrain.workspace import Clone, Workspace

LEDGER = "ledger/router.jsonl"
STAGE = f"router@{NAME}"
OUT = router.MODEL.as_posix()
MOST_WHY = 500
Say = Callable[[str], None]


class Fitted(Record):
    """One fit. at: when it looked at the data; against: what served then; figures, served: of this one, of that one."""

    at: str
    digest: str
    commit: str
    accepted: bool
    why: str
    against: str | None = None
    figures: dict[str, Any]
    served: dict[str, Any] | None = None

    @property
    def tag(self) -> str:
        return f"router-{self.digest[:12]}"

    def told(self) -> str:
        quality = self.figures.get("quality")
        good = "" if quality is None else f", {quality:.1%} routed and answered right"
        share = f"{self.figures['accuracy']:.1%} routed right{good}, {self.figures['recall']:.1%} out of scope and refused"
        return f"{self.tag} {'serves' if self.accepted else 'was refused'} ({self.why}): {share}"


def parse(text: str) -> list[Fitted]:
    """The lines of ledger/router.jsonl; IntegrityError names the one that is none."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                found.append(Fitted.model_validate_json(line))
            except ValidationError as error:
                why = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise IntegrityError(
                    f"{LEDGER}:{number} is no line of a router ({why}): compare `git log -p {LEDGER}` and restore it"
                ) from error
    return found


def serving(lines: Sequence[Fitted]) -> Fitted | None:
    return next((line for line in reversed(lines) if line.accepted), None)


def lines_at(workspace: Workspace, head: str) -> list[Fitted]:
    """The lines as a commit has them; none before there is a router."""
    return parse(text_at(workspace.root, head, LEDGER) or "")


# --- its bytes


def fetch(workspace: Workspace, line: Fitted) -> Router:
    """The router of a line, every byte hashed before it is read: this machine's own copy, else from DVC.

    IntegrityError where nobody has it, or it is damaged.
    """
    kept = workspace.local / "serving" / line.tag
    if kept.exists():
        try:
            return routing.unpacked(_files(kept), line.digest)
        except IntegrityError:  # damaged here: fetched again
            shutil.rmtree(kept)
    store = Store(workspace)
    blobs = store.out(line.commit, STAGE, OUT)
    if not blobs:
        raise IntegrityError(f"dvc.lock of {line.commit[:12]} has no {OUT}: it is no commit of a router")
    files = {name: store.read(blob) for name, blob in blobs.items()}
    found = routing.unpacked(files, line.digest)
    for name in sorted(files, reverse=True):  # router.json last
        path = kept / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name])
    return found


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()} if folder.is_dir() else {}


# --- fitting again


def refit(workspace: Workspace, *, say: Say) -> Fitted:
    """Fit on the data of the remote and record what came of it; NothingToDo where all is as the newest line has it.

    Killed anywhere and run again it converges: data, dvc.lock and line go with one push, and the same bytes are one router.
    """
    with workspace.lock(ROUTER, wait_seconds=LOCK_WAIT), workspace.clone(ROUTER) as clone:
        made = [_fit(workspace, clone, say)]
        clone.publish(lambda again: made.append(_fit(workspace, again, say)), tries=TRIES)
        return made[-1]


def _fit(workspace: Workspace, clone: Clone, say: Say) -> Fitted:
    began, params = now(), load(clone.root)
    _can_be_fitted(clone, params)
    tracked = [
        name for one in params.adapters for name in (f"data/seed/{one}.jsonl", f"data/failures/{one}", f"data/suites/{one}")
    ]
    clone.pull(f"{name}.dvc" for name in [*tracked, "data/router"] if (clone.root / f"{name}.dvc").exists())
    clone.dvc("repro", "--single-item", STAGE, on_line=say)
    files = _files(clone.root / router.MODEL)
    path = clone.root / LEDGER
    lines = parse(path.read_text("utf-8")) if path.exists() else []
    made = judged(workspace, clone, params, files, serving(lines), began)
    ledgers = {name: ledger.read(clone.root, name) for name in params.adapters}
    if lines and not _is_news(lines[-1], made) and due(params, ledgers, lines) is None:
        raise NothingToDo(f"{lines[-1].told()}: no specialist has changed since {lines[-1].at}")
    ours = ("dvc.lock", f"{router.OUT}/metrics.json", f"{router.OUT}/.gitignore")
    clone.commit([name for name in ours if (clone.root / name).exists()], f"router: {routing.digest_of(files)[:12]} is fitted")
    made = made.model_copy(update={"commit": clone.git("rev-parse", "HEAD")})
    write_text(path, "".join(f"{dumps(line.as_dict())}\n" for line in [*lines, made]))
    clone.commit([LEDGER], f"router: {'serves' if made.accepted else 'refused'}: {made.why[:80]}")
    return made


def _can_be_fitted(clone: Clone, params: Params) -> None:
    if NAME not in params.router:
        raise NothingToDo("router is {} in params.yaml: there is no router to fit (docs/routing.md says how to begin)")
    stages = yaml.safe_load((clone.root / "dvc.yaml").read_text("utf-8"))["stages"]
    if "router" not in stages or not (clone.root / router.NOBODY).parent.exists():
        raise NothingToDo(f"dvc.yaml has no stage `router`, or there is no {router.NOBODY}: docs/routing.md says how to begin")


def _is_news(before: Fitted, made: Fitted) -> bool:
    return (before.digest, before.accepted) != (made.digest, made.accepted)


def judged(
    workspace: Workspace, clone: Clone, params: Params, files: Mapping[str, bytes], serves: Fitted | None, began: str
) -> Fitted:  # fmt: skip
    """The line of a fit: taken unless it is worse than what serves, both measured on the rows of today."""
    digest, rules = routing.digest_of(files), params.router["auto"]
    rows = router.rows_of(clone.root, params)
    _, nobody = rows.halves(rules.nobody_judges)
    right = answered_right(workspace, clone.root, params)

    def measured(one: Router) -> Figures:
        return routing.measure(one, rows, nobody, right)

    figures, served = measured(routing.unpacked(files, digest)), None
    if serves is None:
        accepted, why = True, "the first router"
    elif serves.digest == digest:
        accepted, why = True, "fitted again to the same bytes"
    else:
        try:
            served = measured(fetch(workspace, serves))
            reasons = routing.worse(figures, served, rules.margin)
            accepted, why = not reasons, "; ".join(reasons) or "no worse than the one before"
        except IntegrityError as error:
            accepted, why = True, f"the one that served cannot be compared: {error}"
    return Fitted(
        at=began, digest=digest, commit="", accepted=accepted, why=why[:MOST_WHY], against=serves.digest if serves else None,
        figures=figures.as_dict(), served=served.as_dict() if served else None,
    )  # fmt: skip


def answered_right(workspace: Workspace, root: Path, params: Params) -> dict[str, dict[str, bool]]:
    """By specialist and row id, whether its champion answered rightly when it was judged; nothing where nobody kept that."""
    workspace.remote_head()  # brings the commits here
    store, found = Store(workspace), {}
    for name in params.adapters:
        champion = ledger.state(ledger.read(root, name)).champion
        if champion is None:
            continue
        try:
            blobs = store.out(champion.commit, f"evaluate@{name}", f"out/{name}/predictions")
            blob = blobs.get("predictions.jsonl")
            rows = list(store.rows(blob)) if blob else []
        except RetrainError:  # erased or cleaned away: the route alone is measured then
            continue
        found[name] = {row["id"]: bool(row["arms"]["candidate"]["right"]) for row in rows if "candidate" in row.get("arms", {})}
    return found


def due(params: Params, ledgers: Mapping[str, Sequence[ledger.Entry]], lines: Sequence[Fitted]) -> str | None:
    """Which specialist was promoted since the newest line looked at the data, in words."""
    for name in params.adapters:
        champion = ledger.state(ledgers[name]).champion
        if champion and (not lines or champion.at >= lines[-1].at):
            return f"{champion.tag} serves since {champion.at}, which the router has not seen: `retrain route fit`"
    return None


def waits(workspace: Workspace) -> str | None:
    """Why the router should be fitted again; None where it is up to date, or there is nothing to choose among."""
    params = jobs.remote_params(workspace)
    if NAME not in params.router or len(params.adapters) < 2:
        return None
    ledgers = {name: ledger.parse(jobs.remote_file(workspace, f"ledger/{name}.jsonl"), name) for name in params.adapters}
    return due(params, ledgers, lines_at(workspace, workspace.remote_head()))


def follow(workspace: Workspace) -> Fitted | None:
    """Fit again if a specialist was promoted since the last fit; whatever fails is a warning, for the promotion stands."""
    try:
        if waits(workspace) is None:
            return None
        made = refit(workspace, say=lambda line: None)
        _tell(made.told())
        return made
    except NothingToDo:
        return None
    except Exception as error:  # nothing of a router may undo a promotion
        _tell(f"warning: the router was not fitted again, run `retrain route fit`: {error}")
        return None


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# --- why a text goes where it goes


@dataclass(frozen=True)
class Explained:
    """Where a text goes and why; `nearest`: human rows by cosine, `specialist` None for rows of nobody."""

    text: str
    route: routing.Route
    digest: str
    source: str
    fallback: str | None
    nearest: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        answers = self.route.specialist or self.fallback
        about = {"answers": answers, "fallback": self.fallback, "digest": self.digest, "source": self.source}
        return {"schema": 1, "text": self.text, **self.route.as_dict(), **about, "nearest": list(self.nearest)}


def explain(workspace: Workspace, text: str, *, nearest: int) -> Explained:
    """By the router that serves; where the workspace has no remote or none serves, by the file that `dvc repro` made here."""
    found, digest, source, head = _at_hand(workspace)
    params = workspace.params
    fallback = params.router["auto"].fallback if NAME in params.router else None
    rows = _rows(workspace, head, params)
    return Explained(text, found.route(text), digest, source, fallback, tuple(_nearest(text, rows, nearest)))


def _at_hand(workspace: Workspace) -> tuple[Router, str, str, str | None]:
    """(router, digest, where it is from, the remote's head where that is where it is from)."""
    if workspace.params.workspace.remote is not None:
        head = workspace.remote_head()
        line = serving(lines_at(workspace, head))
        if line:
            return fetch(workspace, line), line.digest, f"serves since {line.at}", head
    files = _files(workspace.root / router.MODEL)
    if not files:
        raise NothingToDo(f"no router serves and there is none in {OUT}: run `retrain route fit`, or `dvc repro {STAGE}` here")
    return routing.unpacked(files, None), routing.digest_of(files), f"{OUT} of this folder, which serves nobody", None


def _rows(workspace: Workspace, head: str | None, params: Params) -> list[dict[str, Any]]:
    """Human rows, and those of nobody, as they are where the router is from."""
    if head is None:
        rows = router.rows_of(workspace.root, params)
        own = [_row(name, row.id, row.question, row.answer) for name, found in rows.human.items() for row in found]
        return own + [_row(None, None, text, None) for text in rows.nobody]
    from retrain.rows import row_of

    store, own = Store(workspace), []
    for name in params.adapters:
        for path in (f"data/seed/{name}.jsonl", f"data/failures/{name}"):
            blobs = (blob for file, blob in store.files(head, path).items() if (file or path).endswith(".jsonl"))
            read = (row_of(row, "", path) for blob in blobs for row in store.rows(blob))
            own += [_row(name, row.id, row.question, row.answer) for row in read if row.question]
    nobody = store.files(head, router.NOBODY.as_posix()).values()
    return own + [_row(None, None, str(row.get("text")), None) for blob in nobody for row in store.rows(blob)]


def _row(name: str | None, row_id: str | None, question: str, answer: str | None) -> dict[str, Any]:
    return {"specialist": name, "id": row_id, "question": question, "answer": answer}


def _nearest(text: str, rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    from retrain.text import vectors

    near = vectors([row["question"] for row in rows]) @ vectors([text])[0]
    order = sorted(range(len(rows)), key=lambda i: -near[i])[:most]
    return [{**rows[i], "cosine": round(float(near[i]), 3)} for i in order]
