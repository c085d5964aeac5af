"""benchmarks/learning_curve.py on a tiny base: every point once, resumed and not made again, and a page of it."""

import importlib.util
import json
import random
from pathlib import Path
from types import ModuleType

import pytest
import small

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def curve() -> ModuleType:
    spec = importlib.util.spec_from_file_location("learning_curve", ROOT / "benchmarks" / "learning_curve.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = random.Random(1)
    for name, n in (("train", 80), ("test", 24)):
        lines = [f"{small.message(label, rng)},{label}" for _ in range(n // 4) for label in sorted(small.TELLS.values())]
        (tmp_path / f"{name}.csv").write_text("text,category\n" + "\n".join(lines) + "\n")
    return tmp_path


def arguments(data: Path, tiny: Path, *more: str) -> list[str]:
    settings = [*small.FAST, f"bases.smollm2.name={json.dumps(str(tiny.parent / 'raw'))}", "train.epochs=1"]
    settings += ["synthesize.generator.epochs=1", "synthesize.generator.max_new_tokens=8", "synthesize.agreement=0"]
    sets = [word for setting in settings for word in ("--set", setting)]
    return [
        "--data",
        str(data),
        "--work",
        str(data / "work"),
        "--docs",
        str(data),
        "--points",
        "0",
        "16",
        "--held",
        "12",
        *sets,
        *more,
    ]


def test_each_point_is_measured_once_and_a_page_says_what_was_measured(
    curve: ModuleType, data: Path, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    assert curve.main(arguments(data, tiny, "--json", "--page")) == 0
    first = json.loads(capsys.readouterr().out)["runs"]
    assert [(run["human"], run["synthesis"]) for run in first] == [(0, False), (16, False), (16, True)]
    assert "regression" not in first[0]
    assert all(0 <= run["adapter"] <= 1 for run in first)
    assert first[2]["synthetic"] + sum(first[2]["rejected"].values()) == 16 * 3
    assert "| 16 |" in (data / "learning-curve.md").read_text()
    results = data / "work" / "results.jsonl"
    before = results.read_text()
    results.write_text("".join(before.splitlines(keepends=True)[:2]))  # as if it had been killed in the last run
    assert curve.main(arguments(data, tiny, "--json")) == 0
    again = json.loads(capsys.readouterr().out)["runs"]
    assert [{**run, "seconds": 0} for run in again] == [{**run, "seconds": 0} for run in first]
    assert len(results.read_text().splitlines()) == 3


def test_rows_of_a_smaller_point_are_those_of_a_larger_one_and_none_is_held_out(curve: ModuleType, data: Path) -> None:
    labels, rows, held = curve.split(data, 1, 12, (0, 16))
    more = curve.split(data, 1, 12, (0, 40))[1]
    assert more[:16] == rows
    assert not {row.key for row in more} & {row.key for row in held}
    assert {row.answer for row in rows} == set(labels)


def test_data_that_is_missing_or_too_small_is_said(
    curve: ModuleType, data: Path, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    assert curve.main(arguments(data / "nowhere", tiny)) == 2
    assert "does not exist: --data names a folder" in capsys.readouterr().err
    assert curve.main([*arguments(data, tiny), "--points", "5000"]) == 2
    assert "5000 are needed" in capsys.readouterr().err
