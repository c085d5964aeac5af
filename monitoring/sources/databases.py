"""Log tables in PostgreSQL and Spark: their own tables, columns and types, nothing copied."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import ibis

from monitoring.sources.columns import Canon, required
from monitoring.sources.engines import Engine, Postgres, Spark
from monitoring.sources.mapping import UTC, Places
from monitoring.sources.rows import Part, Source
from retrain.errors import DataError, ParamsError

POSTGRES = ("postgresql://", "postgres://")
SPARK = "spark:"


def connect_postgres(uri: str) -> Postgres:
    """Password and the like may also come from PGPASSWORD, a password file or PGSERVICE."""
    url = urlsplit(uri)
    given = {
        "host": url.hostname, "port": url.port, "user": unquote(url.username or "") or None,
        "password": unquote(url.password or "") or None, "database": unquote(url.path.strip("/")) or None,
    }  # fmt: skip
    try:
        connection = ibis.postgres.connect(**{name: value for name, value in given.items() if value is not None})
        connection.raw_sql("SET TIME ZONE 'UTC'").close()
        connection.raw_sql("SET default_transaction_read_only = on").close()
    except ImportError as error:
        raise ParamsError(
            f"logs.uri is a PostgreSQL address, and psycopg is not installed: pip install 'retrain-loop[postgres]' ({error})"
        ) from error
    except Exception as error:  # psycopg's error tree; the address is named without its password
        raise DataError(f"{shown(uri)} (params.yaml, logs.uri) does not answer: {_first(error)}") from error
    return Postgres(connection)


def open_postgres(engine: Postgres, uri: str, places: Places, canon: Canon) -> Source:
    schema, _, table = postgres_table(uri).rpartition(".")
    try:
        raw = engine.connection.table(table, database=schema or None)
    except Exception as error:
        raise DataError(f"{shown(uri)} (params.yaml, logs.uri): {_first(error)}") from error
    return _source(engine, raw, places, canon, f"{schema}.{table}".strip("."))


def postgres_table(uri: str) -> str:
    names = parse_qs(urlsplit(uri).query).get("table", [])
    if len(names) != 1 or not names[0]:
        raise ParamsError(f"{shown(uri)} (params.yaml) names no table: end it with ?table=schema.logs")
    return names[0]


def shown(uri: str) -> str:
    """An address without its password."""
    return re.sub(r"(//[^/:@]*):[^@]*@", r"\1:…@", uri)


def connect_spark() -> Spark:
    """The session that there is, or one from Spark's own configuration (SPARK_REMOTE, spark-defaults, else local)."""
    try:
        from pyspark.sql import SparkSession

        quiet = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
        builder = SparkSession.builder.appName("retrain")
        for name, value in quiet.items():
            builder = builder.config(name, value)
        connection = ibis.pyspark.connect(builder.getOrCreate())
    except ImportError as error:
        raise ParamsError(
            f"logs.uri names Spark, and pyspark is not installed: pip install 'retrain-loop[spark]' ({error})"
        ) from error
    except Exception as error:
        raise DataError(f"Spark does not start ({_first(error)}): it needs Java 17 or newer, or SPARK_REMOTE") from error
    return Spark(connection)


def open_spark(engine: Spark, name: str, root: Path, places: Places, canon: Canon) -> Source:
    """A table of the catalogue, or a path of Parquet: what has a slash or a dot and parquet at its end."""
    try:
        if re.fullmatch(r"\w+(\.\w+){0,2}", name) and not name.endswith(".parquet"):
            *database, table = name.split(".")
            raw = engine.connection.table(table, database=tuple(database) or None)
        else:
            raw = engine.connection.read_parquet(name if "://" in name else str(root / name))
    except Exception as error:
        raise DataError(f"spark:{name} (params.yaml, logs.uri): {_first(error)}") from error
    return _source(engine, _zoned(engine, raw), places, canon, name)


def _zoned(engine: Spark, raw: Any) -> Any:
    """Ibis takes Spark's two kinds of timestamp for one: those that are instants are told apart here."""
    from pyspark.sql.types import TimestampType

    fields = engine.connection._session.sql(f"SELECT * FROM ({ibis.to_sql(raw)}) LIMIT 0").schema
    return raw.cast({field.name: UTC for field in fields if isinstance(field.dataType, TimestampType)})


def _source(engine: Engine, raw: Any, places: Places, canon: Canon, name: str) -> Source:
    found = required(raw, places, engine, name)
    return Source(engine, canon, [Part(raw.mutate(file=ibis.literal(name), line=ibis.literal(0, "int64")), found)])


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: " + re.sub(r":[^:@/\s]+@", ":…@", str(error).strip().partition("\n")[0][:300])
