"""The router that serves: fitted again in a clone, measured beside the one before it, recorded in git by push.

`ledger/router.jsonl` has a line a fit. The newest that was accepted names what serves: a digest, and the commit whose dvc.lock
has its bytes. A fit that is worse than what serves is recorded and changes nothing; a fault leaves no line.
"""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from retrain import ledger, route_figures, router, routing
from retrain.errors import IntegrityError, NothingToDo, RetrainError
from retrain.jobs import LOCK_WAIT, ROUTER, TRIES, now
from retrain.objects import GoneError
from retrain.params import Params, load
from retrain.params import parse as parse_params
from retrain.process import text_at
from retrain.records import Record, dumps, parse_yaml, write_text
from retrain.route_figures import Figures
from retrain.routing import NAME, Router
from retrain.store import Store
from retrain.workspace import Clone, Workspace

LEDGER = "ledger/router.jsonl"
STAGE = f"router@{NAME}"
OUT = router.MODEL.as_posix()
MOST_WHY = 500
NONE = "router is {} in params.yaml: there is none (docs/routing.md says how to begin)"
FORCED = "forced: "  # how `why` begins then
RIVALS = 5
OTHER_FIT = 120.0  # seconds for which a promotion waits for the fit of another one that came first, and may not see it
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


def served_lately(lines: Sequence[Fitted]) -> list[Fitted]:
    """What serves, and those before it, the latest first and each once: small losses must not add up."""
    newest: dict[str, Fitted] = {}
    for line in reversed(lines):
        if line.accepted:
            newest.setdefault(line.digest, line)
    return list(newest.values())[:RIVALS]


def lines_at(workspace: Workspace, head: str) -> list[Fitted]:
    """The lines as a commit has them; none before there is a router."""
    return parse(text_at(workspace.root, head, LEDGER) or "")


# --- its bytes


def fetch(workspace: Workspace, line: Fitted) -> Router:
    """The router of a line, every byte hashed before it is read: this machine's own copy, else from DVC.

    GoneError where nobody has it, IntegrityError where it is damaged.
    """
    kept = workspace.local / "serving" / line.tag
    if kept.exists():
        try:
            return routing.unpacked(files_in(kept), line.digest)
        except IntegrityError:  # damaged here: fetched again
            shutil.rmtree(kept, ignore_errors=True)
    workspace.remote_head()  # brings the commit here
    store = Store(workspace)
    blobs = store.out(line.commit, STAGE, OUT)
    if not blobs:
        raise IntegrityError(f"dvc.lock of {line.commit[:12]} has no {OUT}: it is no commit of a router")
    files = {name: store.read(blob) for name, blob in blobs.items()}
    found = routing.unpacked(files, line.digest)
    _keep(files, kept)
    return found


