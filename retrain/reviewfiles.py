"""The review queue as files for people, and what they answered: Label Studio's JSON and plain CSV. PURE but for opening files.

Label Studio: tasks with `data` and `predictions` go out; its exports JSON (tasks with `annotations`), JSON-MIN and CSV come
back (labelstud.io/guide/task_format, /guide/export). A CSV may come from a spreadsheet: with a byte order mark, semicolons or
tabs. Cells that a spreadsheet would run as a formula go out behind an apostrophe (OWASP, CSV injection).
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from retrain.errors import DataError
from retrain.records import dumps

FORMULA = ("=", "+", "-", "@", "\t", "\r")
COLUMNS = ("request_id", "question", "answer_given", "confidence", "reasons", "suggestions", "answer", "reviewer")
REVIEWERS = ("reviewer", "annotator", "completed_by")  # ours, and what Label Studio calls it in its exports
MOST = 2**31 - 1  # characters of a CSV cell


@dataclass(frozen=True)
class Near:
    """A row that a person labelled, and its cosine to the question."""

    question: str
    answer: str
    cosine: float


@dataclass(frozen=True)
class Task:
    """A row that waits, as a reviewer sees it; the nearest row first."""

    request_id: str
    question: str
    response: str
    confidence: float | None
    reasons: tuple[str, ...]
    near: tuple[Near, ...]

    @property
    def suggested(self) -> str | None:
        """The answer that the nearest rows have most, by the sum of their cosines."""
        votes: dict[str, float] = {}
        for row in self.near:
            votes[row.answer] = votes.get(row.answer, 0.0) + row.cosine
        return max(votes, key=lambda answer: (votes[answer], answer)) if votes else None


@dataclass(frozen=True)
class Given:
    """An answer as a file has it; where is file:line (CSV) or file: task n."""

    where: str
    request_id: str
    answer: str
    reviewer: str | None


# --- out


def label_studio(tasks: Sequence[Task], *, closed: bool) -> str:
    """Tasks for Label Studio's import; closed: the answer is one of a list (Choices), else text (TextArea)."""
    return dumps([_task(task, closed) for task in tasks], indent=1) + "\n"


def _task(task: Task, closed: bool) -> dict[str, Any]:
    near = [f"{row.cosine:.2f} {row.question} => {row.answer}" for row in task.near]
    data = {
        "request_id": task.request_id, "question": task.question, "answer_given": task.response,
        "confidence": "" if task.confidence is None else f"{task.confidence:.2f}", "reasons": ", ".join(task.reasons),
        "suggestions": "\n".join(near),
    }  # fmt: skip
    if task.suggested is None:
        return {"data": data, "predictions": []}
    value = {"choices": [task.suggested]} if closed else {"text": [task.suggested]}
    kind = "choices" if closed else "textarea"
    result = {"id": "suggested", "from_name": "answer", "to_name": "question", "type": kind, "value": value}
    score = max(row.cosine for row in task.near)
    return {"data": data, "predictions": [{"model_version": "nearest labelled rows", "score": score, "result": [result]}]}


def labelling_config(labels: Sequence[str]) -> str:
    """The labelling interface of such a project, to be pasted into its settings."""
    choices = "".join(f"\n    <Choice value={quoteattr(label)}/>" for label in labels)
    answer = f'<Choices name="answer" toName="question" choice="single" required="true">{choices}\n  </Choices>'
    if not labels:
        answer = '<TextArea name="answer" toName="question" rows="6" editable="true" required="true"/>'
    shown = "".join(f'  <Text name="{name}" value="${name}"/>\n' for name in ("answer_given", "reasons", "suggestions"))
    return f'<View>\n  <Text name="question" value="$question"/>\n{shown}  {answer}\n</View>\n'


