"""With `drift_page` the only Evidently file: a window against the champion's own traffic, by named distances with thresholds.

Numbers and categories are compared over all rows, counted in the engine and equal to Evidently's method of the same name
(`counting`); text, novelty and topic on a sample of fixed size, drawn by hash. So no result depends on how busy the day was
but by its own scatter, and no column on another: what cannot be computed is said, with the reason.
"""

import math
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ibis
from pydantic import BaseModel, ConfigDict

from monitoring import changes, counting, drift_page, topics
from monitoring.counting import Kind, NotComparable, Side
from monitoring.sources import Rows
from monitoring.topics import DERIVED
from retrain import sections

if TYPE_CHECKING:
    import pandas as pd

SALT = "drift"
INPUTS = ("prompt", "prompt_length", "prompt_tokens", *DERIVED)  # the rest is what the champion made of them
SAME_TIME = "same time"  # a side: of the outputs' reference what lies at the window's time of the week
NEARER = "the prompts are nearer to the reference than its own to one another: nothing is new"
REQUIRED = ("prompt", "response")  # their absence is broken logging, whatever the reference has
# compared as numbers by jensenshannon and psi too
NUMBERS = ("prompt_length", "response_length", "latency_ms", "confidence", "prompt_tokens", "completion_tokens", "novelty")

Status = Literal["drift", "no_drift", "not_computable"]
Samples = Mapping[str, Any]  # side -> DataFrame of usable values, null where there is none


class ColumnDrift(BaseModel):
    """value is the distance of `method` (no unit), None where it could not be computed; `reason` says why, or why a value
    above the threshold is no drift."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    column: str
    method: str
    value: float | None
    threshold: float
    status: Status
    reason: str | None = None
    same_time: bool = False  # the reference's rows at the window's time of the week were compared, not all of it

    @property
    def how(self) -> str:
        return f"{self.method}, same time of the week" if self.same_time else self.method


class DriftReport(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    status: Literal["logging_broken", "not_enough_data", "not_computable", "drift", "no_drift"]
    rows: int
    missing: dict[str, float]  # share of missing or blank values, 0 to 1
    broken: list[str] = []  # columns that vanished, each with its alarm in words
    columns: list[ColumnDrift]
    changed: list[changes.Change] = []


def measure(
    reference_inputs: Rows,
    reference_outputs: Rows | None,
    current: Rows,
    *,
    drift: sections.Drift,
    html: Path | None,
    sample: "pd.DataFrame | None" = None,
    same_time: Rows | None = None,
) -> DriftReport:
    """Compare a window's rows with two references, of which the inputs need `request_id, prompt` at least.

    `sample` spares a query where the caller has drawn it: `current.sample(drift.sample, SALT)`. `same_time` are those of the
    outputs' rows that lie at the window's time of the week.
    """
    sources = {"inputs": reference_inputs, "outputs": reference_outputs, "current": current, SAME_TIME: same_time}
    given = {side: rows for side, rows in sources.items() if rows is not None}
    with tempfile.TemporaryDirectory(prefix="retrain-drift-") as scratch:
        return _measure(given, drift, html, sample, Path(scratch))


def _measure(
    sources: Mapping[str, Rows],
    drift: sections.Drift,
    html: Path | None,
    drawn: "pd.DataFrame | None",
    scratch: Path,
) -> DriftReport:
    kinds = {name: kind_of(name, rule) for name, rule in drift.columns.items()}
    asked = {side: _asked(side, kinds, drift) for side in sources}
    sides = _looked(sources, asked, scratch)
    now = sides["current"]
    missing = {name: now.missing(name) for name in now.seen}
    broken = _broken(sides, drift.missing_max) if now.rows else []
    if now.rows < drift.min_rows and not broken:
        return DriftReport(status="not_enough_data", rows=now.rows, missing=missing, columns=[])
    frames = _sampled(sources, drift.sample, drawn)
    samples = {side: _usable(frame, asked[side], sides[side]) for side, frame in frames.items()}
    prompts = topics.Prompts.of(*(_texts(samples[side], "prompt") for side in ("inputs", "current")))
    growth = changes.found(prompts, changes.same_time(*(_asked_at(samples[side]) for side in ("inputs", "current"))))
    _add_derived(kinds, prompts, growth, sides, samples, scratch)
    columns = [_column(name, rule, kinds[name], sides, samples, drift.min_rows) for name, rule in drift.columns.items()]
    report = DriftReport(
        status=_status(columns, broken), rows=now.rows, missing=missing, broken=broken, columns=columns, changed=growth.changes
    )
    if html is not None:
        pairs = {c.column: tuple(samples[key][c.column] for key in _compared(c.column)) for c in columns if c.value is not None}
        drift_page.write(report, kinds, pairs, html)
    return report


def kind_of(name: str, rule: sections.DriftColumn) -> Kind:
    """As what a column is compared: by the method where that leaves no choice, else as params say, else by name."""
    if rule.method == "abs_text_content_drift":
        return "text"
    if rule.method == "TVD" or rule.kind == "category":
        return "category"
    return "number" if rule.method == "wasserstein" or rule.kind == "number" or name in NUMBERS else "category"


def _side(name: str) -> str:
    return "inputs" if name in INPUTS else "outputs"


def _asked(side: str, kinds: Mapping[str, Kind], drift: sections.Drift) -> dict[str, Kind]:
    """The logged columns that are read of a side; the prompt always, and of the window all that must not be missing."""
    if side == SAME_TIME:
        return {name: kind for name, kind in kinds.items() if drift.columns[name].weekly and kind == "category"}
    needed = REQUIRED if side == "current" else ("prompt",) if side == "inputs" else ()
    logged = {name: kind for name, kind in kinds.items() if name not in DERIVED and side in ("current", _side(name))}
    return {**dict.fromkeys(needed, "text"), **logged}


def _looked(sources: Mapping[str, Rows], asked: Mapping[str, Mapping[str, Kind]], scratch: Path) -> dict[str, Side]:
    """Each side's rows, read once; one reference for inputs and outputs is read once for both."""
    found: dict[str, Side] = {}
    for side, rows in sources.items():
        wanted = asked[side]
        if side == "inputs" and _is_shared(sources):
            wanted = {**asked["inputs"], **asked["outputs"]}
        if side == "outputs" and _is_shared(sources):
            found[side] = found["inputs"]
        elif wanted or side != SAME_TIME:
            found[side] = counting.look(rows.expr, wanted, scratch)
    return found


