"""Any log table as the loop sees it: one set of Ibis expressions on DuckDB, PostgreSQL or Spark.

A row that cannot be used never stops a window: it is quarantined with file, line and reason, without its content.
Filtering, counting, sampling, copies and feedback that joins are the engine's work; only rows asked for are fetched.
"""

import difflib
from pathlib import Path

from monitoring.sources.columns import Canon
from monitoring.sources.databases import (
    POSTGRES,
    SPARK,
    connect_postgres,
    connect_spark,
    open_postgres,
    open_spark,
    shown,
)
from monitoring.sources.engines import Engine, Postgres, Spark, md5
from monitoring.sources.files import Folder, connect, open_files
from monitoring.sources.mapping import COLUMNS, JUDGED, TYPES, Places, of_feedback, of_logs
from monitoring.sources.rows import RAW, BadRow, Privacy, Rows, Source
from monitoring.sources.table import Counts, LogTable
from monitoring.sources.traces import TRACES, export
from retrain.errors import ParamsError
from retrain.sections import SERVED, Feedback, Logs

__all__ = ["COLUMNS", "RAW", "TYPES", "BadRow", "Counts", "LogTable", "Privacy", "Rows", "md5", "open_logs"]


def open_logs(logs: Logs, *, root: Path, adapter: str, privacy: Privacy = RAW) -> LogTable:
    """The log table that params `logs` describes, for one adapter; nothing is fetched yet.

    `privacy` says what of a row may be fetched (`retrain.userids.open_logs` has it); without it rows are as they are logged.

    Raises DataError where there is no such file, table or column, ParamsError where mapping, zone or address is not known.
    """
    root = Path(root)
    engine = _connect(logs.uri)
    _check_zone(engine, logs.timezone)
    canon = Canon(engine, logs.timezone)
    source = _open(logs.uri.replace("{adapter}", adapter), root, canon, of_logs(logs), "logs")
    table, feedback = _second(logs, root, adapter), None
    if table is not None:
        uri = table.uri.replace("{adapter}", adapter)
        if _store(uri) != _store(logs.uri.replace("{adapter}", adapter)):
            raise ParamsError(
                f"logs.feedback.uri is {shown(uri)} (params.yaml), logs.uri is {shown(logs.uri)}: they join inside one engine,"
                " so both must be files, or tables of one PostgreSQL database, or Spark"
            )
        feedback = _open(uri, root, canon, of_feedback(logs, table), "feedback")
    return LogTable(source, feedback, adapter, privacy)


def _second(logs: Logs, root: Path, adapter: str) -> Feedback | None:
    """The feedback table: what `retrain serve` was told is one as soon as there is any, where the log is files like it."""
    if logs.feedback != "served":
        return logs.feedback
    folder = root / SERVED.format(adapter=adapter)
    if _store(logs.uri) != "files" or logs.uri.startswith(TRACES) or not any(folder.glob("*.jsonl")):
        return None
    return Feedback(uri=f"{folder}/*.jsonl", columns={name: name for name in ("request_id", *JUDGED, "feedback_at")})


def _store(uri: str) -> str:
    """What two tables must share to be joined."""
    if uri.startswith(POSTGRES):
        return uri.partition("?")[0]
    return SPARK if uri.startswith(SPARK) else "files"


def _connect(uri: str) -> Engine:
    if uri.startswith(POSTGRES):
        return connect_postgres(uri)
    return connect_spark() if uri.startswith(SPARK) else connect()


def _open(uri: str, root: Path, canon: Canon, places: Places, table: str) -> Source:
    engine = canon.engine
    if isinstance(engine, Postgres):
        return open_postgres(engine, uri, places, canon)
    if isinstance(engine, Spark):
        return open_spark(engine, uri.removeprefix(SPARK), root, places, canon)
    if uri.startswith(TRACES):
        uri = str(export(uri.removeprefix(TRACES), root, places) / "*.parquet")
    return open_files(engine, Folder.of(uri, root, engine.connection), places, canon, table)  # type: ignore[arg-type]


def _check_zone(engine: Engine, zone: str | None) -> None:
    known = engine.zones() if zone else []
    if zone and zone not in known:
        near = difflib.get_close_matches(zone, known, n=1)
        raise ParamsError(
            f"logs.timezone is {zone!r} (params.yaml), no known zone{f': did you mean {near[0]!r}?' if near else ''}"
        )
