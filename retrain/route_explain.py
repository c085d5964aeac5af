"""Where a text goes and why: by the router that serves, with the human rows that are nearest to it."""

from dataclasses import dataclass
from typing import Any

from retrain import router, routing
from retrain.errors import NothingToDo
from retrain.params import Params
from retrain.routes import NONE, OUT, STAGE, fetch, files_in, lines_at, serving
from retrain.routing import NAME, Router
from retrain.rows import row_of
from retrain.store import Store
from retrain.text import vectors
from retrain.workspace import Workspace


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
    files = files_in(workspace.root / router.MODEL)
    if not files and not workspace.params.router:
        raise NothingToDo(NONE)
    if not files:
        raise NothingToDo(f"no router serves and there is none in {OUT}: run `retrain route fit`, or `dvc repro {STAGE}` here")
    return routing.unpacked(files, None), routing.digest_of(files), f"{OUT} of this folder, which serves nobody", None


def _rows(workspace: Workspace, head: str | None, params: Params) -> list[dict[str, Any]]:
    """Human rows, and those of nobody, as they are where the router is from."""
    if head is None:
        rows = router.rows_of(workspace.root, params)
        own = [_row(name, row.id, row.question, row.answer) for name, found in rows.human.items() for row in found]
        return own + [_row(None, None, text, None) for text in rows.nobody]
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
    near = vectors([row["question"] for row in rows]) @ vectors([text])[0]
    order = sorted(range(len(rows)), key=lambda i: -near[i])[:most]
    return [{**rows[i], "cosine": round(float(near[i]), 3)} for i in order]
