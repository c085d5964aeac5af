"""Stage `gate`: the PURE function `judge` from predictions and rules to a Verdict, and the files around it.

Exits 0 once a verdict is written, whatever it says: a "no" is a value. Nothing here raises a candidate: what is missing,
malformed, too few or of another hash is `not_evaluated`, and a row that could not be measured counts against it.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from retrain import bounds, overlay
from retrain import checks as checks_
from retrain import params as params_
from retrain.case import COMPARED, SUITES, Case, Prediction
from retrain.opinion import opinion
from retrain.records import dumps, file_digest, lines_of, read_json, read_jsonl, text_digest, write_json, write_text
from retrain.slices import slices
from retrain.verdict import ChampionState, Check, Harm, Verdict, read_state, status_of

HASHES = ("adapter", "base", "template", "dataset", "params")  # of `bound`, sha256 hex each; see `binding`


def judge(
    predictions: Sequence[dict[str, Any]], *, gates: params_.Gates, state: ChampionState, task: str, bound: dict[str, Any],
    served: Any,
) -> Verdict:  # fmt: skip
    """The verdict over all checks that the purpose needs; the same inputs give the same verdict.

    `bound` is what `binding` returns: the hashes that the verdict is about, rows of each suite, and what was evaluated.
    served: what stage `serves` wrote about the candidate (`verdict.Served` as JSON), None where it did not.
    """
    rows, problems = _parse(predictions)
    problems += _unbound(bound, state, rows)
    if problems:  # nothing can be told from inputs that do not belong together
        return _verdict(state, [_bound_check(problems)], rows, bound, ())
    changes = bounds.changes(rows)
    if not changes.passed:
        return _verdict(state, [_bound_check([]), changes], rows, bound, ())
    counting = {suite: [row for row in rows if row.suite == suite and row.excluded is None] for suite in SUITES}
    reference = "base" if state.purpose == "first" else "champion"
    copies: Counter[str] = Counter(row.suite for row in rows if row.excluded is not None)
    case = Case(counting, gates, state, reference, attempt=state.earlier(bound["adapter"]) + 1, copies=copies)
    repair = state.purpose != "first" and any(row.suite == "repair" for row in rows)
    checks = [_bound_check([]), changes, *_checks(case, task, repair), bounds.budget(case, task, bound.get("bytes"))]
    checks += [bounds.serves(served, rows, bound, gates.serves)]
    checks += [bounds.safety(case), *opinion(case)] if task == "generation" else []
    sliced, by_slice = slices(case) if state.purpose != "first" else (None, [])
    checks += [sliced] if sliced else []
    lost = {check.suite: None for check in checks if check.name == "non_inferior" and check.passed is False and check.suite}
    harmed = [harm for suite in lost if suite for harm in checks_.harm(case, suite)]
    return _verdict(state, checks, rows, bound, (*harmed, *(harm for harm in by_slice if harm.suite not in lost)))


def _checks(case: Case, task: str, repair: bool) -> list[Check]:
    better, no_worse = COMPARED[case.state.purpose]
    floors = {suite: share for suite, share in case.gates.floor.items() if suite != "repair" or repair}
    parse = case.gates.parse_floor if task == "generation" else None
    checks = [checks_.superior(case, suite) for suite in better]
    checks += [checks_.non_inferior(case, suite) for suite in no_worse]
    checks += [check for suite in no_worse if suite != "audit" and (check := checks_.anchored(case, suite))]
    checks += [bounds.floor(case, suite, share, "floor", case.metric) for suite, share in sorted(floors.items())]
    checks += [bounds.floor(case, "golden", parse, "parse_floor", "parsed")] if parse is not None else []
    checks += [bounds.floor(case, "repair", case.gates.repair, "repair", case.metric)] if repair else []
    touched = {check.suite for check in checks}
    return checks + [bounds.measured(case, suite) for suite in SUITES if suite in touched]


def _verdict(
    state: ChampionState, checks: list[Check], rows: list[Prediction], bound: dict[str, Any], harmed: tuple[Harm, ...]
) -> Verdict:
    excluded: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row.excluded is not None:
            excluded[row.suite][row.excluded] += 1
    status = status_of(tuple(checks))
    return Verdict(
        adapter=state.adapter,
        purpose=state.purpose,
        promote=status == "passed",
        status=status,
        checks=tuple(checks),
        excluded={suite: dict(sorted(excluded[suite].items())) for suite in sorted(excluded)},
        bound={key: value for key, value in bound.items() if key != "evaluated"},
        harmed=harmed,
    )


# --- do the inputs belong together


def _parse(predictions: Sequence[dict[str, Any]]) -> tuple[list[Prediction], list[str]]:
    rows, problems, seen = [], [], set()
    for number, raw in enumerate(predictions, 1):
        try:
            row = Prediction.model_validate(raw)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            problems.append(f"row {number} of the predictions is malformed at {where}: {error.errors()[0]['msg']}")
            continue
        if (row.suite, row.id) in seen:
            problems.append(f"row {row.id} of {row.suite} is there twice")
        seen.add((row.suite, row.id))
        rows.append(row)
    return rows, problems


def _unbound(bound: dict[str, Any], state: ChampionState, rows: list[Prediction]) -> list[str]:
    """Why the predictions are not known to be of this candidate, champion and suites; empty when they are."""
    problems = [f"{key} has no hash" for key in HASHES if not _is_hash(bound.get(key))]
    if state.purpose not in COMPARED:
        problems.append(f"purpose is {state.purpose!r}, must be one of {', '.join(COMPARED)}")
    elif (state.purpose == "first") != (state.digest is None):
        problems.append(f"purpose is {state.purpose}, but the champion's digest is {state.digest or 'missing'}")
    evaluated = bound.get("evaluated") or {}
    for arm, digest in (("candidate", bound.get("adapter")), ("champion", state.digest)):
        if evaluated.get(arm, "missing") != digest:
            problems.append(f"the predictions are of {arm} {evaluated.get(arm)}, this one is {digest}: run dvc repro")
    if bound.get("champion", "missing") != state.digest or bound.get("attempts") != state.earlier(bound.get("adapter")):
        problems.append("champion or attempts are not those of the champion's state file")
    return problems + _other_suites(bound, rows)


def _other_suites(bound: dict[str, Any], rows: list[Prediction]) -> list[str]:
    hashes, counts = bound.get("suites") or {}, bound.get("rows") or {}
    evaluated = (bound.get("evaluated") or {}).get("hashes") or {}
    answered = Counter(row.suite for row in rows)
    problems = [f"suite {suite} has no hash" for suite in answered if not _is_hash(hashes.get(suite))]
    problems += [
        f"suite {suite} is not the file that was evaluated: run dvc repro"
        for suite in answered
        if evaluated.get(suite, "missing") != hashes.get(suite)
    ]
    return problems + [
        f"{answered[suite]} rows of {suite} were evaluated, the suite has {counts.get(suite)}: run dvc repro"
        for suite in sorted({*answered, *counts})
        if counts.get(suite) != answered[suite]
    ]


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _bound_check(problems: list[str]) -> Check:
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    why = "; ".join(problems[:3]) + more if problems else "predictions, adapter, champion and suites belong together"
    return Check(name="bound", role="quality", metric="hashes", passed=None if problems else True, why=why)


# --- the stage


def binding(out: Path, state: ChampionState, rules: dict[str, Any]) -> dict[str, Any]:
    """What a verdict is bound to, from the files of out/<adapter>: sha256 of each, rows of the suites, what was evaluated.

    `params` covers the rules that the gate reads; those of training are in run.json, which the adapter's manifest covers.
    """
    run, metrics = read_json(out / "adapter" / "run.json"), read_json(out / "metrics.json")
    adapter = file_digest(out / "adapter" / "manifest.json")
    suites = sorted((out / "suites").glob("*.jsonl"))
    return {
        "adapter": adapter,
        "base": run.get("base_digest"),
        "template": run.get("template_digest"),
        "dataset": run.get("dataset"),
        "suites": {path.stem: file_digest(path) for path in suites},
        "rows": {path.stem: sum(1 for _ in lines_of(path)) for path in suites},
        "predictions": file_digest(out / "predictions" / "predictions.jsonl"),
        "bytes": sum(path.stat().st_size for path in (out / "adapter").iterdir() if path.is_file()),
        "champion": state.digest,
        "attempts": state.earlier(adapter),
        "params": text_digest(dumps(rules, sort_keys=True)),
        "evaluated": {name: metrics.get(name) for name in ("candidate", "champion", "hashes")},
    }


def main(adapter: str) -> None:
    from retrain.card import card, one_line

    params = params_.load().of(adapter)
    task, out = params.adapter(adapter).task, Path("out") / adapter
    state = read_state(Path("champion") / f"{adapter}.json")
    rules = {"gates": params.gates.model_dump(mode="json"), "task": task}
    predictions = read_jsonl(out / "predictions" / "predictions.jsonl")
    served = read_json(out / "serves.json") if (out / "serves.json").exists() else None
    verdict = judge(predictions, gates=params.gates, state=state, task=task, bound=binding(out, state, rules), served=served)
    changed = overlay.since(overlay.read(out / "suites"), state.changes)
    write_text(out / "card.md", card(verdict, read_json(out / "metrics.json"), predictions, changed, state.rebaselined))
    write_json(out / "verdict.json", verdict.as_dict())
    print(f"{adapter}: {one_line(verdict)}")


if __name__ == "__main__":
    from retrain.stage import run as run_stage

    run_stage(main)
