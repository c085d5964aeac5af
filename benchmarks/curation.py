"""Failure rows on their way into a dataset: selected, scrubbed, deduplicated and checked against the suites; rows a second.

    python benchmarks/curation.py [--rows 100000] [--json]

Log rows of about 200 characters over four fields (prompt, response, correction, metadata), one in ten with personal data, one
in fifty a changed copy of an earlier one, one in two hundred a changed copy of a suite row; the suites have 10,000 rows. They
go through what `retrain collect` and the stage `prepare` call:
  select        the failure cases of a JSONL log, in the engine, as examples      monitoring.failures.failure_cases
  scrub         personal data and secrets as placeholders                         retrain.scrub.Scrubber
  deduplicate   equal and nearly equal rows as one                                retrain.contamination.folded
  check         copies of suite rows, exact, near and of one conversation         retrain.contamination.leaks
  paraphrases   ... and paraphrases                                               retrain.contamination.paraphrases
Beside them, on a sample of the same rows: plain Presidio (the same recognisers, each asked about every text), and every pair
compared with every other. `presidio_missed` are findings of Presidio's that the scrubber has not, `copies_missed` pairs. Each
arm is a process of its own. `cpu_seconds` is what the first one and its children used of one core, imports with it; `cpu_us`
what each step used a row, in microseconds. On a machine that does other work they say more than `seconds`.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

ADAPTER = "support"
START = datetime(2026, 3, 2, tzinfo=UTC)
SUITE, SAMPLE, ALL_PAIRS = 10_000, 400, 2_000  # rows
PERSONAL, AGAIN, LEAKED = 10, 50, 200  # one row in so many
FIELDS = ("prompt", "response", "correction", "metadata")
Step = Callable[[], Any]


# --- rows


def messages() -> list[tuple[str, str]]:
    """(text, label) of the shipped traffic."""
    lines = (ROOT / "data" / "traffic" / f"{ADAPTER}.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [(row["text"], row["label"]) for row in rows if row["label"] != "out_of_scope"]


def question(rng: random.Random, told: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """About 110 characters: what two messages say, and the label of the first."""
    (first, label), (second, _) = rng.choice(told), rng.choice(told)
    return f"{cut(first, 60)} {cut(second, 50)}", label


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most].rpartition(" ")[0]


def changed(text: str, rng: random.Random) -> str:
    """A typo, another case, or a greeting."""
    at = rng.randrange(len(text) - 1)
    swapped = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return rng.choice((swapped, text.upper(), f"Hello, {text}", f"{text} Thanks!"))


def personal(rng: random.Random) -> str:
    digits = "".join(rng.choices("0123456789", k=7))
    return rng.choice(
        (
            f"mail me at jo.{digits}@example.com",
            f"call +1 202 {digits[:3]} {digits[3:]}",
            f"card 4111 1111 1111 1111, order {digits}",
            "IBAN DE89 3704 0044 0532 0130 00",
            f"my address is 10.{digits[0]}.{digits[1:3]}.{digits[3:5]}",
            f"key sk-proj-{digits}abcdefghijklmnopqrstuvwxyzABCDEFGHIJ{digits}",
        )
    )


def log_rows(n: int, suite: Sequence[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    rng, told = random.Random(n), messages()
    labels = sorted({label for _, label in told})
    earlier: list[tuple[str, str]] = []
    for i in range(n):
        text, label = question(rng, told)
        if i % LEAKED == 0:
            text, label = suite[rng.randrange(len(suite))]
            text = changed(text, rng)
        elif i % AGAIN == 0 and earlier:
            text, label = earlier[rng.randrange(len(earlier))]
            text = changed(text, rng)
        earlier += [(text, label)] if i % 10 == 1 else []
        hidden = personal(rng) if i % PERSONAL == 3 else ""
        at = (START + timedelta(seconds=i * 86_400 / n)).isoformat()
        note = {"channel": rng.choice(("app", "web", "mail")), "order": rng.randrange(10**5), "note": hidden if i % 3 else ""}
        yield {
            "request_id": f"r{i:07}", "timestamp": at, "feedback_at": at, "user_id": f"u{rng.randrange(n // 20 + 1)}",
            "conversation_id": f"c{i // 3}", "model_version": "support-v1", "latency_ms": 100.0, "feedback": -1,
            "prompt": f"{text} {hidden}" if hidden and not i % 3 else text, "correction": label,
            "response": rng.choice([other for other in labels if other != label]), "metadata": json.dumps(note),
        }  # fmt: skip


def suite_rows() -> list[tuple[str, str]]:
    rng, told = random.Random(0), messages()
    return [question(rng, told) for _ in range(SUITE)]


# --- arms


def collect(folder: Path, rows: int) -> dict[str, Any]:
    """Everything, in the order of the product."""
    from monitoring.failures import failure_cases
    from monitoring.selection import Selector
    from monitoring.sources import Privacy, open_logs
    from retrain import contamination
    from retrain import params as params_
    from retrain.records import Example
    from retrain.scrub import Scrubber
    from retrain.userids import UserIds

    params = params_.load(ROOT, [f"logs.uri={folder}/logs.jsonl"]).of(ADAPTER)
    labels, rules = params.adapter(ADAPTER).labels, params.prepare
    like = contamination.Likeness.of(rules.near, params.adapter(ADAPTER))
    suite = [Example.of(text, label, source="golden") for text, label in suite_rows()]
    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}

    def timed(name: str, step: Step) -> Any:
        began, used = time.perf_counter(), cpu_seconds()
        made = step()
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began
        cpu[name] = cpu.get(name, 0.0) + cpu_seconds() - used
        return made

    scrubber = Scrubber(params.scrub)
    scrubber([{"text": "warm@example.com"}])
    privacy = Privacy(UserIds(b"k" * 32), lambda texts: timed("scrub", lambda: scrubber(texts)))

    def select() -> Any:
        logs = open_logs(params.logs, root=folder, adapter=ADAPTER, privacy=privacy)
        return failure_cases(
            logs.known(START + timedelta(days=2)), audit_rate=0.0, labels=labels, seen=set(), collected="2026-03-03T00-00-00Z",
            selector=Selector.of(params.failures, labels, None),
        )  # fmt: skip

    made = timed("select", select)
    seconds["select"] -= seconds["scrub"]
    cpu["select"] -= cpu["scrub"]
    taken = [*made.examples, *made.held]
    kept, _ = timed("deduplicate", lambda: contamination.folded(taken, like))
    leaks = timed("check", lambda: contamination.leaks(kept, suite, suite, like))
    told = timed(
        "paraphrases",
        lambda: contamination.paraphrases(kept, suite[:400], suite, like, cosine=rules.paraphrase, most=rules.independent),
    )
    whole = sum(seconds.values())
    return {
        "rows": rows, "seconds": round(whole, 1), "rows_per_s": round(rows / whole),
        "steps": {name: round(rows / took) for name, took in seconds.items()}, "peak_mb": peak_mb(),
        "cpu_us": {name: round(used / rows * 1e6) for name, used in cpu.items()}, "cpu_seconds": round(cpu_seconds(), 1),
        "found": {"collected": len(taken), "folded": len(taken) - len(kept), "leaks": sum(map(bool, leaks)),
                  "paraphrases": len(told.ids)},
    }  # fmt: skip


def presidio(folder: Path, rows: int) -> dict[str, Any]:
    """Plain Presidio on a sample: rows a second, and what it finds there that the scrubber does not."""
    from retrain import params as params_
    from retrain.recognisers import MIN, finder
    from retrain.scrub import mapped
    from retrain.scrub_rules import PATTERNS

    rules = params_.load(ROOT).scrub
    ours = finder(rules)  # before the analyzer: it keeps Presidio's models out
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer import predefined_recognizers as known
    from presidio_analyzer.nlp_engine import NoOpNlpEngine

    given = [getattr(known, PATTERNS[kind].recogniser)(supported_language="en") for kind in rules.kinds if kind in PATTERNS]
    given += [known.PhoneRecognizer(supported_regions=tuple(rules.regions))] if "phone" in rules.kinds else []
    engine = NoOpNlpEngine([{"lang_code": "en", "model_name": ""}])
    engine.load()
    registry = RecognizerRegistry(recognizers=given, supported_languages=["en"])
    plain = AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"])
    texts: list[list[str]] = [strings(row, mapped) for row in sampled(folder, rows, SAMPLE)]
    began = time.perf_counter()
    found = [[(text, plain.analyze(text, language="en", score_threshold=MIN)) for text in row] for row in texts]
    took = time.perf_counter() - began
    spans = [(text, one) for row in found for text, results in row for one in results]
    missed = sum(not any(s.start <= one.start and one.end <= s.end for s in ours(text)) for text, one in spans)
    return {"presidio_rows_per_s": round(len(texts) / took), "presidio_findings": len(spans), "presidio_missed": missed}


def strings(row: dict[str, Any], mapped: Callable[..., str]) -> list[str]:
    """The texts of a row, those inside its JSON too."""
    found: list[str] = []

    def keep(text: str, secret: bool) -> str:
        found.append(text)
        return text

    for name in FIELDS:
        mapped(row[name], keep)
    return found


def pairwise(folder: Path, rows: int) -> dict[str, Any]:
    """Every pair of a sample compared: rows a second, pairs found, and those that `pairs` does not find."""
    from retrain import copies
    from retrain import params as params_
    from retrain.text import skeleton

    near = params_.load(ROOT).prepare.near
    texts = list(dict.fromkeys(skeleton(row["prompt"]) for row in sampled(folder, rows, ALL_PAIRS)))
    began = time.perf_counter()
    grams = [{f" {text} "[i : i + 3] for i in range(len(text))} for text in texts]
    alike = set()
    for j, b in enumerate(grams):
        for i, a in enumerate(grams[:j]):
            both = len(a & b)
            if both >= near * (len(a) + len(b) - both):
                alike.add((i, j))
    took = time.perf_counter() - began
    left, right = copies.pairs(texts, near)
    found = set(zip(left.tolist(), right.tolist(), strict=True))
    return {"pairwise_rows_per_s": round(len(texts) / took), "copies": len(alike), "copies_missed": len(alike - found)}


def sampled(folder: Path, rows: int, most: int) -> list[dict[str, Any]]:
    """The first rows of the log: their order is random."""
    with (folder / "logs.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(min(rows, most)), strict=False)]


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak_mb() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


ARMS = {"collect": collect, "presidio": presidio, "pairwise": pairwise}


# --- all of it


def child(arm: str, folder: Path, rows: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--arm", arm, "--folder", str(folder), "--rows", str(rows)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run(rows: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="curation") as name:
        folder = Path(name)
        with (folder / "logs.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in log_rows(rows, suite_rows()))
        found: dict[str, Any] = {}
        for arm in ARMS:
            found |= child(arm, folder, rows)
    return found


def table(found: dict[str, Any]) -> str:
    lines = [
        f"{found['rows']:,} rows in {found['seconds']} s: {found['rows_per_s']:,} rows/s, "
        f"{found['cpu_seconds']} s of one core, peak {found['peak_mb']:,} MB"
    ]
    lines += [
        f"  {name:12} {speed:>9,} rows/s, {found['cpu_us'][name]:>4,} us of one core a row"
        for name, speed in found["steps"].items()
    ]
    lines += ["  " + ", ".join(f"{name} {n:,}" for name, n in found["found"].items())]
    missed = f"{found['presidio_missed']} of {found['presidio_findings']} findings missed"
    lines += [f"plain Presidio {found['presidio_rows_per_s']:,} rows/s, {missed}"]
    missed = f"{found['copies_missed']} of {found['copies']} copies missed"
    lines += [f"every pair of {ALL_PAIRS:,} rows {found['pairwise_rows_per_s']:,} rows/s, {missed}"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--arm", choices=sorted(ARMS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.rows < 1:
        parser.error(f"--rows is {asked.rows}, must be at least 1")
    if asked.arm:
        from retrain.process import collect_seldom

        collect_seldom()  # as `retrain collect` and the stage do
        print(json.dumps(ARMS[asked.arm](asked.folder, asked.rows)))
        return
    found = run(asked.rows)
    print(json.dumps(found) if asked.json else table(found))


if __name__ == "__main__":
    main()
