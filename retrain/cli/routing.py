"""`retrain route`: which specialist a message goes to (`model: "auto"`), why, and the router that says so."""

from typing import Annotated

import typer

from retrain.cli.shared import HERE, Json, Root, open_workspace, out, say_for
from retrain.errors import NothingToDo, ParamsError, RejectedError


def explain(
    text: Annotated[str, typer.Argument(help="a user's message")],
    nearest: Annotated[int, typer.Option(min=0, max=100, help="human rows that are shown")] = 5,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Where a message goes and why: probabilities, the threshold below which it is for nobody, the nearest human rows.

    Example: retrain route explain "my card was declined"
    """
    from retrain import route_explain

    found = route_explain.explain(open_workspace(workspace), text, nearest=nearest)
    told = found.as_dict()
    goes = told["route"] or f"none of them: {found.fallback + ' answers' if found.fallback else 'it is refused'}"
    lines = [f"goes to {goes}"]
    lines += [f"  {p:6.1%}  {name}" for name, p in told["probabilities"].items()]
    lines += [f"  {told['nobody']:6.1%}  nobody; below {found.route.threshold:.1%} for the likeliest specialist it is for none"]
    if found.nearest:
        lines.append("nearest human rows:")
    for row in found.nearest:
        answer = f" ({row['answer'][:60]})" if row["answer"] else ""
        lines.append(f"  {row['cosine']:6.3f}  {row['specialist'] or 'nobody'}: {row['question'][:100]}{answer}")
    out(told, as_json, [*lines, f"router {found.digest[:12]}, {found.source}"])


def fit(
    force: Annotated[bool, typer.Option("--force", help="it serves although it is worse; needs --reason")] = False,
    reason: Annotated[str | None, typer.Option(help="of --force, kept in the ledger")] = None,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Fit the router again, measure it beside the one that serves, and let it serve where it is no worse.

    Example: retrain route fit
    """
    from retrain import routes

    if force != (reason is not None):
        raise ParamsError("give --force and --reason together: a worse router that serves says why")
    made = routes.refit(open_workspace(workspace), say=say_for(as_json), forced=reason)
    out(made.as_dict(), as_json, [made.told()])
    if not made.accepted:
        raise RejectedError("the router that served stays")


def status(workspace: Root = HERE, as_json: Json = False) -> None:
    """The router that serves, how it was measured, and what became of the newest fit.

    Example: retrain route status
    """
    from retrain import routes

    space = open_workspace(workspace)
    lines = routes.lines_at(space, space.remote_head())
    if not lines:
        raise NothingToDo("no router was ever fitted here: run `retrain route fit`" if space.params.router else routes.NONE)
    serves = routes.serving(lines)
    said = [line.told() for line in (serves, None if serves is lines[-1] else lines[-1]) if line]
    for name, one in (serves.figures["specialists"] if serves else {}).items():
        said.append(f"  {name}: {one['accuracy']:.1%} of {one['n']} rows routed to it, {one['refused']:.1%} refused")
    waits = routes.waits(space)
    said += [waits] if waits else []
    data = {"schema": 1, "serves": serves.as_dict() if serves else None, "newest": lines[-1].as_dict(), "waits": waits}
    out(data, as_json, said)
