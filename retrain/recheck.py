"""Stage `recheck`: today's champion answers the collected failures; what it gets right by now is replay, no failure.  [torch]

Each file of data/failures is asked as a whole, in order, less what an earlier file holds: a file never changes, so that each
failure is asked once for each champion (answers are cached as those of `evaluate`), and what later collections bring moves
no answer (in bf16 the rows beside a row in its batch may tip it). Without champion or failures nothing is loaded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrain import params as params_
from retrain import process
from retrain.answers import right, schema_of
from retrain.records import Example, file_digest, read_examples, read_jsonl, write_json, write_jsonl

ANSWERS, REPORT = "answers.jsonl", "recheck.json"


def batches(folder: Path) -> list[list[Example]]:
    """The rows of each file of failures, by file name, less what an earlier one holds."""
    seen: set[str] = set()
    found = []
    for path in sorted(Path(folder).glob("*.jsonl")):
        rows = [row for row in {row.id: row for row in read_examples(path)}.values() if row.id not in seen]
        seen |= {row.id for row in rows}
        found += [rows] if rows else []
    return found


def known(folder: Path) -> set[str]:
    """Ids of the failures that the champion gets right by now, of what this stage wrote; none where it never ran."""
    path = Path(folder) / ANSWERS
    return {row["id"] for row in read_jsonl(path) if row["right"]} if path.exists() else set()


def recheck(adapter: str, params: params_.Params, asked: Sequence[Sequence[Example]], champion: Path) -> list[dict[str, Any]]:
    """One answer a row: id, answer, right (None where nobody can be held to the expected one)."""
    from retrain.evaluate import Arms

    arms, spec = Arms(adapter, params, process.cache("answers")), params.adapter(adapter)
    schema = schema_of(Path(), spec)
    return [
        {"schema": 1, "id": row.id, "answer": answer, "right": right(answer, row.answer, schema)}
        for rows in asked
        for row, answer in zip(rows, arms.adapter_arm(champion, rows, name="champion about failures"), strict=True)
    ]


def main(adapter: str) -> None:
    params = params_.load().of(adapter)
    champion, out = Path("champion") / adapter, Path("out") / adapter / "recheck"
    asked = batches(Path("data/failures") / adapter)
    serving = (champion / "manifest.json").exists()
    answers = recheck(adapter, params, asked, champion) if serving and asked else []
    told = sum(bool(row["right"]) for row in answers)
    digest = file_digest(champion / "manifest.json") if serving else None
    write_jsonl(out / ANSWERS, answers)
    write_json(out / REPORT, {"schema": 1, "champion": digest, "asked": len(answers), "right": told})
    why = "" if serving else ", no champion to ask"
    print(f"{adapter}: {told} of {len(answers)} failures are right by now{why}")


if __name__ == "__main__":
    from retrain.stage import run

    run(main)
