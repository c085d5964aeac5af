"""`retrain feedback export`: what was said of answers, for MLflow."""

import dataclasses
from typing import Annotated

import typer

from retrain.cli.shared import HERE, Json, Name, Root, open_workspace, out, time_of


def feedback_export(
    adapter: Name,
    since: Annotated[str | None, typer.Option(help="ISO 8601, with a zone: only what became known from then on")] = None,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Make MLflow say what the log says of answers: one trace a request, with Feedback and Expectation.

    Example: retrain feedback export support
    """
    from retrain import assessments

    space = open_workspace(workspace, adapter)
    done = assessments.export(space, adapter, since=time_of(since, "--since") if since else None)
    same = done.requests - done.new - done.changed - done.unsearched - done.erased
    told = f"{done.new} are new in MLflow, {done.changed} changed there, {same} as before"
    lines = [f"{adapter}: {done.requests} requests have feedback; {told}"]
    lines += [f"{done.erased} stay out: they were erased on request"] if done.erased else []
    lines += [f"{done.unsearched} stay out: what searches them for personal data failed"] if done.unsearched else []
    out({"schema": 1, "adapter": adapter, **dataclasses.asdict(done)}, as_json, lines)
