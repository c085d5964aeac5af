"""Trial 29: personal data and secrets anywhere in a record. Real git, DVC and MLflow; then every byte is searched."""

import base64
import csv
import gzip
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from calling import call

from monitoring import failures
from monitoring.windows import Window
from retrain import collecting, founding, quarantine, story
from retrain.edits import set_values
from retrain.errors import DataError
from retrain.process import git
from retrain.records import parse_time, read_examples, write_jsonl
from retrain.scrub import Scrubber
from retrain.userids import open_logs
from retrain.workspace import Workspace

pytestmark = pytest.mark.slow  # a workspace that is measured, collected, reviewed and searched byte by byte

END = parse_time("2026-03-03T00:00:00Z")
WINDOW = Window(parse_time("2026-03-02T00:00:00Z"), END)
ROWS = 150
ORDER = {"items": [{"name": "crates", "quantity": 26}], "date": "2026-08-10", "address": None, "reference": "SEA-901"}
SPOT = {  # where a row holds what
    "prompt": "Bring 26 crates to us, write to quokka.prompt@example.com or call (202) 555-0143",
    "response": json.dumps({"items": [], "address": "quokka.response@example.com", "reference": "4111 1111 1111 1111"}),
    "correction": json.dumps({**ORDER, "address": "quokka.correction@example.com"}),
    "system": "You serve quokka.system@example.com with the key sk-quokka0123456789abcdefghij",
    "arguments": json.dumps({"to": "quokka.arguments@example.com", "auth": json.dumps({"password": "quokka-nested"})}),
    "metadata": "quokka.metadata@example.com",
    "exception": "Traceback (most recent call last):\n  psycopg.Error: postgres://quokka:s3cr3t-quokka@db/orders refused",
    "comment": "he says that his IBAN is DE89370400440532013000, IP 203.0.113.77",
    "user_id": "quokka.user@example.com",
    "source": "203.0.113.99",
}
NEEDLES = (
    *("quokka", "555-0143", "4111 1111", "4111111", "DE8937040044", "203.0.113", "s3cr3t"),  # each of the values above
)


def row(i: int) -> dict[str, Any]:
    """Every third row is corrected, every fifth only called bad, the drawn ones are labelled."""
    request = f"r-{i}"
    messages = [
        {"role": "system", "content": SPOT["system"]},
        {"role": "user", "content": f"{SPOT['prompt']} earlier {i}"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "mail", "arguments": SPOT["arguments"]}}]},
        {"role": "user", "content": f"{SPOT['prompt']}, order {i}"},
    ]
    metadata = {
        "mail": SPOT["metadata"],
        "error": SPOT["exception"],
        "note": {"comment": SPOT["comment"]},
        "ip": SPOT["source"],
    }
    judged: dict[str, Any] = {}
    if failures.drawn(request, 0.3):
        judged = {"audit_label": SPOT["correction"]}
    elif i % 3 == 0:
        judged = {"correction": SPOT["correction"], "feedback": -1}
    elif i % 5 == 0:
        judged = {"feedback": -1}
    return {
        "request_id": request, "timestamp": f"2026-03-02T10:{i % 60:02}:00Z", "feedback_at": "2026-03-02T12:00:00Z",
        "adapter": "orders", "model_version": "orders-v1", "user_id": SPOT["user_id"], "prompt": f"{SPOT['prompt']}, order {i}",
        "messages": messages, "response": SPOT["response"], "latency_ms": 100.0 + i, "confidence": 0.3,
        "metadata": metadata, **judged,
    }  # fmt: skip


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    files = [*("params.yaml", "dvc.yaml", "data/seed/orders.jsonl", "data/suites/orders/golden.jsonl")]
    files += ["data/prompts/orders.txt", "data/prompts/orders.schema.json", "data/prompts/support.txt"]
    made = founding.init(tmp_path_factory.mktemp("personal") / "ws", files=story.files_of(files))
    set_values(made.root / "params.yaml", ["failures.poisoning.source=metadata.ip", "quality.slices=[response]"])
    git(made.root, "commit", "--quiet", "-am", "settings")
    git(made.root, "push", "--quiet", "origin", "HEAD")
    write_jsonl(made.root / "logs" / "orders" / "2026-03-02.jsonl", [row(i) for i in range(ROWS)])
    return Workspace.open(made.root)