def _keep(files: Mapping[str, bytes], folder: Path) -> None:
    """All of them at once, or none: the door and a command may do it at the same time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        made = Path(scratch) / "router"
        made.mkdir()
        for name, data in files.items():
            (made / name).write_bytes(data)
        with contextlib.suppress(OSError):  # it is there already
            made.rename(folder)


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()} if folder.is_dir() else {}


# --- fitting again


def refit(workspace: Workspace, *, say: Say, forced: str | None = None, wait_seconds: float = LOCK_WAIT) -> Fitted:
    """Fit on the data of the remote and record what came of it; NothingToDo where all is as the newest line has it.

    forced: the reason for which it serves although it is worse, such as another `refused` in params.yaml; it stays in the line.

    Killed anywhere and run again it converges: data, dvc.lock and line go with one push, and the same bytes are one router.
    """
    forced = ledger.reason_of(forced, "why a worse router serves", workspace.params.scrub) if forced is not None else None
    with workspace.lock(ROUTER, wait_seconds=wait_seconds), workspace.clone(ROUTER) as clone:
        made = [_fit(workspace, clone, say, forced)]
        clone.publish(lambda again: made.append(_fit(workspace, again, say, forced)), tries=TRIES)
        return made[-1]


def _fit(workspace: Workspace, clone: Clone, say: Say, forced: str | None) -> Fitted:
    began, params = now(), load(clone.root)
    _can_be_fitted(clone, params)
    tracked = [
        name for one in params.adapters for name in (f"data/seed/{one}.jsonl", f"data/failures/{one}", f"data/suites/{one}")
    ]
    clone.pull(f"{name}.dvc" for name in [*tracked, "data/router"] if (clone.root / f"{name}.dvc").exists())
    clone.dvc("repro", "--single-item", STAGE, on_line=say)
    files = files_in(clone.root / router.MODEL)
    path = clone.root / LEDGER
    lines = parse(path.read_text("utf-8")) if path.exists() else []
    made = judged(workspace, clone, params, files, lines, began)
    if forced is not None and not made.accepted:
        made = made.model_copy(update={"accepted": True, "why": f"{FORCED}{forced}; {made.why}"[:MOST_WHY]})
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
        raise NothingToDo(NONE)
    stages = parse_yaml((clone.root / "dvc.yaml").read_text("utf-8"))["stages"]
    if "router" not in stages or not (clone.root / router.NOBODY).parent.exists():
        raise NothingToDo(f"dvc.yaml has no stage `router`, or there is no {router.NOBODY}: docs/routing.md says how to begin")


def _is_news(before: Fitted, made: Fitted) -> bool:
    return (before.digest, before.accepted) != (made.digest, made.accepted)


def judged(
    workspace: Workspace, clone: Clone, params: Params, files: Mapping[str, bytes], lines: Sequence[Fitted], began: str
) -> Fitted:  # fmt: skip
    """The line of a fit: taken unless it is worse than what serves, or than one that lately did, on the rows of today."""
    digest, rules = routing.digest_of(files), params.router["auto"]
    rows = router.rows_of(clone.root, params)
    _, nobody = rows.halves(rules.nobody_judges)
    right = answered_right(workspace, clone.root, params)

    def measured(one: Router) -> Figures:
        return route_figures.measure(one, rows, nobody, right)

    figures, reasons, served = measured(routing.unpacked(files, digest)), [], None
    rivals = served_lately(_measures(lines))
    serves = rivals[0] if rivals else None
    why = "the first router" if serves is None else "fitted again to the same bytes"
    for rival in rivals if serves and serves.digest != digest else []:
        try:
            theirs = measured(fetch(workspace, rival))
        except (GoneError, IntegrityError) as error:
            why = f"{rival.tag} cannot be compared: {error}" if rival is serves else why
            continue
        if rival is serves:
            served, why = theirs, "no worse than the one before"
        reasons += [f"{line} ({rival.tag})" for line in route_figures.worse(figures, theirs, rules.margin)]
    return Fitted(
        at=began, digest=digest, commit="", accepted=not reasons, why=("; ".join(reasons) or why)[:MOST_WHY],
        against=serves.digest if serves else None, figures=figures.as_dict(), served=served.as_dict() if served else None,
    )  # fmt: skip


def _measures(lines: Sequence[Fitted]) -> list[Fitted]:
    """Those that served, without what a person put aside: all before a forced one, and what was gone back from."""
    kept: list[Fitted] = []
    for line in (line for line in lines if line.accepted):
        digests = [one.digest for one in kept]
        if line.why.startswith(FORCED):
            kept = []
        elif line.digest in digests:
            kept = kept[: digests.index(line.digest)]
        kept.append(line)
    return kept


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
    head = workspace.remote_head()

    def read(path: str) -> str:
        return text_at(workspace.root, head, path) or ""

    params = parse_params(read("params.yaml"), f"{workspace.remote} params.yaml")
    if NAME not in params.router or len(params.adapters) < 2:
        return None
    ledgers = {name: ledger.parse(read(f"ledger/{name}.jsonl"), name) for name in params.adapters}
    return due(params, ledgers, lines_at(workspace, head))


def follow(workspace: Workspace) -> Fitted | None:
    """Fit again if a specialist was promoted since the last fit; whatever fails is a warning, for the promotion stands."""
    try:
        if waits(workspace) is None:
            return None
        made = refit(workspace, say=lambda line: None, wait_seconds=OTHER_FIT)
        _tell(made.told())
        return made
    except NothingToDo:
        return None
    except Exception as error:  # nothing of a router may undo a promotion
        _tell(f"warning: the router was not fitted again, run `retrain route fit`: {error}")
        return None


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
