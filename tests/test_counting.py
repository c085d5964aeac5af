"""Distances counted in the engine are those of Evidently's own functions on the same rows."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
import pytest

from monitoring import counting, distances

N, M = 3000, 2500
R = np.random.default_rng(0)
NUMBERS = {
    "normal": (R.normal(size=N), R.normal(0.4, 1.3, size=M)),
    "rounded to values on the edges of bins": (R.integers(0, 101, N) / 100, R.integers(10, 101, M) / 100),
    "whole": (R.poisson(40, N).astype(float), R.poisson(45, M).astype(float)),
    "few values": (R.integers(0, 5, N).astype(float), R.integers(0, 9, M).astype(float)),
    "few values against many": (R.integers(0, 5, N).astype(float), R.normal(size=M)),
    "few values late": (np.r_[np.zeros(2900), np.arange(100.0)], R.normal(50, 9, size=M)),
    "holes": (R.choice([1.5, np.nan, np.inf, -np.inf, *range(30)], N), R.choice([np.nan, *range(40)], M)),
    "a constant that changed": (np.full(N, 3.0), np.full(M, 4.0)),
    "rare": (np.r_[R.normal(size=N), 1e6], R.normal(size=M)),
}
CATEGORIES = {
    "labels": (R.choice(["a", "b", "c"], N), R.choice(["a", "b", "c"], M, p=[0.5, 0.3, 0.2])),
    "new and vanished": (R.choice(["a", "b", "c"], N), R.choice(["b", "c", "d", "e"], M)),
    "missing": (R.choice(np.array(["a", "b", None], dtype=object), N), R.choice(np.array(["a", None], dtype=object), M)),
    "very rare": (np.array(["a"] * 20000 + ["b"]), np.array(["a"] * 9000 + ["c"] * 9000)),
    "a constant that changed": (np.full(N, "a"), np.full(M, "b")),
}


SCRATCH = Path(tempfile.mkdtemp(prefix="counting"))


@pytest.fixture(scope="module", autouse=True)
def _remove_scratch() -> Iterator[None]:
    yield
    shutil.rmtree(SCRATCH)


def look(frame: dict[str, object], kinds: dict[str, counting.Kind]) -> counting.Side:
    return counting.look(ibis.memtable(pd.DataFrame(frame)), kinds, SCRATCH)


def side(values: object, kind: counting.Kind) -> counting.Side:
    return look({"latency_ms": values}, {"latency_ms": kind})


def ours(method: str, kind: counting.Kind, reference: object, current: object) -> float:
    return counting.distance(method, "latency_ms", kind, side(reference, kind), side(current, kind))


def evidently(method: str, kind: str, reference: object, current: object) -> float:
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    definition = DataDefinition(**{"numerical_columns" if kind == "number" else "categorical_columns": ["x"]})
    sets = [Dataset.from_pandas(pd.DataFrame({"x": values}), data_definition=definition) for values in (current, reference)]
    return float(Report([ValueDrift(column="x", method=method, threshold=0.1)]).run(*sets).dict()["metrics"][0]["value"])


@pytest.mark.parametrize("few", [10_000, 0])  # different values up to which they are counted one by one
@pytest.mark.parametrize("method", ["psi", "jensenshannon", "wasserstein"])
@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_are_as_far_apart_as_evidently_says(method: str, case: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if few == 0 and case.startswith("few values") and method != "wasserstein":
        few = distances.FEW_VALUES  # that the reference has few is never missed
    monkeypatch.setattr(counting, "FEW", few)
    reference, current = NUMBERS[case]
    assert ours(method, "number", reference, current) == pytest.approx(
        evidently(method, "number", reference, current), rel=1e-9, abs=1e-12
    )


@pytest.mark.parametrize("method", ["psi", "jensenshannon"])
@pytest.mark.parametrize("case", CATEGORIES)
def test_categories_are_as_far_apart_as_evidently_says(method: str, case: str) -> None:
    reference, current = CATEGORIES[case]
    assert ours(method, "category", reference, current) == pytest.approx(
        evidently(method, "category", reference, current), rel=1e-9, abs=1e-12
    )


@pytest.mark.parametrize("case", CATEGORIES)
def test_tvd_is_the_distance_that_evidently_puts_through_its_permutation_test(case: str) -> None:
    from evidently.legacy.calculations.stattests.tvd_stattest import _total_variation_distance as theirs

    reference, current = (pd.Series(values).dropna() for values in CATEGORIES[case])
    assert ours("TVD", "category", reference, current) == pytest.approx(float(theirs(reference, current)), rel=1e-9)


def test_chance_takes_jensenshannon_as_far_as_it_is_said_to() -> None:
    share = np.array([0.3, 0.25, 0.2, 0.1, 0.1, 0.05])
    for rows in (300, 2000):
        pairs = R.multinomial(rows, share, (3000, 2))
        far = np.array([distances.of_counts("jensenshannon", *pair) for pair in pairs])
        for cut in np.quantile(far, [0.5, 0.95]):
            assert distances.by_chance(cut, *pairs[0]) == pytest.approx((far > cut).mean(), abs=0.02)


def test_equal_sides_are_at_no_distance() -> None:
    same = NUMBERS["normal"][0]
    for method in ("psi", "jensenshannon", "wasserstein"):
        assert ours(method, "number", same, same) == pytest.approx(0, abs=1e-9)


def test_wasserstein_walks_the_axis_in_pieces_and_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.stats import wasserstein_distance

    monkeypatch.setattr(distances, "CHUNK", 64)
    for reference, current in (NUMBERS["normal"], NUMBERS["whole"], NUMBERS["few values against many"]):
        expected = wasserstein_distance(reference, current) / np.std(reference)
        assert distances.wasserstein(reference.copy(), current.copy()) == pytest.approx(expected, rel=1e-9)


def test_blank_text_and_what_is_no_number_are_missing() -> None:
    text = side(["a", "", " \t\n", "\u00a0", None, "b "], "category")
    assert (text.rows, text.seen["latency_ms"].usable) == (6, 2)
    number = side(["1", " -2.5e3 ", "nan", "inf", "x", "", None, "0x10"], "number")
    assert (number.seen["latency_ms"].usable, number.seen["latency_ms"].low) == (2, -2500.0)
    assert side([None, None], "number").missing("latency_ms") == 1.0


def test_free_text_is_no_category() -> None:
    different = [f"answer {i}" for i in range(300)]
    with pytest.raises(counting.NotComparable, match="free text"):
        ours("jensenshannon", "category", different, different)


def test_fields_of_the_metadata_are_columns() -> None:
    rows = ['{"plan": "pro", "size": 3, "by": {"route": "a"}}', '{"plan": null}', "not json", None]
    kinds: dict[str, counting.Kind] = {
        "metadata.plan": "category", "metadata.size": "number", "metadata.by.route": "category", "metadata.none": "category",
    }  # fmt: skip
    looked = look({"metadata": rows}, kinds)
    assert [looked.seen[name].usable for name in kinds] == [1, 1, 1, 0]
    assert looked.seen["metadata.size"].high == 3.0


def test_a_column_that_is_not_there_or_raises_takes_no_other_down() -> None:
    table = ibis.memtable(pd.DataFrame({"latency_ms": [1.0, 2.0]})).mutate(confidence=ibis.literal("x").cast("float64"))
    looked = counting.look(table, {"latency_ms": "number", "confidence": "number", "response": "category"}, SCRATCH)
    assert looked.seen["latency_ms"].usable == looked.rows == 2
    assert "Conversion" in str(looked.seen["confidence"].why)
    assert "no such column" in str(looked.seen["response"].why)
