"""How often the trigger fires where nothing changed, and how soon it finds shifts of stated sizes; beside plain Evidently.

    python benchmarks/detection.py [--windows 200] [--draws 60] [--data DIR] [--json]

Users ask about known labels, whose shares move by up to a third over each week; the champion answers 90 % rightly, and people
label 150 and rate 100 of a window's 2,000 rows. A champion's first week is the reference; the windows after it go through
`drift.measure`, `quality.measure`, `trigger.violations` and `trigger.decide` under the policy of params.yaml, without its
cooldown. Each decision stands alone: no retraining follows a fire, and none holds back the next; labelled failures and unread
audited rows are plenty, so that what is measured is detection. A shift is found when the trigger fires within three windows.

`drift_alone` is whether a window's columns drifted, `evidently` is DataDriftPreset as it comes on the same windows, against all
rows of the same week: `windows` where it finds drift in at least half of the columns, `any_column` where in one. It has no
trigger, so the first such window counts; it sees no label, so accuracy is not its job. It takes three times as long as
ours, so it sees the windows of every fifth champion (--evidently-every).

The text is that of the adapter `support`, or with --data the intents of a train.csv (columns text,category).
"""

import argparse
import json
import os
import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from parts.days import ACCURACY, AUDITED, DAY, QUIET, ROWS, SHIFTS, START, text_of, traffic, window

ROOT = Path(__file__).resolve().parent.parent
WITHIN = 3  # windows
LIFE = 20  # windows after one reference week, where nothing changes


# --- a champion's life: a week of reference, then windows that are measured and decided


@dataclass(frozen=True)
class Case:
    """One champion's life: so many windows after its first week, from weekday `first` on."""

    seed: int
    shift: str | None
    windows: int
    first: int = 0
    label: int = 0
    evidently: bool = False


@dataclass(frozen=True)
class Told:
    """What was said of one window; None where it was not asked any more."""

    fire: bool | None
    drift: bool | None
    columns: tuple[str, ...]
    evidently: bool | None
    any_column: bool | None


def lived(case: Case, data: Path | None) -> list[Told]:
    """Where something shifted, only until everybody has found it."""
    import numpy as np
    import pandas as pd

    from monitoring.sources import Rows
    from retrain import params

    warnings.filterwarnings("ignore")
    settings = params.load(ROOT).of("support")
    text, rng, shift = text_of(data), np.random.default_rng(case.seed), SHIFTS.get(case.shift or "", QUIET)
    label = list(text.known)[case.label % len(text.known)]
    week = pd.concat([traffic(text, number, QUIET, label, rng) for number in range(7)])
    reference = Rows.of_frame(week)
    history = [record(number, settings=settings) for number in range(7)]
    before, told = counted(reference, window(6)), []
    for number in range(7 + case.first, 7 + case.first + case.windows):
        rows = traffic(text, number, shift, label, rng)
        fire = drifted = None
        columns: tuple[str, ...] = ()
        if case.shift is None or not any(one.fire for one in told):
            made = measured(number, reference, before, Rows.of_frame(rows), settings)
            history.append(made)
            fire, drifted, columns = fires(history, settings), made.drift_status == "drift", tuple(made.drifted)
        whole = some = None
        if case.evidently and (case.shift is None or not any(one.evidently for one in told)):
            whole, some = preset(week, rows)
        told.append(Told(fire, drifted, columns, whole, some))
        done = not case.evidently or any(one.evidently for one in told)
        if case.shift and done and any(one.fire for one in told):
            break
    return told


def record(number: int, *, settings: Any, drift: Any = None, compared: Sequence[Any] = ()) -> Any:
    """A window's record as the trigger reads it; without a drift report it is one of the quiet reference week."""
    from monitoring import trigger
    from retrain.records import stamp

    at, status = window(number), drift.status if drift else "no_drift"
    drifted = [column.column for column in drift.columns if column.status == "drift"] if drift else []
    found = trigger.violations(drift_status=status, drifted=drifted, compared=compared, policy=settings.trigger)
    return trigger.WindowRecord(
        adapter="support", start=stamp(at.start), end=stamp(at.end), rows=ROWS, drift_status=status, drifted=drifted,
        audited=AUDITED, compared=list(compared), violations=found, version=1, fire=False, reasons=[],
    )  # fmt: skip


def measured(number: int, reference: Any, before: Any, rows: Any, settings: Any) -> Any:
    from monitoring import drift, trigger
    from monitoring.windows import Window, week_before

    now = counted(rows, window(number))
    compared = [
        trigger.Compared(signal="accuracy", good=now.right, n=now.audited, reference_good=before.right,
                         reference_n=before.audited),
        trigger.Compared(signal="satisfaction", good=now.satisfied, n=now.feedback, reference_good=before.satisfied,
                         reference_n=before.feedback),
    ]  # fmt: skip
    then = week_before(window(number), Window(START, START + 7 * DAY))
    found = drift.measure(
        reference, reference, rows, drift=settings.drift, html=None, same_time=then and reference.within(then)
    )
    return record(number, settings=settings, drift=found, compared=compared)


def counted(rows: Any, at: Any) -> Any:
    from monitoring import quality

    return quality.measure(rows, known_before=at.end + DAY, now=at.end + DAY)


def fires(history: Sequence[Any], settings: Any) -> bool:
    from monitoring import planner, trigger

    rules = [item for item in settings.trigger.policies if item.kind != "cooldown"]
    facts = trigger.Facts(
        at=START, champion=1, trained=history[0].start, new_failures=10_000, unread_audit=10_000, audit_wrong=1 - ACCURACY,
        bar=planner.bar(settings),
    )  # fmt: skip
    return trigger.decide(history, policy=settings.trigger.model_copy(update={"policies": tuple(rules)}), facts=facts).fire


