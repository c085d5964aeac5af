"""Verbs about versions: explain one, compare two, prune old ones."""

from typing import Annotated

import typer

from retrain.cli.shared import HERE, Json, Name, Root, open_workspace, out

Version = Annotated[str, typer.Argument(help="such as support-v2")]


def explain(version: Version, workspace: Root = HERE, as_json: Json = False) -> None:
    """Its story: drift, rows, training, verdict, approval, what it replaced, what came of it.

    Example: retrain explain support-v2
    """
    from retrain import explain as explain_

    told = explain_.explain(open_workspace(workspace), version)
    lines = [line for chapter in told.chapters for line in (f"{chapter.title}:", *(f"  {line}" for line in chapter.lines))]
    out(told.as_dict(), as_json, lines)


def compare(first: Version, second: Version, workspace: Root = HERE, as_json: Json = False) -> None:
    """Two versions on one page, from stored predictions: by suite and slice, rows won and lost side by side.

    Example: retrain compare support-v1 support-v2
    """
    from monitoring import pages
    from retrain import compare as compare_
    from retrain import projections
    from retrain.records import write_text

    space = open_workspace(workspace)
    found = compare_.compare(space, first, second)
    text, path = compare_.page(found), projections.reports(space) / f"{first}-{second}.html"
    write_text(path, pages.paper(f"{first} and {second}", text))
    out({**compare_.as_dict(found), "page": path}, as_json, [text, f"page: {path}"])


def prune(
    adapter: Name,
    keep: Annotated[int, typer.Option(help="versions that served last and stay in any case")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would leave")] = False,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Delete old versions from MLflow, never what an alias, the ledger or a rollback needs.

    Example: retrain prune support --keep 5 --dry-run
    """
    from retrain import prune as prune_

    found = prune_.prune(open_workspace(workspace, adapter), adapter, keep=keep, dry=dry_run)
    verb = "would leave" if dry_run else "left"
    lines = [f"v{number} stays: {why}" for number, why in found.kept.items()]
    lines += [f"v{number} {verb} MLflow" for number in found.dropped] or ["nothing to prune"]
    data = {"schema": 1, "adapter": adapter, "dry_run": dry_run, "kept": found.kept, "dropped": found.dropped}
    out(data, as_json, lines)
