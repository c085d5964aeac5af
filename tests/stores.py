"""A real PostgreSQL and a real Spark for tests; where one is missing the test fails and says which variable to set."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest

POSTGRES = os.environ.get("RETRAIN_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/test")


def postgres() -> Any:
    """A psycopg connection to the tests' PostgreSQL; the test fails, with what to set, where none answers."""
    import psycopg

    try:
        return psycopg.connect(POSTGRES, autocommit=True, connect_timeout=5)
    except psycopg.OperationalError as error:
        first = str(error).partition("\n")[0]
        pytest.fail(
            f"no PostgreSQL answers for the tests ({first}): set RETRAIN_TEST_POSTGRES to postgresql://user@host:port/db"
        )


@contextmanager
def postgres_schema() -> Iterator[tuple[Any, str]]:
    """(a psycopg connection, the name of a schema of its own), dropped at the end."""
    connection = postgres()
    name = f"retrain_{uuid.uuid4().hex[:12]}"
    try:
        connection.execute(f"CREATE SCHEMA {name}")
        yield connection, name
    finally:
        connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
        connection.close()


@cache
def spark() -> Any:
    """One small local session for all tests of a process."""
    try:
        from pyspark.sql import SparkSession

        builder = SparkSession.builder.master("local[1]").appName("tests")
        for name, value in {
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.sql.shuffle.partitions": "1",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.memory": "1g",
            "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # starts in half the time
            "spark.sql.codegen.wholeStage": "false",
        }.items():
            builder = builder.config(name, value)
        session = builder.getOrCreate()
    except Exception as error:
        pytest.fail(f"Spark does not start ({type(error).__name__}: {error}): install Java 17 and set JAVA_HOME")
    session.sparkContext.setLogLevel("ERROR")
    return session
