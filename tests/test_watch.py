"""Jobs on recorded windows: late rows and labels, missed windows, and what a window is compared with. Real git, DVC, MLflow."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from monitoring import failures
from monitoring.trigger import WindowRecord
from monitoring.windows import Window, following
from retrain import founding, ledger, measure, story, watch
from retrain.edits import set_values
from retrain.process import git
from retrain.records import stamp, write_jsonl
from retrain.registry import Registry
from retrain.workspace import Workspace

DAY = timedelta(days=1)
FIRST = Window(datetime(2026, 3, 2, tzinfo=UTC), datetime(2026, 3, 3, tzinfo=UTC))


def rows(window: Window, n: int, name: str = "r", **fields: Any) -> list[dict[str, Any]]:
    step = window.length / (n + 1)
    return [
        {
            "request_id": f"{name}-{stamp(window.start)}-{i}", "timestamp": (window.start + step * (i + 1)).isoformat(),
            "adapter": "support", "model_version": "support-v1", "prompt": f"where is my parcel number {i}", "response": "a",
            "latency_ms": 100.0 + i % 7, **fields,
        }
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace of the shipped `support` adapter without a champion."""
    return founding.init(tmp_path_factory.mktemp("watch") / "space", files=story.shipped().files)


def send(space: Workspace, name: str, sent: list[dict[str, Any]]) -> None:
    path = space.root / "logs" / "support" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, sent)


def recorded(space: Workspace) -> list[WindowRecord]:
    found = Registry.open(space.params.mlflow, space.root).windows("support", 50)
    return [WindowRecord.model_validate(row) for row in found]


def test_late_rows_are_counted_and_their_own_window_is_measured_again(made: Workspace) -> None:
    second = following(FIRST)
    send(made, "first", rows(FIRST, 150))
    before = watch.monitor(made, "support", FIRST).record
    send(made, "late", rows(FIRST, 30, "late"))
    send(made, "second", rows(second, 120))
    seen = watch.monitor(made, "support", second).record
    assert (before.rows, seen.rows, seen.counts["late"]) == (150, 120, 30)
    counts = seen.counts
    assert counts["read"] == 300 == sum(counts[k] for k in ("used", "duplicates", "quarantined", "late", "outside"))
    first = recorded(made)[0]
    assert (first.rows, first.remeasured, first.fire, first.reasons) == (180, True, before.fire, before.reasons)
    again = watch.monitor(made, "support", second).record
    assert again.counts["late"] == 0 and not again.remeasured


def test_missed_windows_are_pending_once_and_in_order(made: Workspace) -> None:
    last = recorded(made)[-1]
    end = datetime.strptime(last.end, "%Y-%m-%dT%H-%M-%SZ").replace(tzinfo=UTC)
    now = Window(end + 2 * DAY, end + 3 * DAY)
    assert watch.pending(made, "support", now) == [Window(end + i * DAY, end + (i + 1) * DAY) for i in range(3)]
    assert watch.pending(made, "support", Window(end - DAY, end)) == [Window(end - DAY, end)]  # an old one stands alone
    odd = Window(end + timedelta(hours=5), end + timedelta(hours=29))
    assert watch.pending(made, "support", odd) == [odd]
    far = Window(end + 900 * DAY, end + 901 * DAY)
    assert len(watch.pending(made, "support", far)) == watch.MOST_MISSED + 1


def site(made: Workspace, past: list[WindowRecord], attempt_end: datetime, version: int = 2) -> measure.Site:
    """A site whose ledger and recorded windows are made up."""
    tried = ledger.Attempt.model_construct(end=stamp(attempt_end), digest="d" * 64, status="passed")
    champion = ledger.Promotion.model_construct(adapter="support", version=version, digest="d" * 64)
    state = ledger.LedgerState(champion=champion, previous=None, versions={}, attempts=(tried,))
    opened = measure.Site.open(made, "support")
    return measure.Site(
        workspace=made, adapter="support", params=opened.params, logs=opened.logs, state=state, registry=opened.registry,
        past=past, now=datetime.now(UTC),
    )  # fmt: skip


def record(window: Window, version: int, violations: list[str], drift: str = "no_drift", **fields: Any) -> WindowRecord:
    return WindowRecord(
        adapter="support", start=stamp(window.start), end=stamp(window.end), rows=150, drift_status=drift, drifted=[],
        audited=0, violations=violations, version=version, fire=False, reasons=[], **fields,
    )  # fmt: skip


