"""PURE: windows, ledger lines and collections -> the story of an adapter in words, and one sentence on how it is doing.

Windows lie in event time; a ledger line has only the instant at which it was written. That is its place, unless it lies long
after the newest window (a demo, a replay of the past): then its place is the newest window known when it was written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from monitoring.chronicle import OUTPUTS, Chronicle, Event, Seen, Summary, count, day, moment, percent, when
from monitoring.judge import Judged
from retrain import ledger
from retrain.records import from_stamp, parse_time

LATE = 2.0  # window lengths after the newest window from which on a ledger line is not beside the windows any more
SLICES = 8  # the largest ones; the others are in the window's record
MOVES = (ledger.Promotion, ledger.Rollback)
WINDOWS = {
    "fire": "Fire: a retraining is due",
    "concern": "Hold, with something wrong",
    "quiet": "Quiet window",
    "untold": "Nothing could be told",
}
VERDICTS = {
    "passed": "A candidate passed the gate",
    "failed": "A candidate was refused",
    "not_evaluated": "A candidate could not be judged",
}


def chronicle(
    adapter: str,
    *,
    windows: Sequence[Seen],
    entries: Sequence[ledger.Entry],
    collections: Sequence[Event] = (),
    hours: float,
) -> Chronicle:
    """hours: the length of a window. Pure: the same records give the same chronicle."""
    state = ledger.state(entries)
    places = _places(windows, entries, timedelta(hours=hours))
    events = [*map(_window_event, windows), *collections, *_ledger_events(entries, places)]
    events.sort(key=lambda event: event.at)  # stable: of one instant the window first, then what was done about it
    results = {status: sum(a.status == status for a in state.attempts) for status in ("passed", "failed", "not_evaluated")}
    results["promoted"] = sum(entry.kind == "promotion" for entry in entries)
    results["rolled_back"] = sum(entry.kind == "rollback" for entry in entries)
    moves = tuple((place, e.version) for place, e in zip(places, entries, strict=True) if isinstance(e, MOVES))
    summary = summarize(adapter, windows, entries, places)
    return Chronicle(adapter, summary, tuple(windows), tuple(events), moves, state.champion, results)


# --- places on the timeline


def _places(windows: Sequence[Seen], entries: Sequence[ledger.Entry], hours: timedelta) -> list[datetime]:
    """Where each ledger line lies in event time; lines never change their order."""
    places: list[datetime] = []
    tried = None
    last = windows[-1].end + LATE * hours if windows else None
    for entry in entries:
        place = at = parse_time(entry.at)
        if isinstance(entry, ledger.Attempt):
            place = tried = from_stamp(entry.end)
        elif last and at > last:
            measured = [w.end for w in windows if w.run and w.run.started <= at.timestamp() * 1000]
            place = max([*measured, *([tried] if tried else [])], default=at)
        places.append(max([place, *places[-1:]]))
    return places


# --- events


def _window_event(window: Seen) -> Event:
    record = window.record
    kind = "fire" if record["fire"] else "concern" if record["violations"] else "quiet" if window.told else "untold"
    title = "Logging is broken" if record["drift_status"] == "logging_broken" else WINDOWS[kind]
    marks = [word for word in ("remeasured", "backfill") if record.get(word)]
    return Event(
        at=window.end, kind=kind, key=f"w-{window.key}", title=title + (f" ({', '.join(marks)})" if marks else ""),
        lines=(*_wrong_lines(window), *(text for text in record["reasons"] if text not in record["violations"])),
        facts=window_facts(window), window=window,
    )  # fmt: skip


def _wrong_lines(window: Seen) -> list[str]:
    changed = [str(change["words"]) for change in window.record.get("changed") or [] if change.get("words")]
    return [*window.record["violations"], *(f"new in the traffic: {words}" for words in changed)]


def window_facts(window: Seen) -> tuple[tuple[str, str], ...]:
    record = window.record
    found = [("messages", f"{record['rows']:,}")]
    if window.accuracy is not None:
        low, high = window.interval or (None, None)
        found.append(("right", f"{percent(window.accuracy)} of {count(record['audited'], 'checked message')}"))
        found.append(("likely between", f"{percent(low)} and {percent(high)}"))
    elif not record.get("known", True):
        found.append(("right", "not yet known: its labels are too young"))
    if record.get("estimated_accuracy") is not None:
        found.append(("right, estimated without labels", percent(record["estimated_accuracy"])))
    if record.get("judge"):
        found.append(("right, by the LLM judge", Judged.model_validate(record["judge"]).words()))
    if window.satisfaction is not None:
        found.append(("satisfied", percent(window.satisfaction)))
    if record.get("invalid") is not None:
        found.append(("invalid, refused or cut off", percent(record["invalid"])))
    if record.get("relevance") is not None:
        found.append(("likeness of question and answer", f"{record['relevance']:.2f} (mean cosine)"))
    if record.get("latency_p50") is not None:
        found.append(("seconds to answer, middle and slow", _seconds(record)))
    slices = sorted((record.get("slices") or {}).items(), key=lambda item: -item[1].get("rows", 0))
    for name, told in slices[:SLICES]:
        found.append(
            (name, f"{told.get('rows', 0):,} messages, {told.get('right', 0)} of {told.get('audited', 0)} checked right")
        )
    for name, n in (record.get("counts") or {}).items():
        found.append((f"rows {name}", f"{n:,}"))
    found.append(("served by", f"v{record['version']}" if record.get("version") else "no champion"))
    return tuple(found)


def _seconds(record: Mapping[str, Any]) -> str:
    slow = record.get("latency_p95")
    return f"{record['latency_p50'] / 1000:.2f}" + ("" if slow is None else f" and {slow / 1000:.2f}")


def _ledger_events(entries: Sequence[ledger.Entry], places: Sequence[datetime]) -> list[Event]:
    """One event a line, but labels admitted one after the other are one."""
    events: list[Event] = []
    for n, (entry, at) in enumerate(zip(entries, places, strict=True)):
        event = _ledger_event(entry, at, f"l-{n + 1}")
        if events and events[-1].kind == event.kind == "labels":
            lines = (*events[-1].lines, *event.lines)
            event = replace(events.pop(), title=f"{len(lines)} labels admitted", lines=lines)
        events.append(event)
    return events


def _ledger_event(entry: ledger.Entry, at: datetime, key: str) -> Event:
    if isinstance(entry, ledger.Attempt):
        audit = moment(from_stamp(entry.audit)) if entry.audit else "no audit file"
        facts = [("purpose", entry.purpose), ("data up to", moment(from_stamp(entry.end))), ("judged on rows up to", audit)]
        facts += [("dataset", entry.dataset[:12]), ("bytes", entry.digest[:12])]
        bound: dict[str, Any] = {"facts": tuple(facts), "digest": entry.digest, "commit": entry.commit}
        return Event(at, entry.status, key, VERDICTS[entry.status], (entry.why,), **bound)
    written = ("written", moment(parse_time(entry.at)))
    if isinstance(entry, ledger.Promotion):
        lines = [f"It replaces v{entry.replaces}." if entry.replaces else "It is the first champion."]
        lines += [f"A person forced it past the gate: {entry.reason}."] if entry.forced else []
        facts = [written, ("bytes", entry.digest[:12]), ("git tag", entry.tag)]
        bound = {"facts": tuple(facts), "digest": entry.digest, "commit": entry.commit}
        return Event(at, "promotion", key, f"{entry.tag} serves", tuple(lines), **bound)
    if isinstance(entry, ledger.Rollback):
        way = "Forward again" if entry.version > entry.from_version else "Back"
        title = f"{way} from v{entry.from_version} to v{entry.version}"
        facts = [written, ("bytes", entry.digest[:12])]
        return Event(at, "rollback", key, title, (entry.reason,), facts=tuple(facts), digest=entry.digest)
    if isinstance(entry, ledger.Rollout):
        words, kind = entry.told().removesuffix(f": {entry.why}"), "rollback" if entry.outcome else "release"
        facts = [written, ("bytes", entry.digest[:12]), ("for at least", f"{entry.hours:g} hours")]
        return Event(at, kind, key, _capital(words), (entry.why,), facts=tuple(facts))
    if isinstance(entry, ledger.Release):
        return Event(at, "release", key, "A row released from quarantine", (entry.reason,), facts=(written, ("row", entry.id)))
    if isinstance(entry, ledger.Approval):
        return Event(at, "dataset", key, f"Synthetic rows approved: recipe {entry.recipe}", (entry.reason,), facts=(written,))
    if isinstance(entry, ledger.Suite):
        return Event(at, "dataset", key, f"Suites changed: {ledger.changed(entry)}", (entry.reason,), facts=(written,))
    if isinstance(entry, ledger.Erasure):
        return Event(at, "dataset", key, ledger.erased(entry), (entry.reason,), facts=(written,))
    if not isinstance(entry, ledger.Label):
        return Event(at, "release", key, _capital(entry.told()), facts=(written,))
    words = f"{entry.label} ({count(entry.rows, 'row')} of users who needed it)"
    return Event(at, "labels", key, "1 label admitted", (words,), facts=(written,))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# --- the sentence


def summarize(adapter: str, windows: Sequence[Seen], entries: Sequence[ledger.Entry], places: Sequence[datetime]) -> Summary:
    state = ledger.state(entries)
    newest = windows[-1] if windows else None
    if state.champion is None:
        lead = state.attempts[-1].why if state.attempts else "Nothing has been trained yet."
        return Summary("unknown", f"{adapter} has no champion yet, so nothing serves.", lead)
    after = [entry for entry, at in zip(entries, places, strict=True) if newest is None or at >= newest.end]
    moved = [entry for entry in after if isinstance(entry, MOVES)]
    tag = state.champion.tag
    if newest is None:
        return Summary("unknown", f"{tag} serves; no window of its traffic has been measured yet.", _last_move(entries))
    if moved and moved[-1].kind == "promotion":
        return Summary("unknown", f"{adapter} was renewed: {tag} serves now, and its own traffic is still to be measured.",
                       _since(newest))  # fmt: skip
    if moved and isinstance(moved[-1], ledger.Rollback):
        return Summary("warn", f"{adapter} was put back to {tag}: {moved[-1].reason}.", _since(newest))
    refused = [e for e in after if isinstance(e, ledger.Attempt) and e.status != "passed"]
    if refused:
        verb = "was refused" if refused[-1].status == "failed" else "could not be judged"
        return Summary("warn", f"A new candidate for {adapter} {verb}, and {tag} keeps serving.", refused[-1].why)
    return _by_window(adapter, tag, newest)


def _by_window(adapter: str, tag: str, newest: Seen) -> Summary:
    record = newest.record
    lead = _since(newest)
    if record["drift_status"] == "logging_broken":
        return Summary("warn", f"How {adapter} is doing cannot be told: its log lacks prompts or answers.", lead)
    if record["violations"]:
        wrong = " and ".join(dict.fromkeys(plain(text, newest) for text in record["violations"]))
        if record["fire"]:
            return Summary("bad", f"{adapter} is getting worse and is to be retrained: {wrong}.", lead)
        return Summary("warn", f"{adapter} needs attention: {wrong}.", lead)
    if not newest.told:
        return Summary("unknown", f"{tag} serves, but its newest window holds too little to tell how it is doing.", lead)
    right = "" if newest.accuracy is None else f"it gets {percent(newest.accuracy)} of the checked messages right, and "
    return Summary("good", f"{adapter} is doing well: {right}users ask for what it was trained on.", lead)


def plain(violation: str, window: Seen) -> str:
    """A violation in words that need no training: `drift: topic 0.31 > 0.20 (...)` says what moved, not how far."""
    kind, _, rest = violation.partition(": ")
    if kind != "drift":
        return violation.partition(", ")[0]
    names = {text.split(" ")[0] for text in rest.split(", ")}
    if names <= set(OUTPUTS):
        return "its answers are not what they were"
    new = sorted(window.record.get("new_labels") or {})
    arrived = f" ({', '.join(new[:3])}{' and more' if len(new) > 3 else ''} arrived)" if new else ""
    return f"users ask for things it was not trained on{arrived}"


def _since(newest: Seen) -> str:
    """The newest window in one line."""
    record = newest.record
    parts = [f"Newest window: {when(newest.start, newest.end)}, {count(record['rows'], 'message')}"]
    if newest.accuracy is not None and newest.interval:
        low, high = newest.interval
        parts.append(f"{percent(newest.accuracy)} right (likely {percent(low)} to {percent(high)})")
    if newest.satisfaction is not None:
        parts.append(f"{percent(newest.satisfaction)} satisfied")
    return ", ".join(parts) + "."


def _last_move(entries: Sequence[ledger.Entry]) -> str:
    moves = [entry for entry in entries if isinstance(entry, MOVES)]
    return f"It serves since {day(parse_time(moves[-1].at))}."
