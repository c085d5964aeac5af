"""Stage `prepare`: seed + failure cases -> rows that train, and the frozen suites that judge.

Files only. Every split goes by the hash of the conversation or question, so nothing moves when data grows; a training
row that copies `golden`, or whose conversation judges, is dropped and counted (contamination.py), near copies train as one
row, and a question with two different answers trains nothing, unless one of them is the seed's: a correction that contradicts
it is dropped. What no candidate could answer rightly judges none. Failures that today's champion gets right by now (stage
`recheck`) are replay, as the seed is.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrain import contamination, overlay, preflight, recheck, records
from retrain import params as params_
from retrain.answers import SCHEMA, Schema, misfit, schema_of
from retrain.contamination import Likeness, Paraphrases
from retrain.errors import DataError
from retrain.records import Example, read_examples, read_folder, read_json, rows_digest, unit_hash, write_json, write_jsonl


@dataclass(frozen=True)
class Prepared:
    """Rows that train, the suites by name, what was left out (reason -> rows), and which rows paraphrase `golden`."""

    train: list[Example]
    suites: dict[str, list[Example]]
    left_out: dict[str, int]
    paraphrases: Paraphrases


def prepare(
    *,
    seed: Sequence[Example],
    failures: Sequence[Example],
    golden: Sequence[Example],
    audits: Sequence[tuple[str, list[Example]]],
    rules: params_.Prepare,
    labels: Sequence[str],
    schema: Schema | None,
    changes: Sequence[overlay.Change] = (),
    known: Collection[str] = (),
    repair_least: int = 0,
    synthetic: Sequence[Example] = (),
    max_share: float = 0.0,
) -> Prepared:
    """Who trains and who judges; audits are (stamp, rows), oldest first: the newest is the target of the gate.

    `golden` is taken as it is: it is a person's file, and `preflight` refuses what is wrong in it. `changes` are applied to
    whatever judges, after the splits, so that none moves a row from one side to the other. `known` are ids of failures that the
    champion gets right by now: they judge no repair where at least `repair_least` others do, and train after what is new.
    """
    left_out: Counter[str] = Counter()
    like = Likeness(rules.near, bool(labels), schema is not None)
    seed = _fitting(seed, schema, left_out)
    failures = _undisputed(_fitting(failures, schema, left_out), seed, left_out)
    held = [row for row in seed if not learns(row, rules)]
    pool = [row for row in seed if learns(row, rules)]
    if audits:
        audit, earlier = _target(audits, rules)
    else:  # before there is traffic a share of the seed stands in
        audit = [row for row in pool if unit_hash(row.split_key, "audit") < rules.first_audit_share]
        pool = [row for row in pool if unit_hash(row.split_key, "audit") >= rules.first_audit_share]
        earlier = []
    audit, earlier, held = (overlay.applied(rows, changes) for rows in (audit, earlier, held))
    audit, earlier = _fitting(audit, schema, left_out), _fitting(earlier, schema, left_out)
    repair = [row for row in failures if not learns(row, rules)]
    learn = [row for row in failures if learns(row, rules)]
    repair = _consistent(_known_labels(merge(overlay.applied(repair, changes)), labels, left_out), left_out)
    repair = _unrepaired(repair, {row.key for row in failures if row.id in known}, repair_least, left_out)
    judging = {
        "golden": merge(overlay.golden(golden, changes)),
        "audit": merge(audit),
        "repair": repair,
        "retained": merge([*held, *earlier]),
    }
    rows = _consistent(merge([*pool, *learn]), left_out)
    rows = _without_leaks(rows, judging, like, left_out)
    rows = _known_labels(rows, labels, left_out)
    rows, told = _without_paraphrases(rows, seed, judging["golden"], like, rules, left_out)
    folded, stands = contamination.folded(rows, like)
    left_out["near copy of another training row"] += len(rows) - len(folded)
    new = {stands[row.id] for row in learn if row.id in stands and row.id not in known}
    rows = _balanced(folded, new, rules.max_per_label, left_out) if labels else folded
    rows = _with_synthetic(rows, synthetic, judging, like, rules.max_per_label, max_share, left_out) if synthetic else rows
    return Prepared(rows, {name: kept for name, kept in judging.items() if kept}, dict(left_out), told)


def learns(row: Example, rules: params_.Prepare) -> bool:
    """Whether a row of the seed or of the failures is among those that train, and not held back to judge; by hash."""
    salt, share = ("retained", rules.retained_share) if row.source == "seed" else ("repair", rules.repair_share)
    return unit_hash(row.split_key, salt) >= share


def merge(rows: Iterable[Example]) -> list[Example]:
    """Equal rows become one that keeps all origins; in order of id."""
    merged: dict[str, Example] = {}
    for row in rows:
        known = merged.get(row.id)
        if known:
            origins = {origin.request_id: origin for origin in (*known.origins, *row.origins)}
            merged[row.id] = records.merged([known, row], tuple(origins[key] for key in sorted(origins)))
        else:
            merged[row.id] = row
    return [merged[key] for key in sorted(merged)]


def _target(audits: Sequence[tuple[str, list[Example]]], rules: params_.Prepare) -> tuple[list[Example], list[Example]]:
    """(the newest audit sample less its `retained` share, that share of all earlier ones).

    The file that the repository ships has no origins (it was chosen, not drawn) and goes to `audit` whole.
    """

    def to_retained(row: Example) -> bool:
        return bool(row.origins) and unit_hash(row.split_key, "to-retained") < rules.audit_share

    newest = [row for row in audits[-1][1] if not to_retained(row)]
    return newest, [row for _, rows in audits[:-1] for row in rows if to_retained(row)]


def _fitting(rows: Sequence[Example], schema: Schema | None, left_out: Counter[str]) -> list[Example]:
    kept = [row for row in rows if misfit(row.answer, schema) is None]
    left_out["answer does not fit the output schema"] += len(rows) - len(kept)
    return kept


def _undisputed(failures: list[Example], seed: Sequence[Example], left_out: Counter[str]) -> list[Example]:
    """Without corrections that contradict the seed: one wrong correction must not evict what a person wrote with care."""
    answers: dict[str, set[str]] = defaultdict(set)
    for row in seed:
        answers[row.key].add(row.answer)
    kept = [row for row in failures if row.key not in answers or row.answer in answers[row.key]]
    left_out["correction contradicts the seed"] += len(failures) - len(kept)
    return kept


def _consistent(rows: list[Example], left_out: Counter[str]) -> list[Example]:
    answers: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        answers[row.key].add(row.answer)
    kept = [row for row in rows if len(answers[row.key]) == 1]
    left_out["one question, two answers"] += len(rows) - len(kept)
    return kept


def _without_leaks(
    rows: list[Example], judging: dict[str, list[Example]], like: Likeness, left_out: Counter[str]
) -> list[Example]:  # fmt: skip
    found = contamination.leaks(rows, judging["golden"], (row for kept in judging.values() for row in kept), like)
    left_out.update(why for why in found if why)
    return [row for row, why in zip(rows, found, strict=True) if why is None]


def _without_paraphrases(
    rows: list[Example], seed: Sequence[Example], golden: Sequence[Example], like: Likeness, rules: params_.Prepare,
    left_out: Counter[str],
) -> tuple[list[Example], Paraphrases]:  # fmt: skip
    collected = [row for row in rows if row.source == "failure"]
    told = contamination.paraphrases(collected, seed, golden, like, cosine=rules.paraphrase, most=rules.independent)
    kept = [row for row in rows if not (told.dropped and row.id in told.ids)]
    left_out["paraphrase of a golden row"] += len(rows) - len(kept)
    return kept, told


def _known_labels(rows: list[Example], labels: Sequence[str], left_out: Counter[str]) -> list[Example]:
    kept = [row for row in rows if not labels or row.answer in labels]
    left_out["label not admitted"] += len(rows) - len(kept)
    return kept


def _unrepaired(rows: list[Example], known: set[str], least: int, left_out: Counter[str]) -> list[Example]:
    """Those that the champion still gets wrong; all of them where these are too few to judge by."""
    kept = [row for row in rows if row.key not in known]
    if len({row.split_key for row in kept}) < least:
        return rows
    left_out["held-out failure that the champion gets right by now"] += len(rows) - len(kept)
    return kept


def _balanced(rows: list[Example], new: set[str], most: int, left_out: Counter[str]) -> list[Example]:
    """At most so many rows a label, so that no label drowns another: new failures first, then replay, each by hash."""
    by_label: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        by_label[row.answer].append(row)
    first = [sorted(group, key=lambda r: (r.id not in new, unit_hash(r.id, "balance")))[:most] for group in by_label.values()]
    kept = [row for group in first for row in group]
    left_out["more than prepare.max_per_label"] += len(rows) - len(kept)
    return sorted(kept, key=lambda row: row.id)


def _with_synthetic(
    rows: list[Example], synthetic: Sequence[Example], judging: dict[str, list[Example]], like: Likeness, most: int,
    share: float, left_out: Counter[str],
) -> list[Example]:  # fmt: skip
    """Human rows, then what room they leave: no copy of them or of a suite, no label that they lack, at most the share."""
    others = [*rows, *(row for kept in judging.values() for row in kept)]
    taken = {row.key for row in others}
    human, added = Counter(row.answer for row in rows), Counter[str]()
    kept: list[Example] = []
    made = sorted(merge(synthetic), key=lambda row: unit_hash(row.id, "balance"))
    for row, copied in zip(made, like.copied(made, others), strict=True):
        room = min(most - human[row.answer], int(human[row.answer] * share / (1 - share) + 1e-9))
        if (row.source, row.label_source) != ("synthetic", "synthetic"):
            raise DataError(f"row {row.id} among the synthetic ones has source {row.source}: `synthesize` alone writes them")
        if row.key in taken or copied >= 0:
            left_out["synthetic copy of another row"] += 1
        elif added[row.answer] >= room:
            left_out["synthetic beyond its share"] += 1
        else:
            taken.add(row.key)
            added[row.answer] += 1
            kept.append(row)
    return sorted([*rows, *kept], key=lambda row: row.id)


def read_audits(folder: Path) -> list[tuple[str, list[Example]]]:
    """(stamp, rows) of each audit file, oldest first."""
    return [(path.stem, read_examples(path)) for path in sorted(Path(folder).glob("*.jsonl"))]


def inputs(adapter: str, params: params_.Params) -> dict[str, Any]:
    """What `prepare` takes, less synthetic rows: the files of this folder, each read once."""
    spec, suites = params.adapter(adapter), Path("data/suites") / adapter
    return {
        "seed": read_examples(Path("data/seed") / f"{adapter}.jsonl"),
        "failures": read_folder(Path("data/failures") / adapter),
        "golden": read_examples(suites / "golden.jsonl"),
        "audits": read_audits(suites / "audit"),
        "rules": params.prepare,
        "labels": spec.labels,
        "schema": schema_of(Path(), spec),
        "changes": overlay.read(suites),
        "known": recheck.known(Path("out") / adapter / "recheck"),
        "repair_least": params.gates.repair_min_rows,
        "max_share": params.synthesize.max_share,
    }


def approved_rows(adapter: str, params: params_.Params, folder: Path) -> tuple[list[Example], int]:
    """(synthetic rows that may train, rows that a person has not approved); no folder: none were made."""
    if not (folder / "report.json").exists():
        return [], 0
    rows, recipe = read_examples(folder / "rows.jsonl"), read_json(folder / "report.json").get("recipe")
    free = params.synthesize.approval == "none" or (recipe is not None and params.approved.get(adapter) == recipe)
    return (rows, 0) if free else ([], len(rows))


def main(adapter: str) -> None:
    params = params_.load().of(adapter)
    preflight.check(Path(), params, adapter)
    out, given = Path("out") / adapter, inputs(adapter, params)
    synthetic, unapproved = approved_rows(adapter, params, out / "synthetic")
    made = prepare(**given, synthetic=synthetic)
    if unapproved:
        made.left_out["synthetic, not approved"] = unapproved
    if not made.train:
        raise DataError(f"no row of data/seed/{adapter}.jsonl trains: {made.left_out or 'it is empty'}")
    write_jsonl(out / "data" / "train.jsonl", made.train)
    for name, rows in made.suites.items():
        write_jsonl(out / "suites" / f"{name}.jsonl", rows)
    if given["schema"] is not None:
        write_json(out / "suites" / SCHEMA, given["schema"])
    if given["changes"]:
        overlay.write(out / "suites", given["changes"])
    _check(out, Likeness.of(params.prepare.near, params.adapter(adapter)))
    report = _report(made, given["failures"], given["known"], bool(synthetic))
    write_json(out / "data" / "prepare.json", report)
    told = f", left out {report['left_out']}" if report["left_out"] else ""
    print(f"{adapter}: {len(made.train)} rows train, suites {report['suites']}{told}")


def _check(out: Path, like: Likeness) -> None:
    """What was written, once more: no copy of `golden` trains, and no conversation lies on both sides."""
    suites = {path.stem: read_examples(path) for path in sorted((out / "suites").glob("*.jsonl"))}
    contamination.check(read_examples(out / "data" / "train.jsonl"), suites, like)


def _report(made: Prepared, failures: Sequence[Example], known: Collection[str], synthetic: bool) -> dict[str, Any]:
    counts = {name: len(rows) for name, rows in made.suites.items()}
    left_out = {reason: n for reason, n in sorted(made.left_out.items()) if n}
    report = {"schema": 1, "train": len(made.train), "suites": counts, "left_out": left_out, "dataset": rows_digest(made.train)}
    synthesized = sum(row.source == "synthetic" for row in made.train)
    if failures:
        new = len({row.id for row in failures} & {row.id for row in made.train} - set(known))
        report["train_by"] = {"new failures": new, "replay": len(made.train) - new - synthesized}
        report["paraphrases"] = made.paraphrases.as_dict()
    if synthetic:
        report["synthetic"] = synthesized
    return report


if __name__ == "__main__":
    from retrain.stage import run

    run(main)
