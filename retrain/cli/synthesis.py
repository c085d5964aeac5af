"""`retrain synthetic ...`: rows that a model wrote, looked at and approved by a person."""

from typing import Annotated

import typer

from retrain.cli.shared import HERE, Json, Name, Root, open_workspace, out


def show(adapter: Name, workspace: Root = HERE, as_json: Json = False) -> None:
    """A sample of the newest synthetic rows, and what each filter rejected.

    Example: retrain synthetic show support
    """
    from retrain import approval

    found = approval.show(open_workspace(workspace, adapter), adapter)
    recipe = found.report["recipe"]
    told = "approved" if found.approved else f"not approved: `retrain synthetic approve {adapter} {recipe} --reason ...`"
    lines = [found.page, *found.report["words"], f"recipe {recipe}: {told}"]
    data = {"schema": 1, "adapter": adapter, "approved": found.approved, "report": found.report, "sample": found.page}
    out(data, as_json, lines)


def approve(
    adapter: Name,
    recipe: Annotated[str, typer.Argument(help="as `retrain synthetic show` names it")],
    reason: Annotated[str, typer.Option(help="why such rows may train; kept in the ledger for ever")],
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Let synthetic rows of this recipe train, by commit and push.

    Example: retrain synthetic approve support 3f2a9c0d1b7e4a5f --reason 'read 30 of them'
    """
    from retrain import approval

    made = approval.approve(open_workspace(workspace, adapter), adapter, recipe, reason=reason)
    lines = [f"{adapter}: synthetic rows of recipe {made} train from the next retraining on"]
    out({"schema": 1, "adapter": adapter, "approved": made}, as_json, lines)