def _is_shared(sources: Mapping[str, Rows]) -> bool:
    return sources.get("outputs") is sources["inputs"]


# --- first: is everything there


def _broken(sides: Mapping[str, Side], most: float) -> list[str]:
    """Alarms in words: a required column with too many missing values, or another with many more than the reference has."""
    now, alarms = sides["current"], []
    for name, seen in now.seen.items():
        share, before = now.missing(name), sides.get(_side(name))
        if seen.why and before and name in before.seen and not before.seen[name].why:
            alarms.append(f"{name}: {seen.why}")
        elif name in REQUIRED and share > most:
            alarms.append(f"{name} is missing or blank in {share:.0%} of the rows (at most {most:.0%}: drift.missing_max)")
        elif name not in REQUIRED and before and before.rows and name in before.seen:
            usual = before.missing(name)
            scatter = 3 * (usual * (1 - usual) * (1 / before.rows + 1 / now.rows)) ** 0.5
            if share - usual > most + scatter:
                alarms.append(f"{name} is missing in {share:.0%} of the rows, in the reference in {usual:.0%}")
    return alarms


# --- the sample


def _sampled(sources: Mapping[str, Rows], n: int, drawn: "pd.DataFrame | None") -> dict[str, "pd.DataFrame"]:
    frames = {} if drawn is None else {"current": drawn}
    for side in ("inputs", "outputs", "current"):
        if side in sources and side not in frames:
            shared = side == "outputs" and _is_shared(sources)
            frames[side] = frames["inputs"] if shared else sources[side].sample(n, SALT)
    return frames


def _usable(frame: "pd.DataFrame", asked: Mapping[str, Kind], side: Side) -> "pd.DataFrame":
    """Usable values of a sample, in the columns that could be read, and when each row came."""
    table = ibis.memtable(frame)
    names = [name for name in asked if not side.seen[name].why]
    values = {f"c{i}": counting.usable(table, name, asked[name]) for i, name in enumerate(names)}
    return table.select(**values, at=table.timestamp).execute().set_axis([*names, "timestamp"], axis=1)


def _texts(sample: "pd.DataFrame", name: str) -> list[str]:
    return sample[name].dropna().tolist() if name in sample else []


def _asked_at(sample: "pd.DataFrame") -> Any:
    """When each of _texts(sample, "prompt") came."""
    return sample.loc[sample["prompt"].notna(), "timestamp"] if "prompt" in sample else sample["timestamp"].head(0)


