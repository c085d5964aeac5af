"""Files of other formats become seed and golden rows, through an ephemeral clone, with a report of what could not be taken."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from retrain import ledger, openai, overlay
from retrain.answers import misfit, schema_of
from retrain.errors import DataError, NothingToDo
from retrain.jobs import TRIES, job, now, remote_params
from retrain.recognisers import Failed
from retrain.records import Example, lines_of, read_examples, write_jsonl
from retrain.scrub import Scrubber
from retrain.workspace import Clone, Workspace

To = Literal["seed", "golden"]


@dataclass
class Report:
    """What became of one file's lines; `not_taken` is (line number, why), `known` were there already."""

    file: str
    lines: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    not_taken: list[tuple[int, str]] = field(default_factory=list)
    tools: Counter[str] = field(default_factory=Counter)
    seed: int = 0
    golden: int = 0
    known: int = 0
    personal: Counter[str] = field(default_factory=Counter)  # rows in which something of a kind became a placeholder

    def as_dict(self) -> dict[str, object]:
        return {**vars(self), "not_taken": [{"line": n, "why": why} for n, why in self.not_taken]}


def import_openai(
    workspace: Workspace, adapter: str, files: Sequence[Path], *, to: To | None, question: str | None, answer: str | None
) -> list[Report]:
    """Rows of the files into seed (fine-tuning, preferences) and golden (evaluations); `to` sends all to one of them.

    A row that is there already is counted, and a question that is golden with another answer is not taken. DataError where
    nothing could be taken, NothingToDo where all of it is there.
    """
    params = remote_params(workspace).of(adapter)
    spec, scrubber = params.adapter(adapter), Scrubber(params.scrub)
    schema = schema_of(workspace.root, spec)
    read: list[tuple[Report, list[tuple[int, Example]]]] = []
    for path in files:
        report, rows = Report(str(path)), []
        for number, line in lines_of(path):
            report.lines += 1
            try:
                taken = openai.parse(line, question=question, answer=answer)
                row, found = scrubber.example(taken.row)
                _fits(row, spec.labels, misfit(row.answer, schema))
            except (openai.NotTaken, Failed) as why:
                report.not_taken.append((number, str(why)))
                continue
            report.personal.update(list(found))
            report.kinds[taken.kind] += 1
            report.tools.update(taken.tools)
            source = to or ("golden" if taken.kind == "eval" else "seed")
            rows.append((number, row.model_copy(update={"source": source})))
        read.append((report, rows))
    if not any(rows for _, rows in read):
        raise DataError("\n".join(["no line could be taken:", *(line for report, _ in read for line in told(report))]))
    with job(workspace, adapter, "import") as clone:
        reports: list[Report] = []

        def write(clone: Clone) -> None:
            reports[:] = _write(clone, adapter, read)

        write(clone)
        if any(report.seed or report.golden for report in reports):
            clone.publish(write, tries=TRIES)
        elif not any(report.not_taken for report in reports):
            raise NothingToDo(f"{adapter} holds all {sum(report.known for report in reports)} rows already")
    return reports


def _fits(row: Example, labels: Sequence[str], misfits: str | None) -> None:
    if misfits:
        raise openai.NotTaken(misfits)
    if labels and row.answer not in labels:
        raise openai.NotTaken(f"the label {row.answer[:60]!r} is not listed (adapters.<name>.labels in params.yaml)")


def _write(clone: Clone, adapter: str, read: Iterable[tuple[Report, list[tuple[int, Example]]]]) -> list[Report]:
    seed, suites = f"data/seed/{adapter}.jsonl", f"data/suites/{adapter}"
    clone.pull([f"{seed}.dvc", f"{suites}.dvc"])
    path, folder = clone.root / "data" / "seed" / f"{adapter}.jsonl", clone.root / suites
    file = folder / "golden.jsonl"
    first = read_examples(file) if file.exists() else []
    changes = overlay.read(folder)
    learn = {row.id: row for row in read_examples(path)}
    judge = {row.key: row for row in overlay.golden(first, changes)}
    held, new, reports = (len(learn), len(judge)), [], []
    for base, rows in read:
        report = dataclasses.replace(base, not_taken=list(base.not_taken), seed=0, golden=0, known=0)
        for number, row in rows:
            other = judge.get(row.key)
            if row.source == "seed":
                report.known += row.id in learn
                report.seed += learn.setdefault(row.id, row) is row
            elif other is not None and other.answer != row.answer:
                report.not_taken.append((number, f"its question is golden with the answer {other.answer[:60]!r} already"))
            else:
                report.known += other is not None
                report.golden += other is None
                new += [row] if other is None else []
                judge[row.key] = other or row
        reports.append(report)
    paths: list[str] = []
    if len(learn) > held[0]:
        write_jsonl(path, learn.values())
        paths += clone.dvc_add(seed)
    if new:
        if first or changes:  # a file of suites never changes once it judges
            at, reason = now(), f"imported from {', '.join(Path(report.file).name for report in reports)}"[: ledger.MOST_REASON]
            overlay.write(folder, [*changes, *(overlay.Change(at=at, kind="add", reason=reason, row=row) for row in new)])
            line = ledger.Suite(at=at, adapter=adapter, change="add", rows=len(new), reason=reason)
            ledger.append(clone.root, adapter, line)
            paths.append(f"ledger/{adapter}.jsonl")
        else:
            write_jsonl(file, new)
        paths += clone.dvc_add(suites)
    if paths:
        clone.commit(paths, f"{adapter}: imported {len(learn) - held[0]} seed and {len(new)} golden rows")
    return reports


def told(report: Report) -> list[str]:
    """A file's report for people: what was taken, and of what was not the reasons with the first lines."""
    kinds = ", ".join(f"{n} {kind}" for kind, n in report.kinds.items())
    lines = [f"{report.file}: {report.lines} lines" + (f" ({kinds})" if kinds else "")]
    if report.kinds:
        lines.append(f"  {report.seed} into seed, {report.golden} into golden, {report.known} were there already")
    if report.personal:
        lines.append("  became placeholders, in rows: " + ", ".join(f"{n} {kind}" for kind, n in report.personal.most_common()))
    reasons: dict[str, list[int]] = {}
    for number, why in report.not_taken:
        reasons.setdefault(why, []).append(number)
    for why, numbers in reasons.items():
        shown = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
        lines.append(f"  not taken: {len(numbers)} ({why}): line{'s' if len(numbers) > 1 else ''} {shown}")
    if report.tools:
        names = ", ".join(f"{name} ({n})" for name, n in report.tools.most_common(8))
        lines.append(
            f"  functions offered: {names}: a call is learned as JSON, what must be known of them goes into the prompt"
        )
    return lines
