"""`retrain import ...`: rows that a team already has, in other formats."""

from pathlib import Path
from typing import Annotated

import typer

from retrain.cli.shared import HERE, Json, Root, open_workspace, out
from retrain.errors import ParamsError


def openai(
    file: Annotated[list[Path], typer.Argument(help="JSONL for fine-tuning (chat, tools, preferences) or evaluation")],
    adapter: Annotated[str | None, typer.Option(help="whose rows they become; default: the only adapter")] = None,
    to: Annotated[str | None, typer.Option(help="seed or golden, for all rows; default: evaluations are golden")] = None,
    question_field: Annotated[str | None, typer.Option(help="evaluation items: the field with the question")] = None,
    answer_field: Annotated[str | None, typer.Option(help="evaluation items: the field with the right answer")] = None,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Take files of OpenAI's formats into seed and golden, and say what could not be taken.

    Example: retrain import openai train.jsonl eval.jsonl
    """
    from retrain import imports

    if to not in (None, "seed", "golden"):
        raise ParamsError(f"--to is {to!r}, must be seed or golden")
    space = open_workspace(workspace, adapter)
    names = list(space.params.adapters)
    if adapter is None and len(names) > 1:
        raise ParamsError(f"this workspace has the adapters {', '.join(names)}: give --adapter")
    name = adapter or names[0]
    reports = imports.import_openai(space, name, file, to=to, question=question_field, answer=answer_field)  # type: ignore[arg-type]
    data = {"schema": 1, "adapter": name, "files": [report.as_dict() for report in reports]}
    out(data, as_json, [line for report in reports for line in imports.told(report)])
