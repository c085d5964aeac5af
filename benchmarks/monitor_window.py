"""One window measured by this monitor, beside plain Evidently on the same rows: seconds after imports, and peak memory.

    python benchmarks/monitor_window.py [--rows 1000000] [--json]

The window and its reference have as many rows each: 15 columns and a prompt of 20 words, in one Parquet file that DuckDB
writes. Each arm is a process of its own. `monitor` opens the log table and measures drift, what changed and the counts of
quality, and writes the report; `evidently` is DataDriftPreset on all rows, read with pandas, with their prompts as text;
`evidently_sample` is the same on the rows that the monitor samples. Above 1,000,000 rows Evidently's arm on all rows is left
out: it needs more memory than most machines have.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
START = datetime(2026, 3, 1, tzinfo=UTC)
MIDDLE, END = START + timedelta(days=1), START + timedelta(days=2)
MOST_FOR_EVIDENTLY = 1_000_000
ADAPTER = "support"
NUMBERS = ["latency_ms", "confidence", "prompt_tokens", "completion_tokens", "prompt_length", "response_length"]
NUMBERS += ["feedback", "turns", "cost"]
CATEGORIES = ["response", "model_version", "audit_label", "plan", "country", "channel"]
COLUMNS: dict[str, dict[str, Any]] = {
    "prompt": {"method": "abs_text_content_drift", "threshold": 0.7},
    "novelty": {"method": "wasserstein", "threshold": 0.235},
    "topic": {"method": "jensenshannon", "threshold": 0.2},
    "grown": {"method": "TVD", "threshold": 0.05},
    **{name: {"method": "wasserstein", "threshold": 0.2} for name in NUMBERS[:4]},
    **{name: {"method": "psi", "threshold": 0.2} for name in NUMBERS[4:6]},
    **{f"metadata.{name}": {"method": "jensenshannon", "threshold": 0.2, "kind": "number"} for name in ("turns", "cost")},
    **{name: {"method": "jensenshannon", "threshold": 0.15} for name in ("response", "model_version")},
    **{f"metadata.{name}": {"method": "TVD", "threshold": 0.15} for name in ("plan", "country", "channel")},
}
WORDS = "refund parcel order card late please help account address payment damaged return status cancel where my when how box"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--arm", choices=sorted(ARMS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        print(json.dumps(ARMS[arguments.arm](arguments.folder)))
        return
    with tempfile.TemporaryDirectory(prefix="monitor_window") as folder:
        found = run(arguments.rows, Path(folder))
    print(json.dumps(found) if arguments.json else table(found))


def run(rows: int, folder: Path) -> dict[str, Any]:
    child("data", folder, rows)
    monitor = child("monitor", folder, rows)
    sample = child("evidently_sample", folder, rows)
    plain = child("evidently", folder, rows) if rows <= MOST_FOR_EVIDENTLY else {}
    found = {"rows": rows, **monitor, "evidently_sample_seconds": sample["seconds"]}
    found |= {"evidently_seconds": plain.get("seconds"), "evidently_peak_mb": plain.get("peak_mb")}
    return found | {"ratio": round(plain["seconds"] / monitor["seconds"], 1) if plain else None}


def table(found: dict[str, Any]) -> str:
    return "\n".join(f"{key:26}{'not run' if value is None else value}" for key, value in found.items())


def child(arm: str, folder: Path, rows: int) -> dict[str, Any]:
    """One arm alone in a process, so that its peak of memory is its own; on two cores, whatever the machine has."""
    env = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT), "MONITOR_WINDOW_ROWS": str(rows)}
    command = [sys.executable, "-W", "ignore", __file__, "--arm", arm, "--folder", str(folder)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, preexec_fn=two_cores)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def two_cores() -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


# --- the arms


def data(folder: Path) -> dict[str, Any]:
    """Two days of traffic: on the second prompts are longer and answers slower, and a country is new."""
    import duckdb

    rows = int(os.environ["MONITOR_WINDOW_ROWS"])
    connection = duckdb.connect()
    connection.execute("SET threads = 1; SET TimeZone = 'UTC'; SELECT setseed(0.5)")  # one thread: the same rows each time
    words = "[" + ", ".join(f"'{word}'" for word in WORDS.split()) + "]"
    for day in (0, 1):
        step = 86_400 / rows
        start = f"epoch(TIMESTAMPTZ '{START:%Y-%m-%d}') + {day} * 86400"
        common = f"{words}[1 + (hash(i * 40 + k + {day}) % {len(WORDS.split())})::INT]"
        word = f"CASE WHEN k < 6 THEN {common} ELSE 'w' || floor(3000 * power(random(), 3))::INT END"
        slower = 0.3 * (1 + day / 10)
        connection.execute(f"""
            COPY (
                SELECT 'r{day}-' || i AS request_id,
                    to_timestamp({start} + i * {step}) AS "timestamp",
                    '{ADAPTER}' AS adapter,
                    'support-v' || (1 + (random() < 0.1)::INT) AS model_version,
                    'u' || (random() * 50000)::INT AS user_id,
                    array_to_string(list_transform(range(20), lambda k: {word}), ' ') AS prompt,
                    'label ' || floor(12 * power(random(), 1.5))::INT AS response,
                    round(exp(4.6 + {slower} * sqrt(-2 * ln(1 - random())) * cos(6.2831853 * random())), 1) AS latency_ms,
                    (20 + floor(random() * 30) + {day})::DOUBLE AS prompt_tokens,
                    (2 + floor(random() * 4))::DOUBLE AS completion_tokens,
                    CASE WHEN random() < 0.99 THEN round(sqrt(random()), 5) END AS confidence,
                    CASE WHEN random() < 0.1 THEN CASE WHEN random() < 0.8 THEN 1.0 ELSE -1.0 END END::DOUBLE AS feedback,
                    CASE WHEN random() < 0.05 THEN 'label ' || floor(12 * random())::INT END AS audit_label,
                    to_timestamp({start} + 90000) AS feedback_at,
                    json_object('plan', ['free', 'pro', 'team'][1 + floor(3 * random())::INT],
                        'country', 'c' || floor({40 + day} * random())::INT,
                        'channel', ['web', 'app'][1 + floor(2 * random())::INT],
                        'turns', 1 + floor(9 * random())::INT, 'cost', round(random(), 4))::VARCHAR AS metadata
                FROM range({rows}) numbers(i)
            ) TO '{folder}/day{day}.parquet' (ROW_GROUP_SIZE 100000)""")
    return {}


def monitor(folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    import great_expectations  # noqa: F401
    import scipy.cluster.hierarchy
    import scipy.stats  # noqa: F401
    import sklearn.cluster  # noqa: F401
    from evidently.metrics import ValueDrift  # noqa: F401

    from monitoring import drift, quality, sources
    from monitoring.windows import Window
    from retrain import expectations, params, sections

    imported = time.perf_counter()
    settings = params.load(ROOT).of(ADAPTER)
    rules = settings.drift.model_copy(update={"columns": {n: sections.DriftColumn(**rule) for n, rule in COLUMNS.items()}})
    logs = settings.logs.model_copy(update={"uri": "*.parquet"})
    table = sources.open_logs(logs, root=folder, adapter=ADAPTER)
    window = Window(MIDDLE, END)
    before, now = table.rows(Window(START, MIDDLE)), table.rows(window)
    sample = now.sample(rules.sample, drift.SALT)
    report = drift.measure(before, before, now, drift=rules, html=folder / "report.html", sample=sample)
    quality.measure(now, known_before=END + timedelta(days=2), now=END, sample=sample)
    expectations.check_logs(sample, rows=report.rows, min_rows=rules.min_rows)
    counts = table.counts(window)
    done = time.perf_counter()
    not_computed = [f"{column.column}: {column.reason}" for column in report.columns if column.value is None]
    if not_computed or counts.used != report.rows or report.rows != int(os.environ["MONITOR_WINDOW_ROWS"]):
        raise SystemExit(f"measured {report.rows} rows of {counts}; not computed: {not_computed}")
    return {
        "seconds": round(done - imported, 2),
        "import_seconds": round(imported - started, 2),
        "peak_mb": peak(),
        "report_mb": round((folder / "report.html").stat().st_size / 1e6, 2),
    }


def evidently(folder: Path) -> dict[str, Any]:
    return preset(folder, "SELECT {columns} FROM '{file}'")


def evidently_sample(folder: Path) -> dict[str, Any]:
    return preset(folder, "SELECT {columns} FROM '{file}' ORDER BY md5('drift' || request_id) LIMIT 2000")


def preset(folder: Path, query: str) -> dict[str, Any]:
    import duckdb
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    started = time.perf_counter()
    connection = duckdb.connect()
    derived = {"prompt_length": "length(prompt)::DOUBLE", "response_length": "length(response)::DOUBLE"}
    derived |= {name: f"(metadata->>'$.{name}')" for name in ("plan", "country", "channel")}
    derived |= {name: f"(metadata->>'$.{name}')::DOUBLE" for name in ("turns", "cost")}
    columns = ", ".join(f"{derived.get(name, name)} AS {name}" for name in ("prompt", *NUMBERS, *CATEGORIES))
    days = [connection.sql(query.format(columns=columns, file=f"{folder}/day{day}.parquet")).df() for day in (0, 1)]
    definition = DataDefinition(numerical_columns=NUMBERS, categorical_columns=CATEGORIES, text_columns=["prompt"])
    before, now = (Dataset.from_pandas(day, data_definition=definition) for day in days)
    Report([DataDriftPreset()]).run(now, before).save_html(str(folder / "evidently.html"))
    return {"seconds": round(time.perf_counter() - started, 2), "peak_mb": peak()}


def peak() -> int:
    """MB of this program alone: ru_maxrss begins with what the process that started it had, so Linux is asked otherwise."""
    status = Path("/proc/self/status")
    if status.exists():
        return round(next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10))


ARMS = {"data": data, "monitor": monitor, "evidently": evidently, "evidently_sample": evidently_sample}

if __name__ == "__main__":
    main()
