"""Verbs about the review queue: export, import."""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from retrain.cli.shared import HERE, Json, Name, Root, open_workspace, out, time_of


class Format(StrEnum):
    label_studio = "label-studio"
    csv = "csv"


def review_export(
    adapter: Name,
    file: Annotated[Path, typer.Argument(help="the file to write; a .csv is CSV unless --format says otherwise")],
    format_: Annotated[Format | None, typer.Option("--format", help="default: by the file's name")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="rows; default: all")] = None,
    end: Annotated[str | None, typer.Option(help="rows before this instant; default: now")] = None,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Write the failure cases that wait for a person, with suggestions, as tasks of Label Studio or CSV.

    Example: retrain review export support queue.csv --limit 100
    """
    from retrain import review, reviewfiles
    from retrain.records import write_text

    space = open_workspace(workspace, adapter)
    found = review.queue(space, adapter, time_of(end, "--end"))
    rows = found[:limit]
    chosen = format_ or (Format.csv if file.suffix.lower() == ".csv" else Format.label_studio)
    tasks, labels = review.tasks(space, adapter, rows), review.labels_of(space, adapter)
    lines = [f"{adapter}: {len(rows)} of {len(found)} rows that wait are in {file}"]
    if chosen is Format.csv:
        write_text(file, reviewfiles.as_csv(tasks))
        lines.append(f"fill in `answer` (and `reviewer`), save as CSV UTF-8, then: retrain review import {adapter} {file}")
    else:
        config = file.with_name(f"{file.name}.config.xml")
        write_text(file, reviewfiles.label_studio(tasks, closed=bool(labels)))
        write_text(config, reviewfiles.labelling_config(labels))
        lines.append(f"import it in a project with the labelling interface {config}; its JSON export comes back by")
        lines.append(f"  retrain review import {adapter} EXPORT.json")
    data = {
        "schema": 1,
        "adapter": adapter,
        "file": str(file),
        "format": chosen.value,
        "rows": len(rows),
        "waiting": len(found),
    }
    out(data, as_json, lines)


def review_import(
    adapter: Name,
    file: Annotated[Path, typer.Argument(help="CSV, or a JSON or JSON-MIN export of Label Studio")],
    new_labels: Annotated[bool, typer.Option("--new-labels", help="take labels that the adapter does not list too")] = False,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Take the answers of reviewers, by commit and push; the next collection learns them.

    Example: retrain review import support queue.csv
    """
    from retrain import review, reviewfiles

    space = open_workspace(workspace, adapter)
    given = reviewfiles.read(file)
    made = review.take(space, adapter, given, new_labels=new_labels, now=datetime.now(UTC))
    out({"schema": 1, "adapter": adapter, **vars(made)}, as_json, review.told(made, adapter))
