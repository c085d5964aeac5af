"""Trial 23: hostile lines: quarantined with file and line, or kept whole; the rest goes on, and memory stays bounded."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
SECRET = "s3cret-of-a-user"
MB = 1 << 20
READ = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from monitoring.sources import open_logs
from monitoring.windows import Window
from retrain.sections import Logs

day = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
params = Logs(uri="*.jsonl", preset="ours", timezone=None, columns={}, feedback=None)
logs = open_logs(params, root=Path(sys.argv[1]), adapter="support")
frame = logs.rows(day).frame()
print(json.dumps({
    "counts": logs.counts(day).model_dump(),
    "bad": [row.model_dump() for row in logs.quarantined],
    "tails": [row.model_dump() for row in logs.tails],
    "prompts": dict(zip(frame["request_id"], frame["prompt"])),
    "metadata": {k: v for k, v in zip(frame["request_id"], frame["metadata"]) if v},
    # of this program alone: ru_maxrss would begin with what the process that started it had
    "peak_mb": next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024,
}))
"""


def row(request: str, **fields: Any) -> bytes:
    base = {"request_id": request, "timestamp": "2026-03-01T10:00:00Z", "prompt": f"question {request}"}
    return json.dumps({**base, **fields}, ensure_ascii=False).encode("utf-8", "surrogatepass")


def hostile() -> list[tuple[bytes, str | None]]:
    """(line, part of the reason, or None where it is kept whole)."""
    big = b'{"request_id": "big", "timestamp": "2026-03-01T10:00:00Z", "prompt": "' + SECRET.encode() + b"x" * (50 * MB) + b'"}'
    deep = (
        b'{"request_id": "deep", "timestamp": "2026-03-01T10:00:00Z", "prompt": "q", "metadata": '
        + b"[" * 5000
        + b"]" * 5000
        + b"}"
    )
    return [
        (row("nul").replace(b"question", b"ques\0tion"), "not JSON"),
        (b"\0" * 4096, "not JSON"),
        (row("escaped nul", prompt="a\0b"), None),
        (row("surrogate").replace(b"question", b"\\ud800"), "not JSON"),
        (row("raw surrogate", prompt="x\ud800"), "not UTF-8"),
        (row("latin").replace(b"question", b"caf\xe9"), "not UTF-8"),
        (big, "bytes, at most"),
        (row("separators", prompt="one\u2028two\u2029three\u0085four\x0bfive\x0csix\x1cseven"), None),
        (row("return", prompt="one\rtwo"), None),
        (row("pair", prompt="\U0001f600 and \u202egnirts"), None),
        (deep, None),
        (b"[" * 200_000, "not JSON"),
        (row("NaN", latency_ms=float("nan")), "latency_ms is not a finite number"),
        (row("huge", latency_ms=1).replace(b'"latency_ms": 1', b'"latency_ms": 1e999'), "latency_ms"),
        (row("long number", latency_ms=10**60), "latency_ms is not a finite number"),
        (row("role", messages=[{"role": "root", "content": SECRET}]), "a role that is none of"),
        (row("roles", messages=[{"role": ["user"], "content": SECRET}, 5, None]), "a role that is none of"),
        (row("types", prompt={"text": SECRET}), "prompt is an object, must be text"),
        (row("number", prompt=5), "prompt is a number, must be text"),
        (row("ids", request_id=[1]), "request_id is a list, must be text"),
        (row("time", timestamp=1772359200), "timestamp is a number, must be ISO 8601 text"),
        (row("february", timestamp="2026-02-30T00:00:00Z"), "timestamp is not ISO 8601"),
        (row("feedback", feedback="-1"), "feedback is text"),
        (row("yes", feedback=True), None),
        (b'"' + SECRET.encode() + b'"', "text, must be an object"),
        (b"null", "null, must be an object"),
        (b'{"request_id": ' + b'"x", ' * 3, "not JSON"),
        (row("injection", prompt="'); DROP TABLE lines; --"), None),
        (row("crlf") + b"\r", None),
        (b" \t\r", ""),  # blank: no row at all
    ]  # fmt: skip


def read(root: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ, str(root)], cwd=REPOSITORY, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_hostile_lines_are_set_aside_or_kept_whole_and_every_good_one_is_used(tmp_path: Path) -> None:
    cases = hostile()
    lines = [part for i, (line, _) in enumerate(cases) for part in (line, row(f"good {i}"))]
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + row("after a byte order mark") + b"\n" + b"\n".join(lines) + b"\n" + b'{"x": "' + b"y" * (50 * MB)
    )
    found = read(tmp_path)

    expected = {2 + 2 * i: reason for i, (_, reason) in enumerate(cases) if reason}
    reasons = {bad["line"]: bad["reason"] for bad in found["bad"]}
    assert {bad["file"] for bad in found["bad"]} == {str(path)}
    last = 2 + 2 * len(cases)
    assert "bytes, at most" in reasons.pop(last)  # without an end it will be no record either
    assert set(reasons) == set(expected)
    assert {line: expected[line] in reason for line, reason in reasons.items()} == dict.fromkeys(expected, True), reasons
    assert SECRET not in json.dumps(found["bad"])

    nest = b"[" * 5000 + b"]" * 5000  # deeper than Python's own parser goes
    kept = [json.loads(line.replace(nest, b"0")) for line, reason in cases if reason is None]
    assert {one["request_id"]: one["prompt"] for one in kept}.items() <= found["prompts"].items()
    assert {f"good {i}" for i in range(len(cases))} <= set(found["prompts"])
    assert found["metadata"]["deep"] == "[" * 5000 + "]" * 5000
    counts = found["counts"]
    assert counts["used"] == 1 + len(cases) + len(kept)
    assert counts["read"] == counts["used"] + counts["quarantined"] == 1 + 2 * len(cases) - 1 + 1
    assert found["peak_mb"] < 1000, found["peak_mb"]
    print(f"peak {found['peak_mb']:.0f} MB")


def test_a_file_of_nothing_but_rubbish_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(bytes(range(256)) * 4000)
    (tmp_path / "b.jsonl").write_bytes(row("r1") + b"\n")
    found = read(tmp_path)
    assert list(found["prompts"]) == ["r1"]
    assert found["counts"]["quarantined"] == found["counts"]["read"] - 1
    assert {bad["file"].rsplit("/", 1)[1] for bad in found["bad"]} == {"a.jsonl"}
