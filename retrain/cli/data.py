"""`retrain data ...`: dataset versions, and who learned what."""

from typing import Annotated, Any

import typer

from retrain.cli.shared import HERE, Json, Name, Root, open_workspace, out, say_for
from retrain.errors import ParamsError

Many = Annotated[int, typer.Option("--rows", "-n", min=0, help="rows to show; --json has all")]


def _store(space: Any) -> Any:
    from retrain.store import Store

    return Store(space)


def log(
    adapter: Name,
    n: Annotated[int, typer.Option("--versions", "-n", min=1, help="how many, the newest")] = 20,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """The dataset versions of an adapter: when, how many rows, what came and went, who learned it.

    Example: retrain data log support
    """
    from retrain import lineage

    space = open_workspace(workspace, adapter)
    steps = lineage.steps(space, _store(space), adapter, n)
    erased = lineage.erased(space, adapter)
    out({"schema": 1, "adapter": adapter, "versions": steps, "erased": erased}, as_json, [*map(_step, steps), *erased])


def _step(step: dict[str, Any]) -> str:
    if step["rows"] is None:
        told = "no longer reproducible: some of its data is gone from cache and remote"
    else:
        told = ", ".join(f"{n} {part}" for part, n in step["rows"].items()) or "no rows"
        told += f" (+{step['came']} -{step['went']})" if step["came"] is not None else ""
    used = f"; learned by {', '.join(step['used_by'])}" if step["used_by"] else ""
    return f"{step['commit'][:10]} {step['at'][:16].replace('T', ' ')} {told}{used}  {step['subject']}"


def show(
    adapter: Name,
    version: Annotated[str | None, typer.Argument(help="commit, support-v2, or a collection's stamp; default: newest")] = None,
    everything: Annotated[bool, typer.Option("--all", help="also the rows themselves")] = False,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """One dataset version: rows by part, source, label and reason.

    Example: retrain data show support
    """
    from retrain import lineage
    from retrain import rows as rows_

    space = open_workspace(workspace, adapter)
    found = lineage.find(space, adapter, version)
    rows = lineage.rows_at(_store(space), adapter, found.commit)
    told = rows_.counts(rows, labels=bool(space.params.adapter(adapter).labels))
    lines = [f"{adapter} {found.commit[:10]} {found.at}: {found.subject}", f"{len(rows)} rows"]
    lines += [f"by {name}: {_counted(values)}" for name, values in told.items()]
    data = {"schema": 1, "adapter": adapter, **vars(found), "rows": len(rows), "by": told}
    if everything:
        data["all"] = [row.as_dict() for row in rows]
        lines += [f"  {row.part} {line.strip()}" for row in rows for line in _some([row], 1)]
    out(data, as_json, lines)


def _counted(values: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in values.items()) or "none"


def diff(
    adapter: Name,
    old: Annotated[str, typer.Argument(help="commit, support-v2, or a collection's stamp")],
    new: Annotated[str | None, typer.Argument(help="likewise; default: the newest")] = None,
    many: Many = 10,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """What came and what went between two dataset versions.

    Example: retrain data diff support support-v1
    """
    from retrain import lineage
    from retrain import rows as rows_

    space = open_workspace(workspace, adapter)
    store = _store(space)
    one, two = (lineage.find(space, adapter, name) for name in (old, new))
    changed = rows_.difference(*(lineage.rows_at(store, adapter, version.commit) for version in (one, two)))
    labels = bool(space.params.adapter(adapter).labels)
    data: dict[str, Any] = {"schema": 1, "adapter": adapter, "old": vars(one), "new": vars(two)}
    lines = [f"{adapter}: {one.commit[:10]} ({one.at[:16]}) -> {two.commit[:10]} ({two.at[:16]})"]
    for name, rows in (("came", changed.came), ("went", changed.went)):
        told = rows_.counts(rows, labels)
        data[name] = {"rows": [row.as_dict() for row in rows], "by": told}
        lines.append(f"{len(rows)} rows {name}" + (f": {_counted(told['part'])}" if rows else ""))
        lines += [f"  by {by}: {_counted(told[by])}" for by in ("source", "reason", "label") if rows and by in told]
        lines += _some(rows, many)
    out(data, as_json, lines)


def rows(
    version: Annotated[str, typer.Argument(help="an adapter version, such as support-v2")],
    many: Many = 10,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """The rows that trained an adapter version.

    Example: retrain data rows support-v2
    """
    from retrain import lineage
    from retrain import rows as rows_

    space = open_workspace(workspace)
    line = lineage.promoted(space, version)
    found = lineage.trained(_store(space), line.adapter, line.commit)
    told = rows_.counts(found, labels=bool(space.params.adapter(line.adapter).labels))
    erased = lineage.erased(space, line.adapter, line.digest)
    data = {"schema": 1, "version": version, "commit": line.commit, "by": told, "rows": [row.as_dict() for row in found]}
    data["erased"] = erased
    lines = [f"{version} (commit {line.commit[:10]}) learned {len(found)} rows" + (", beside" if erased else ""), *erased]
    lines += [f"by {by}: {_counted(told[by])}" for by in ("source", "reason", "label") if by in told]
    out(data, as_json, [*lines, *_some(found, many)])


def _some(found: Any, many: int) -> list[str]:
    lines = [f"  {row.id} {row.answer[:40]!r} <- {row.question[:80]!r}" for row in found[:many]]
    return [*lines, *([f"  ... and {len(found) - many} more (--json has all)"] if many and len(found) > many else [])]


def row(
    row_id: Annotated[str, typer.Argument(metavar="ID", help="a row's id, or its first digits")],
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """One row: its log rows, the collection that brought it, the versions that learned it.

    Example: retrain data row 3f2a9c
    """
    from retrain import lineage
    from retrain import rows as rows_

    space = open_workspace(workspace)
    store = _store(space)
    found = lineage.find_row(space, store, row_id)
    learned, unknown = lineage.learned(space, store, lambda one: one.id == found[0].row.id)
    lines: list[str] = []
    for one in found:
        lines += _row_lines(one, rows_.collected(one.row))
    lines.append(f"learned by {', '.join(_who(one) for one in learned)}" if learned else "no version has learned it")
    data = {
        "schema": 1,
        "id": found[0].row.id,
        "found": [
            {
                "adapter": one.adapter, **one.row.as_dict(), "now": one.now, "collections": rows_.collected(one.row),
                "since": vars(one.since) if one.since else None, "until": vars(one.until) if one.until else None,
            }
            for one in found
        ],
        "learned_by": [_learned(one) for one in learned],
        "unknown": unknown,
    }  # fmt: skip
    out(data, as_json, [*lines, *_unknown(unknown)])


def _row_lines(one: Any, collections: list[str]) -> list[str]:
    row = one.row
    lines = [f"{row.id} of {one.adapter}: {row.answer!r} <- {row.question!r}"]
    lines.append(f"  {row.source}, label by {row.label_source}, for: {', '.join(row.reasons)}")
    lines.append(f"  lies in {', '.join(one.now)}" if one.now else "  lies in no file any more")
    lines += [f"  log row {o.get('request_id')} of user {o.get('user') or 'unknown'}" for o in row.origins]
    lines += [f"  collected {', '.join(collections)}"] if collections else ["  of no collection: a person wrote it"]
    lines += [f"  since {one.since.commit[:10]} {one.since.at[:16]}: {one.since.subject}"] if one.since else []
    return lines + ([f"  until {one.until.commit[:10]} {one.until.at[:16]}: {one.until.subject}"] if one.until else [])


def of_user(
    user: Annotated[str, typer.Argument(help="a user id as the log store has it, or as the rows hold it")],
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """The adapter versions that learned from a user.

    Example: retrain data of-user u-1042
    """
    from retrain import lineage
    from retrain import rows as rows_

    space = open_workspace(workspace)
    store, wanted = _store(space), lineage.of_user(space, user)
    learned, unknown = lineage.learned(space, store, wanted)
    now = {}
    for adapter in space.params.adapters:
        held = [one for one in lineage.rows_at(store, adapter, lineage.head(space)) if wanted(one)]
        now[adapter] = {**rows_.counts(held, labels=False)["part"]}
    lines = [f"{_who(one)}: {len(one.rows)} rows" for one in learned] or ["no adapter version has learned from this user"]
    lines += [f"{adapter} holds now: {_counted(parts)}" for adapter, parts in now.items() if parts]
    data = {"schema": 1, "learned_by": [_learned(one) for one in learned], "holds": now, "unknown": unknown}
    out(data, as_json, [*lines, *_unknown(unknown)])


def erase(
    reason: Annotated[str, typer.Option(help="kept in the ledger for ever: without the id")],
    user: Annotated[str | None, typer.Option(help="a user id, as the log store has it")] = None,
    request: Annotated[str | None, typer.Option(help="a request id")] = None,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Erase a user or a request from every version, cache and report; says which adapters learned it.

    Example: retrain data erase --user u-1042 --reason 'asked by letter'
    """
    from retrain import erasure, projections

    if (user is None) == (request is None):
        raise ParamsError("give --user or --request, one of them")
    space, tell = open_workspace(workspace), say_for(as_json)
    done = erasure.erase(
        space, kind="user" if request is None else "request", value=user or request or "", reason=reason, say=tell
    )
    out(erasure.as_dict(done), as_json, erasure.lines(done))
    for adapter in done.rows:
        projections.refresh(space, adapter, panels=False, say=tell)


def clean(
    days: Annotated[float, typer.Option(min=0, help="what is younger stays: a job may not have pushed yet")] = 14,
    remote: Annotated[bool, typer.Option("--remote", help="also in the DVC remote")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Remove data that no dataset version, no version that served and no suite names.

    Example: retrain data clean --dry-run
    """
    from retrain import cleaning

    done = cleaning.clean(open_workspace(workspace), days=days, remote=remote, dry=dry_run)
    word = "would go" if dry_run else "removed"
    lines = [
        f"{place}: {n} objects {word} ({done.freed[place] / 1e6:.1f} MB), {done.kept[place]} stay"
        for place, n in done.removed.items()
    ]
    out({"schema": 1, "dry_run": dry_run, **vars(done)}, as_json, lines)


def _who(one: Any) -> str:
    return one.name + (" (serves)" if one.serves else "")


def _learned(one: Any) -> dict[str, Any]:
    ids = [row.id for row in one.rows]
    return {"adapter": one.adapter, "name": one.name, "version": one.version, "serves": one.serves, "rows": ids}


def _unknown(unknown: list[str]) -> list[str]:
    return [f"not known of {line}" for line in unknown]
