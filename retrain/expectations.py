"""The only Great Expectations file: which data may pass, in plain words where it may not.

An empty table passes not-null and range, a blank string passes not-null (GX 1.24): every suite here counts rows and
asks for a character that is not white space.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retrain.records import Example

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Checked:
    """passed only where every expectation was evaluated and met; failures are sentences with counts."""

    passed: bool
    failures: tuple[str, ...]
    evaluated: int


def _quiet() -> None:
    """Before the first import: GX logs a page of lines and asks for telemetry."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    logger = logging.getLogger("great_expectations")
    logger.setLevel(logging.ERROR)
    logger.propagate = False  # its children set levels of their own


def check_logs(frame: "pd.DataFrame", *, min_rows: int) -> Checked:
    """A window's rows: enough of them, ids unique, prompt and response not blank, feedback -1 or +1."""
    _quiet()
    import great_expectations.expectations as gxe

    return _run(
        frame,
        [
            gxe.ExpectTableRowCountToBeBetween(min_value=min_rows),
            *_filled("request_id", "timestamp", "prompt"),
            gxe.ExpectColumnValuesToBeUnique(column="request_id"),
            *_not_blank("prompt", mostly=0.95),
            *_not_blank("response", mostly=0.95),
            gxe.ExpectColumnValuesToBeInSet(column="feedback", value_set=[-1, 1]),
        ],
    )


def check_examples(rows: Sequence[Example], *, labels: Sequence[str]) -> Checked:
    """Rows that enter training: at least one, ids unique, question and answer not blank, answers among labels if given."""
    _quiet()
    import great_expectations.expectations as gxe
    import pandas as pd

    columns = ["id", "question", "answer"]
    frame = pd.DataFrame([(row.id, row.question, row.answer) for row in rows], columns=columns, dtype=object)
    expected = [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        *_filled(*columns),
        gxe.ExpectColumnValuesToBeUnique(column="id"),
        *_not_blank("question"),
        *_not_blank("answer"),
    ]
    if labels:
        expected.append(gxe.ExpectColumnValuesToBeInSet(column="answer", value_set=sorted(labels)))
    return _run(frame, expected)


def _filled(*columns: str) -> list[Any]:
    import great_expectations.expectations as gxe

    return [gxe.ExpectColumnValuesToNotBeNull(column=column) for column in columns]


def _not_blank(column: str, mostly: float = 1.0) -> list[Any]:
    import great_expectations.expectations as gxe

    return [gxe.ExpectColumnValuesToMatchRegex(column=column, regex=r"\S", mostly=mostly)]


def _run(frame: "pd.DataFrame", expected: list[Any]) -> Checked:
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    suite = context.suites.add(gx.ExpectationSuite(name="rows", expectations=expected))
    batch = context.data_sources.add_pandas("rows").add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")
    result = batch.get_batch({"dataframe": frame}).validate(suite)
    failures = tuple(_words(found) for found in result.results if not found.success)
    return Checked(bool(result.success) and len(result.results) == len(expected), failures, len(result.results))


def _words(found: Any) -> str:
    """One failed expectation as a sentence."""
    config, result = found.expectation_config, found.result or {}
    name = config.type.removeprefix("expect_").replace("_", " ")
    column = config.kwargs.get("column")
    where = f"{column}: " if column else ""
    if "unexpected_count" in result:
        return f"{where}{result['unexpected_count']} of {result.get('element_count')} values fail '{name}'"
    return f"{where}{result.get('observed_value', 'not evaluated')} fails '{name}'" + _bounds(config.kwargs)


def _bounds(kwargs: dict[str, Any]) -> str:
    return f" (at least {kwargs['min_value']})" if kwargs.get("min_value") is not None else ""
