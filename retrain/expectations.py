"""The only Great Expectations file: which data may pass, in plain words where it may not.

An empty table passes not-null and range, a blank string passes not-null, a null passes a regex (GX 1.24): every suite here
counts rows, asks for values, and for a character that is not white space.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from retrain import datadocs
from retrain.records import Example

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Checked:
    """passed only where every rule was evaluated and met; failures are sentences with counts."""

    passed: bool
    failures: tuple[str, ...]
    evaluated: int
    configured: int


def _quiet() -> None:
    """Before the first import: GX logs a page of lines and asks for telemetry."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    logger = logging.getLogger("great_expectations")
    logger.setLevel(logging.ERROR)
    logger.propagate = False  # its children set levels of their own


def check_logs(
    sample: "pd.DataFrame",
    *,
    rows: int,
    min_rows: int,
    missing: Mapping[str, float] = MappingProxyType({}),
    most: float = 0.05,
    docs: Path | None = None,
) -> Checked:
    """A window by its sample of rows and what the engine counted of all: `rows`, and the share of `missing` values by column.

    Enough rows, ids unique, prompt and response not missing or blank, feedback -1 or +1, no column missing in more than
    `most`. With `docs` the Data Docs of this window are written to that folder, in place of the last one's.
    """
    _quiet()
    import great_expectations.expectations as gxe
    import pandas as pd

    in_sample = [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        *_filled("request_id", "timestamp"),
        gxe.ExpectColumnValuesToBeUnique(column="request_id"),
        *(
            rule
            for column in ("prompt", "response")
            for rule in (*_filled(column, mostly=0.95), *_not_blank(column, mostly=0.95))
        ),
        gxe.ExpectColumnValuesToBeInSet(column="feedback", value_set=[-1, 1]),
    ]
    counted = pd.DataFrame([{"rows": rows, **{f"missing {name}": share for name, share in missing.items()}}])
    in_window = [
        gxe.ExpectColumnMinToBeBetween(column="rows", min_value=max(min_rows, len(sample), 1)),
        *(gxe.ExpectColumnMaxToBeBetween(column=f"missing {name}", max_value=most) for name in missing),
    ]
    return _run({"sample of the window": (sample, in_sample), "whole window": (counted, in_window)}, docs)


def check_examples(rows: Sequence[Example], *, labels: Sequence[str]) -> Checked:
    """Rows that enter training: at least one, ids unique, question and answer not blank, answers among labels if given."""
    return _run({"examples": _examples(rows, labels)}, None)


def check_training(
    suites: Mapping[str, Sequence[Example]], *, train: Sequence[Example], labels: Sequence[str], docs: Path
) -> Checked:
    """The same of the rows that train and of each suite, which may hold answers that are not listed yet; with Data Docs."""
    tables = {"train": _examples(train, labels), **{name: _examples(rows, ()) for name, rows in suites.items()}}
    return _run(tables, docs)


def _examples(rows: Sequence[Example], labels: Sequence[str]) -> tuple["pd.DataFrame", list[Any]]:
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
    return frame, expected


def _filled(*columns: str, mostly: float = 1.0) -> list[Any]:
    import great_expectations.expectations as gxe

    return [gxe.ExpectColumnValuesToNotBeNull(column=column, mostly=mostly) for column in columns]


def _not_blank(column: str, mostly: float = 1.0) -> list[Any]:
    import great_expectations.expectations as gxe

    return [gxe.ExpectColumnValuesToMatchRegex(column=column, regex=r"\S", mostly=mostly)]


def _run(tables: Mapping[str, tuple["pd.DataFrame", list[Any]]], docs: Path | None) -> Checked:
    """Each table against its own rules; a rule that raised, or left no result, was not evaluated, and nothing passes then."""
    import great_expectations as gx
    from great_expectations.checkpoint import UpdateDataDocsAction

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    if docs is not None:
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)}
        context.add_data_docs_site("docs", {"class_name": "SiteBuilder", "store_backend": store, "show_how_to_buttons": False})
    actions = [UpdateDataDocsAction(name="docs", site_names=["docs"])] if docs is not None else []
    results = []
    for name, (frame, rules) in tables.items():
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=rules))
        batch = context.data_sources.add_pandas(name).add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
        checkpoint = context.checkpoints.add(gx.Checkpoint(name=name, validation_definitions=[definition], actions=actions))
        for run in checkpoint.run(batch_parameters={"dataframe": frame}).run_results.values():
            results += run.results
    if docs is not None:
        datadocs.self_contained(docs)
    evaluated = sum(not _raised(found.exception_info) for found in results)
    configured = sum(len(rules) for _, rules in tables.values())
    failures = [_words(found) for found in results if not found.success]
    if evaluated != configured:
        failures.append(f"{configured - evaluated} of {configured} rules could not be evaluated")
    return Checked(not failures, tuple(failures), evaluated, configured)


def _raised(info: Any) -> bool:
    """GX gives one exception, or one a metric."""
    info = info or {}
    return bool(info.get("raised_exception")) or any(isinstance(part, dict) and _raised(part) for part in info.values())


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
    words = (("min_value", "at least"), ("max_value", "at most"))
    return "".join(f" ({word} {kwargs[key]})" for key, word in words if kwargs.get(key) is not None)