def as_csv(tasks: Sequence[Task]) -> str:
    """A row for each task, `answer` and `reviewer` left to fill in; with a byte order mark, or spreadsheets misread it."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for task in tasks:
        near = " | ".join(f"{row.answer} ({row.cosine:.2f}: {row.question})" for row in task.near)
        sure = "" if task.confidence is None else f"{task.confidence:.2f}"
        cells = (task.request_id, task.question, task.response, sure, ", ".join(task.reasons), near)
        writer.writerow([*map(_harmless, cells), "", ""])
    return "\ufeff" + out.getvalue()


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA) else cell


def _unescaped(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(FORMULA) else cell


# --- in


def read(path: Path) -> list[Given]:
    """The answers of a file, blank ones too; DataError with the line where a file is neither CSV nor JSON of ours."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: give the file that was reviewed") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder: give the file that was reviewed") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): save it as `CSV UTF-8`, or JSON") from error
    before = csv.field_size_limit(MOST)  # of the whole process
    try:
        return list(_json(path, text) if text.lstrip()[:1] in ("[", "{") else _csv(path, text))
    finally:
        csv.field_size_limit(before)


def _csv(path: Path, text: str) -> Iterator[Given]:
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    start = 1
    try:
        for row in lines:
            if not names:
                names = _named(path, row)
            elif any(cell.strip() for cell in row):
                if len(row) != len(names):
                    found = f"{path}:{start} has {len(row)} cells, the first line has {len(names)}"
                    raise DataError(f"{found}: mend it; nothing was taken")
                yield _given(f"{path}:{start}", dict(zip(names, map(_unescaped, row), strict=True)))
            start = lines.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{start} is no CSV ({error}): mend its quotes; nothing was taken") from error
    if not names:
        raise DataError(f"{path} is empty: give the file that was reviewed")


def _named(path: Path, row: list[str]) -> list[str]:
    names = [name.strip().lower() for name in row]
    if missing := [name for name in ("request_id", "answer") if names.count(name) != 1]:
        raise DataError(
            f"{path}:1 must have one column {' and one '.join(missing)}, it has {', '.join(names)[:200]!r}: start from the "
            "file that `retrain review export` writes"
        )
    return names


def _given(where: str, row: dict[str, Any]) -> Given:
    reviewer = next((str(row[name]).strip() for name in REVIEWERS if row.get(name) not in (None, "")), "")
    return Given(where, str(row.get("request_id") or "").strip(), _plain(row.get("answer")), reviewer or None)


def _plain(answer: Any) -> str:
    """An answer as text; what is none is blank: JSON-MIN has a list of several, which nobody could choose from."""
    return answer.strip() if isinstance(answer, str) else ""


def _json(path: Path, text: str) -> Iterator[Given]:
    try:
        tasks = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({error}): export it anew from Label Studio; nothing was taken") from error
    for number, task in enumerate(tasks if isinstance(tasks, list) else [tasks], 1):
        where = f"{path}: task {number}"
        if not isinstance(task, dict):
            raise DataError(f"{where} is a {type(task).__name__}, must be a task of Label Studio; nothing was taken")
        if "data" not in task and "annotations" not in task:  # JSON-MIN
            yield _given(where, task)
            continue
        data = task.get("data")
        request = str(data.get("request_id") or "") if isinstance(data, dict) else ""
        said = task.get("annotations")
        if not isinstance(said, list):
            raise DataError(f"{where} has no list of annotations: export it as JSON from Label Studio; nothing was taken")
        done = [one for one in said if isinstance(one, dict) and not one.get("was_cancelled")]
        yield from (Given(where, request, _answer(one), _who(one)) for one in done)
        if not done:
            yield Given(where, request, "", None)


def _answer(annotation: dict[str, Any]) -> str:
    """What the annotation's control `answer` says: one choice, or one text; several choices are none."""
    results = annotation.get("result")
    for result in results if isinstance(results, list) else ():
        if isinstance(result, dict) and result.get("from_name") == "answer" and isinstance(result.get("value"), dict):
            said = result["value"].get("choices", result["value"].get("text"))
            said = said[0] if isinstance(said, list) and len(said) == 1 else said
            return _plain(said)
    return ""


def _who(annotation: dict[str, Any]) -> str | None:
    who = annotation.get("completed_by")
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    return None if who is None else str(who)