def _add_derived(
    kinds: Mapping[str, Kind],
    prompts: topics.Prompts,
    growth: changes.Growth,
    sides: dict[str, Side],
    samples: dict[str, Any],
    scratch: Path,
) -> None:
    """What is made of the sample's prompts becomes sides and samples of its own, named like the column."""
    import pandas as pd

    make: dict[str, Callable[[], Any]] = {
        "novelty": lambda: topics.novelty(prompts), "topic": lambda: topics.topics(prompts), "grown": growth.column,
    }  # fmt: skip
    for name in (name for name in DERIVED if name in kinds):
        try:
            values = make[name]()
        except Exception as error:  # one bad column takes no other down
            sides[name] = Side(0, {name: counting.Seen(why=counting.because(error))})
            continue
        for key, found in zip((name, f"{name} now"), values, strict=True):
            samples[key] = pd.DataFrame({name: found})
            sides[key] = counting.look(ibis.memtable(samples[key]), {name: kinds[name]}, scratch)


# --- columns


def _column(
    name: str,
    rule: sections.DriftColumn,
    kind: Kind,
    sides: Mapping[str, Side],
    samples: Samples,
    least: int,
) -> ColumnDrift:
    before, now = _compared(name)
    value, reason, threshold = None, None, rule.threshold
    try:
        if before not in sides:
            raise NotComparable("the champion has no window of its own yet")
        _check(name, sides[before], "reference", least)
        _check(name, sides[now], "window", least)
        if kind == "text":
            value = _text_distance(_texts(samples[before], name), _texts(samples[now], name), least)
        elif name == "grown" and samples[now][name].eq(changes.AS_BEFORE).all():
            value = 0.0  # one value on both sides is a quiet window here, not a log that stands still
        else:
            if rule.weekly and _same_time_tells(name, rule.weekly, sides):
                before, threshold = SAME_TIME, rule.weekly
            value = counting.distance(rule.method, name, kind, sides[before], sides[now])
    except NotComparable as why:
        reason = str(why)
    except Exception as error:  # one bad column takes no other down
        reason = counting.because(error)
    if value is not None and not math.isfinite(value):
        value, reason = None, f"{rule.method} came to {value}"
    status: Status = "not_computable" if value is None else "drift" if value > threshold else "no_drift"
    if status == "drift" and name == "novelty" and _nearer(samples):
        status, reason = "no_drift", NEARER
    return ColumnDrift(
        column=name, method=rule.method, value=value, threshold=threshold, status=status, reason=reason,
        same_time=before == SAME_TIME,
    )  # fmt: skip


def _nearer(samples: Samples) -> bool:
    """Whether the window's prompts lie no farther from the reference than its own do from one another."""
    return bool(samples["novelty now"]["novelty"].mean() <= samples["novelty"]["novelty"].mean())


def _compared(name: str) -> tuple[str, str]:
    """The two sides of a column: the reference's and the window's."""
    return (name, f"{name} now") if name in DERIVED else (_side(name), "current")


def _same_time_tells(name: str, threshold: float, sides: Mapping[str, Side]) -> bool:
    then, now = sides.get(SAME_TIME), sides["current"]
    if then is None or name not in then.seen or then.seen[name].why or not then.seen[name].usable:
        return False
    try:
        return counting.telling(threshold, name, then, now)
    except NotComparable:
        return False


def _check(name: str, side: Side, which: str, least: int) -> None:
    seen = side.seen[name]
    if seen.why:
        raise NotComparable(seen.why)
    if seen.usable < least:
        raise NotComparable(f"{seen.usable} usable values in the {which}, {least} are needed (drift.min_rows)")


def _text_distance(reference: list[str], current: list[str], least: int) -> float:
    """How well a classifier of words tells the two samples apart, by Evidently: 0.5 not at all, 1 always."""
    import pandas as pd
    from evidently.legacy.calculations.stattests import abs_text_content_drift_stat_test as method
    from evidently.legacy.core import ColumnType

    if min(len(reference), len(current)) < least:
        raise NotComparable(f"{min(len(reference), len(current))} texts in the sample, {least} are needed (drift.min_rows)")
    if len({*reference, *current}) == 1:
        raise NotComparable(counting.CONSTANT)
    with warnings.catch_warnings():  # a text classifier that has not converged is still the distance that was asked for
        warnings.filterwarnings("ignore", message="Maximum number of iteration reached")
        return float(method(pd.Series(reference), pd.Series(current), ColumnType.Text, 0.5).drift_score)


def _status(columns: list[ColumnDrift], broken: list[str]) -> Any:
    found = {column.status for column in columns}
    if broken:
        return "logging_broken"
    return next((status for status in ("drift", "no_drift") if status in found), "not_computable")
