"""Verbs about rows that were kept out of training: list, release."""

from typing import Annotated

import typer

from retrain.cli.shared import HERE, Json, Name, Root, open_workspace, out


def quarantine_list(adapter: Name, workspace: Root = HERE, as_json: Json = False) -> None:
    """Rows that collections kept out, and why.

    Example: retrain quarantine list support
    """
    from retrain import quarantine

    found = quarantine.listed(open_workspace(workspace, adapter), adapter)
    lines = []
    for one in found:
        text = f"  {one.row.example.question!r} -> {one.row.example.answer!r}" if one.row.example else ""
        told = f" (released: {one.released})" if one.released is not None else ""
        where = f" at {one.row.where}" if one.row.where else ""
        lines += [
            f"{one.row.id} {one.row.kind}: request {one.row.request_id}{where}: {one.row.reason}{told}",
            *filter(None, [text]),
        ]
    rows = [{**one.row.as_dict(), "released": one.released} for one in found]
    out({"schema": 1, "adapter": adapter, "rows": rows}, as_json, lines or [f"{adapter}: nothing is in quarantine"])


def quarantine_release(
    adapter: Name,
    row: Annotated[str, typer.Argument(metavar="ID", help="as `retrain quarantine list` shows it")],
    reason: Annotated[str, typer.Option(help="why it may train; kept in the ledger for ever")],
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Let the next collection take a row, by commit and push.

    Example: retrain quarantine release support 3f2a9c0d1b7e4a5f6c8d --reason 'asked the user'
    """
    from retrain import quarantine

    one = quarantine.release(open_workspace(workspace, adapter), adapter, row, reason=reason)
    out({"schema": 1, "adapter": adapter, "released": one.as_dict()}, as_json, [f"{row}: the next collection takes it"])
