"""`retrain suite ...`: people change what judges, with a reason."""

from pathlib import Path
from typing import Annotated

import typer

from retrain.cli.shared import HERE, Json, Name, Root, open_workspace, out

Reason = Annotated[str, typer.Option(help="why the truth has changed; kept in the ledger for ever")]


def add(
    adapter: Name,
    file: Annotated[Path, typer.Argument(help="JSONL of messages, or of question and answer")],
    reason: Reason,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Add golden rows.

    Example: retrain suite add support returns.jsonl --reason 'returns moved to the app'
    """
    from retrain import suites

    space = open_workspace(workspace, adapter)
    rows = suites.read_rows(file)
    n = suites.add(space, adapter, rows, reason=reason)
    _told(adapter, "add", n, reason, f"{n} rows added to golden, {len(rows) - n} were there", as_json)


def relabel(
    adapter: Name,
    row_id: Annotated[str, typer.Argument(metavar="ID", help="the row's id")],
    answer: Annotated[str, typer.Argument(help="what is right now")],
    reason: Reason,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Let a row judge by another answer.

    Example: retrain suite relabel support 3f2a9c5d71e08b64aa12 cancel_order --reason 'cancelling is self-service now'
    """
    from retrain import suites

    n = suites.relabel(open_workspace(workspace, adapter), adapter, row_id, answer, reason=reason)
    _told(adapter, "relabel", n, reason, f"row {row_id} judges by the answer {answer!r} from now on", as_json)


def retire(
    adapter: Name,
    row_id: Annotated[list[str], typer.Argument(metavar="ID...", help="ids of rows")],
    reason: Reason,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Let rows judge no more.

    Example: retrain suite retire support 3f2a9c5d71e08b64aa12 --reason 'vouchers are gone'
    """
    from retrain import suites

    n = suites.retire(open_workspace(workspace, adapter), adapter, row_id, reason=reason)
    _told(adapter, "retire", n, reason, f"{n} rows retired: they judge no more", as_json)


def _told(adapter: str, change: str, rows: int, reason: str, line: str, as_json: bool) -> None:
    out({"schema": 1, "adapter": adapter, "change": change, "rows": rows, "reason": reason}, as_json, [line])