def test_the_reference_is_what_led_to_the_retraining_and_then_the_champions_own_quiet_windows(made: Workspace) -> None:
    days = [Window(FIRST.start + i * DAY, FIRST.end + i * DAY) for i in range(9)]
    for i, day in enumerate(days):
        send(made, f"day {i}", rows(day, 120, f"day{i}"))
    drifted = [record(day, 1, ["drift: x"], "drift") for day in days[1:3]]
    quiet = [record(day, 2, []) for day in days[3:5]]
    bad = [record(day, 2, ["drift: x"], "drift") for day in days[5:7]]
    known = site(made, [record(days[0], 1, []), *drifted, *quiet, *bad], days[2].end)
    times = known.inputs(days[7]).frame()["timestamp"]
    assert (times.min() >= days[1].start, times.max() < days[4].end) == (True, True)
    assert times.max() >= days[4].start
    own = known.outputs(days[7])
    assert own is None  # no row was answered by v2
    assert [r.start for r in known._own(days[7])] == [stamp(day.start) for day in days[3:5]]


def test_before_there_is_traffic_the_reference_is_what_judges_as_the_remote_has_it(made: Workspace) -> None:
    send(made, "few", rows(FIRST, 5, "few"))
    there, away = made.root / "data" / "suites", made.root / "away"
    rows_there = measure.Site.open(made, "support").inputs(FIRST).frame()
    there.rename(away)
    try:
        rows_away = measure.Site.open(made, "support").inputs(FIRST).frame()
    finally:
        away.rename(there)
    assert len(rows_there) == 400 and set(rows_away["prompt"]) == set(rows_there["prompt"])


def test_a_question_that_a_verdict_has_read_is_not_unread_when_it_is_asked_again(made: Workspace) -> None:
    last = Window(FIRST.start + 20 * DAY, FIRST.end + 20 * DAY)
    for name, window, n in (("read", following(last), 60), ("again", following(following(last)), 90)):
        known_at = {"audit_label": "order_status", "feedback_at": (window.end - timedelta(hours=1)).isoformat()}
        send(made, name, rows(window, n, name, **known_at))
    end, judged = following(following(last)).end, following(last).end
    known = site(made, [], judged)
    asked = failures.audited(known.logs.known(end, judged), audit_rate=known.params.failures.audit_rate)
    unread = watch._unread(known, known.logs.known(end, judged))
    before = failures.audited(known.logs.known(judged), audit_rate=known.params.failures.audit_rate)
    assert 0 < len(unread) < len(asked)
    assert {row.id for row in unread} == {row.id for row in asked} - {row.id for row in before}


def test_shares_are_compared_with_the_counts_of_the_champions_first_windows(made: Workspace) -> None:
    days = [Window(FIRST.start + i * DAY, FIRST.end + i * DAY) for i in range(4)]
    first = [
        record(day, 2, [], accuracy=0.9, satisfaction=0.8).model_copy(update={"audited": 100, "feedback": 50})
        for day in days[:2]
    ]
    unknown = record(days[2], 2, [], accuracy=0.1, known=False).model_copy(update={"audited": 100})
    known = site(made, [*first, unknown], days[0].start)
    from monitoring import quality

    now = quality.Quality.model_construct(right=70, audited=100, satisfied=0, feedback=0, known=True)
    (found,) = known.compared(days[3], now)
    assert (found.signal, found.good, found.n, found.reference_good, found.reference_n) == ("accuracy", 70, 100, 180, 200)
    assert known.compared(days[3], now.model_copy(update={"known": False})) == []


def test_a_window_is_measured_by_the_params_of_the_remote_and_an_edit_that_nobody_pushed_is_said(
    made: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    day = Window(FIRST.start + 40 * DAY, FIRST.end + 40 * DAY)
    send(made, "of the remote", rows(day, 120, "remote"))
    set_values(made.root / "params.yaml", ["drift.min_rows=5000", "trigger.min_new=7"])
    edited = Workspace.open(made.root)
    record = watch.monitor(edited, "support", day).record
    assert record.drift_status != "not_enough_data" and record.policy["min_new"] == 80
    assert "params.yaml here has changes that" in capsys.readouterr().err
    with edited.clone("test") as clone:
        set_values(clone.root / "params.yaml", ["drift.min_rows=5000"])
        clone.commit(["params.yaml"], "more rows")
        clone.publish(lambda c: None, tries=1)
    git(made.root, "checkout", "--quiet", "params.yaml")  # now the checkout is behind, and has changed nothing
    assert watch.monitor(Workspace.open(made.root), "support", day).record.drift_status == "not_enough_data"
    assert "params.yaml here" not in capsys.readouterr().err