def preset(week: Any, rows: Any) -> tuple[bool, bool]:
    """Whether Evidently's default finds drift in at least half of the columns, and in any."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    numbers, names = ["prompt_length", "latency_ms", "confidence"], ["prompt", "response"]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=names[1:], text_columns=names[:1])
    frames = [frame.assign(prompt_length=frame["prompt"].str.len())[[*numbers, *names]] for frame in (rows, week)]
    sets = [Dataset.from_pandas(frame.reset_index(drop=True), data_definition=definition) for frame in frames]
    said = Report([DataDriftPreset()], include_tests=True).run(*sets).dict()["tests"]
    failed = [
        test["metric_config"]["params"]["type"].endswith("DriftedColumnsCount") for test in said if test["status"] == "FAIL"
    ]
    return any(failed), not all(failed)


# --- all of it


def cases(windows: int, draws: int, every: int) -> list[Case]:
    lives = [min(LIFE, windows - at) for at in range(0, windows, LIFE)]
    quiet = [Case(n, None, life, evidently=n % every == 0) for n, life in enumerate(lives)]
    shifted = [
        Case(1000 * (i + 1) + n, name, WITHIN, n % 7, n, evidently=n % every == 0)
        for i, name in enumerate(SHIFTS)
        for n in range(draws)
    ]
    return quiet + shifted


def run(windows: int, draws: int, every: int, workers: int, data: Path | None) -> dict[str, Any]:
    from tqdm import tqdm

    todo = cases(windows, draws, every)
    bar = partial(tqdm, total=len(todo), desc="champions", unit="", disable=None)
    if workers == 1:
        told = list(bar(lived(case, data) for case in todo))
    else:
        with ProcessPoolExecutor(workers) as pool:
            told = list(bar(pool.map(partial(lived, data=data), todo)))
    lives = list(zip(todo, told, strict=True))
    quiet = [one for case, life in lives if case.shift is None for one in life]
    shifted = {name: [life for case, life in lives if case.shift == name] for name in SHIFTS}
    kinds: dict[str, Callable[[Told], bool | None]] = {
        "trigger": lambda one: one.fire, "windows": lambda one: one.evidently, "any_column": lambda one: one.any_column,
    }  # fmt: skip
    found = {kind: both(seen, quiet, shifted) for kind, seen in kinds.items()}
    return {**found.pop("trigger"), "drift_alone": alone(quiet, shifted), "evidently": found}


def both(seen: Callable[[Told], bool | None], quiet: list[Told], shifted: dict[str, list[list[Told]]]) -> dict[str, Any]:
    told = [said for one in quiet if (said := seen(one)) is not None]
    found = {name: detected(seen, [life for life in lives if seen(life[0]) is not None]) for name, lives in shifted.items()}
    return {"windows": len(told), "false_fire_rate": statistics.fmean(told), "detection": found}


def detected(seen: Callable[[Told], bool | None], lives: list[list[Told]]) -> dict[str, Any]:
    """Share of draws found within WITHIN windows, and the median window, from 1, of those that were found."""
    first = [next((n for n, one in enumerate(life, 1) if seen(one)), None) for life in lives]
    found = [n for n in first if n is not None]
    return {
        "draws": len(first),
        "within_3": len(found) / len(first),
        "median_windows": statistics.median(found) if found else None,
    }


def alone(quiet: list[Told], shifted: dict[str, list[list[Told]]]) -> dict[str, Any]:
    """Share of the measured windows with drift in some column, and in which."""
    sides = {"quiet": quiet, **{name: [one for life in lives for one in life] for name, lives in shifted.items()}}
    found = {}
    for name, windows in sides.items():
        told = [one for one in windows if one.drift is not None]
        columns = Counter(column for one in told for column in one.columns)
        shares = {column: round(n / len(told), 3) for column, n in columns.most_common()}
        found[name] = {"windows": len(told), "drift": sum(bool(one.drift) for one in told) / max(len(told), 1), **shares}
    return found


def table(found: dict[str, Any]) -> str:
    lines = [f"{'':26}{'trigger':>22}{'Evidently':>22}{'.. any column':>22}"]
    sides = [found, *found["evidently"].values()]
    quiet = [f"{side['false_fire_rate']:.1%} of {side['windows']}" for side in sides]
    lines.append(f"{'fires where all is quiet':26}" + "".join(f"{one:>22}" for one in quiet))
    for name in SHIFTS:
        shown = [side["detection"][name] for side in sides]
        told = [f"{one['within_3']:.0%} of {one['draws']}, in {one['median_windows'] or '-'}" for one in shown]
        lines.append(f"{name:26}" + "".join(f"{one:>22}" for one in told))
    lines.append(f"found within {WITHIN} windows, of so many draws; the median window that found it")
    lines += [f"drift alone, {name}: {said}" for name, said in found["drift_alone"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=200, help="without drift")
    parser.add_argument("--draws", type=int, default=60, help="of each shift")
    parser.add_argument("--evidently-every", type=int, default=5, metavar="N", help="Evidently sees every Nth champion")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path, help="a folder with train.csv and test.csv, in place of the shipped text")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    numbers = (arguments.windows, arguments.draws, arguments.evidently_every, arguments.workers)
    if min(numbers) < 1:
        parser.error("--windows, --draws, --evidently-every and --workers must be at least 1")
    found = run(*numbers, arguments.data)
    print(json.dumps(found) if arguments.json else table(found))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