@pytest.fixture(scope="module")
def told(space: Workspace, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Everything that reads the logs is run; what was printed and logged."""
    heard = _Heard()
    logging.getLogger().addHandler(heard)
    at = tmp_path_factory.mktemp("queue")
    calls = [
        call("monitor", "orders", "--start", "2026-03-02T00:00:00Z", "--end", "2026-03-03T00:00:00Z", "-w", space.root),
        call("collect", "orders", "--end", "2026-03-03T00:00:00Z", "-w", space.root),
        call("review", "export", "orders", at / "queue.json", "--end", "2026-03-04T00:00:00Z", "-w", space.root),
        call("review", "export", "orders", at / "queue.csv", "--end", "2026-03-04T00:00:00Z", "-w", space.root),
        call("status", "-w", space.root), call("status", "--json", "-w", space.root),
        call("why", "orders", "-w", space.root), call("history", "orders", "-w", space.root),
        call("quarantine", "list", "orders", "-w", space.root), call("data", "rows", "orders", "-w", space.root),
    ]  # fmt: skip
    logging.getLogger().removeHandler(heard)
    assert [one.code for one in calls[:4]] == [0, 0, 0, 0], calls
    assert "<EMAIL_1>" in (at / "queue.csv").read_text("utf-8-sig") and "<EMAIL_1>" in (at / "queue.json").read_text()
    written = [path.read_text("utf-8") for path in sorted(at.iterdir())]
    return "\n".join([*(one.out + one.err for one in calls), *heard.lines, *written])


class _Heard(logging.Handler):
    """All that any logger says, as a task's log would have it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(logging.Formatter().format(record))


# --- the search


def texts(space: Workspace) -> Iterator[tuple[str, bytes]]:
    """Every file of the workspace but the log store's, unpacked where it is packed, and every object of git."""
    for folder, _, names in os.walk(space.root):
        for name in names:
            path = Path(folder) / name
            if path.is_file() and path.relative_to(space.root).parts[0] != "logs":
                yield str(path.relative_to(space.root)), unpacked(path.read_bytes())
    for repository in (space.root / ".git", space.local / "origin.git"):
        listed = git(repository, "cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)").splitlines()
        for name, kind in (line.split() for line in listed):
            if kind != "tree":
                yield f"git {name}", git(repository, "cat-file", "-p", name).encode()


def unpacked(data: bytes) -> bytes:
    """A report's page is gzip in base64."""
    pages = [base64.b64decode(found) for found in re.findall(rb"[A-Za-z0-9+/]{1000,}={0,2}", data)]
    return data + b"".join(gzip.decompress(page) for page in pages if page[:2] == b"\x1f\x8b")


def found_in(text: bytes) -> list[str]:
    return [needle for needle in NEEDLES if needle.encode() in text]


def test_the_search_itself_finds_what_was_planted(space: Workspace) -> None:
    logged = (space.root / "logs" / "orders" / "2026-03-02.jsonl").read_bytes()
    assert set(found_in(logged)) == set(NEEDLES) - {"4111111"}
    page = base64.b64encode(gzip.compress(os.urandom(2000) + b"quokka"))
    assert found_in(unpacked(b"<html>" + page)) == ["quokka"]


def test_nothing_raw_is_in_any_dataset_cache_registry_report_or_log(space: Workspace, told: str) -> None:
    held = {name: found for name, text in texts(space) if (found := found_in(text))}
    assert held == {}
    assert found_in(told.encode()) == []


def test_the_rows_are_there_and_question_and_answer_agree(space: Workspace, told: str) -> None:
    with space.clone("look") as clone:
        clone.pull(["data/failures/orders.dvc"])
        rows = [one for path in (clone.root / "data/failures/orders").glob("*.jsonl") for one in read_examples(path)]
    assert rows and all("write to <EMAIL_1> or call <PHONE_1>, order" in one.question for one in rows)
    assert {one.answer for one in rows} == {SPOT["correction"].replace("quokka.correction@example.com", "<EMAIL_3>")}
    assert all(re.fullmatch("[0-9a-f]{64}", str(origin.user)) for one in rows for origin in one.origins)
    assert len({origin.source for one in rows for origin in one.origins}) == 1


def test_audited_rows_hold_no_personal_data_either(space: Workspace) -> None:
    logs = open_logs(space, space.params.of("orders"), "orders")
    rows = failures.audited(logs.known(END), audit_rate=0.3)
    assert len(rows) > 20
    assert found_in("".join(one.model_dump_json() for one in rows).encode()) == []


# --- what fails


def test_a_row_that_cannot_be_searched_is_quarantined_by_file_line_request_and_reason_alone(
    space: Workspace, told: str, monkeypatch: Any
) -> None:
    params = space.params.of("orders")
    finder = Scrubber(params.scrub).finder
    broken = [one._replace(find=_raising(one.find)) if one.kind == "email" else one for one in finder.recognisers]
    monkeypatch.setattr(finder, "recognisers", tuple(broken))
    write_jsonl(space.root / "logs" / "orders" / "2026-03-04.jsonl", [
        {**row(3), "request_id": name, "prompt": f"{text} of order 77", "correction": json.dumps(ORDER), "messages": None,
         "metadata": None, "response": "no", "timestamp": "2026-03-04T10:00:00Z", "feedback_at": "2026-03-04T11:00:00Z"}
        for name, text in {"raises-1": "hidden@raises.example", "fine-2": "a dozen"}.items()
    ])  # fmt: skip
    made = collecting.collect(space, "orders", parse_time("2026-03-05T00:00:00Z"))
    kept = [one.row for one in quarantine.listed(space, "orders") if one.row.kind == "personal_data"]
    assert made.rows == 1
    assert [(one.request_id, one.reason, one.example) for one in kept] == [
        ("raises-1", "the recogniser of email raised RuntimeError", None)
    ]
    assert str(kept[0].where).endswith("2026-03-04.jsonl:1")
    assert [name for name, text in texts(space) if b"raises.example" in text] == []


def _raising(find: Any) -> Any:
    def raising(text: str) -> Any:
        if "raises.example" in text:
            raise RuntimeError(text)
        return find(text)

    return raising


def test_an_engine_that_quotes_a_value_is_not_quoted(space: Workspace) -> None:
    rows = open_logs(space, space.params.of("orders"), "orders").rows(WINDOW)
    with pytest.raises(DataError, match="the log store failed") as caught:
        rows.where(lambda t: t.prompt.cast("int64") > 3).frame()
    assert found_in(f"{caught.value} {caught.value.__cause__}".encode()) == []


def test_what_reviewers_and_reasons_say_is_searched_too(space: Workspace, told: str, tmp_path: Path) -> None:
    answers = tmp_path / "done.csv"
    waits = next(i for i in range(5, ROWS) if i % 5 == 0 and i % 3 and not failures.drawn(f"r-{i}", 0.3))
    write_answer(answers, f"r-{waits}", "x@quokka.org", "a")
    refused = call("review", "import", "orders", answers, "-w", space.root)
    assert refused.code == 2 and "looks like email: write the placeholder" in refused.err
    write_answer(answers, f"r-{waits}", "<EMAIL_1>", "x@quokka.org")
    assert call("review", "import", "orders", answers, "-w", space.root).code == 0
    reason = call("data", "erase", "--request", "r-1", "--reason", "asked by x@quokka.org", "-w", space.root)
    assert reason.code == 2 and "looks like email" in reason.err
    assert [name for name, text in texts(space) if b"quokka" in text] == []


def write_answer(path: Path, request: str, address: str, reviewer: str) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("request_id", "answer", "reviewer"), (request, json.dumps({**ORDER, "address": address}), reviewer)]
        )


def test_what_is_imported_from_files_is_scrubbed_and_told(space: Workspace, tmp_path: Path) -> None:
    said = [{"role": "system", "content": "for x@quokka.org"}, {"role": "user", "content": "3 boxes to x@quokka.org"}]
    answer = {"role": "assistant", "content": json.dumps({**ORDER, "address": "x@quokka.org"})}
    path = tmp_path / "theirs.jsonl"
    path.write_text(json.dumps({"messages": [*said, answer]}) + "\n")
    made = call("import", "openai", path, "--adapter", "orders", "-w", space.root)
    assert made.code == 0 and "became placeholders, in rows: 1 email" in made.out, made
    assert [name for name, text in texts(space) if b"quokka" in text] == []


def test_parsing_the_dags_and_the_command_line_load_no_presidio() -> None:
    import subprocess
    import sys

    look = "import sys, retrain.cli, retrain.collecting, retrain.watch; sys.exit('presidio_analyzer' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look]).returncode == 0
