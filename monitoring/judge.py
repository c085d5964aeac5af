"""An optional LLM judge: the share of right answers in a window as a model sees it, corrected by what people labelled.

One noisy signal that can fail. It is asked about a bounded number of rows, drawn by hash: some that nobody labelled, whose
share of "right" is what is wanted, and some that people did, which tell how often it is mistaken. A reply that cannot be read,
comes too late or not at all is not measured, and never a wrong answer. Its verdicts label nothing: what it calls wrong waits
for a person in the review queue.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from retrain import answers, judging, sections, stats
from retrain.endpoint import Endpoint, Messages, Reply
from retrain.errors import EndpointError, ParamsError
from retrain.params import Adapter

if TYPE_CHECKING:
    import pandas as pd

    from monitoring.sources import Rows

WHERE = "quality.judge"
SALT = "judge"
TEMPLATE = Path(__file__).parent / "templates" / "judge.txt"
PLACES = ("nonce", "task", "question", "answer")
LEAST = 30  # verdicts on rows without a label
LEAST_EACH = 10  # verdicts on rows that people found right, and on rows that they found wrong
MOST_UNREAD = 0.2  # share of the rows that brought no verdict: those which it cannot judge are hardly like the others
ROUNDING = 1e-9  # 0.8 - 0.75 is a little more than 0.05
LEVEL = 0.025  # a side, of the interval; and of the test that it tells right from wrong at all
WORDS = {"right": True, "wrong": False}


class Judged(BaseModel):
    """What the judge said of a window; share, low and high are None where it is not used, and `reason` says why.

    yes of n: rows without a label that it calls right. right_yes of right_n: those among the rows that people found right;
    wrong_yes of wrong_n: among those they found wrong. `by` names model, address, request and template: what is
    comparable. doubted: ids of the requests without a label that it calls wrong.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    by: str
    asked: int = 0
    unread: int = 0  # asked without a verdict
    yes: int = 0
    n: int = 0
    right_yes: int = 0
    right_n: int = 0
    wrong_yes: int = 0
    wrong_n: int = 0
    doubted: tuple[str, ...] = ()
    share: float | None = None  # after Rogan and Gladen; low and high: 95 %, after Lang and Reiczigel
    low: float | None = None
    high: float | None = None
    agreement: float | None = None  # with people, over the labelled rows
    reason: str | None = None

    @property
    def labelled(self) -> int:
        return self.right_n + self.wrong_n

    def corrected(self) -> stats.Corrected:
        """ValueError where the labelled rows do not show that it tells right from wrong."""
        wrong = (self.wrong_yes, self.wrong_n)
        return stats.rogan_gladen((self.yes, self.n), (self.right_yes, self.right_n), wrong, level=LEVEL)

    def words(self) -> str:
        if self.share is None:
            return f"not used: {self.reason}"
        of = f"corrected by {self.labelled} labelled answers, of which it judges {self.agreement:.0%} as people do"
        return f"{self.share:.0%} right (95 % interval {self.low:.0%} to {self.high:.0%}), {of}"


def measure(
    rows: "Rows",
    *,
    judge: sections.Judge,
    read: Callable[[str], str],
    spec: Adapter,
    labels: Sequence[str],
    schema: answers.Schema | None,
    known_before: datetime,
    now: datetime,
) -> Judged:
    """Ask about the rows of a window. read: a file of the workspace by its path, ParamsError where there is none.

    Labels count that were known before `known_before`; until then nobody is asked. Raises nothing that an endpoint, a missing
    key or a template can cause: the window is measured without the judge, and the reason is in the result.
    """
    asker = Judged(model=judge.model, by="")
    try:
        template = template_of(judge.template, read)
        task = judging.task_of(read(spec.prompt), labels, schema)
        asker = asker.model_copy(update={"by": judging.by(judge, template)})
        if now < known_before:
            return _unused(asker, "the labels that would calibrate it are not known yet")
        endpoint = Endpoint(judge, where=WHERE)
    except ParamsError as error:
        return _unused(asker, str(error))
    asked = rows.where(lambda t: t.prompt.notnull())
    labelled = asked.where(lambda t: t.audit_label.notnull() & (t.feedback_at < known_before)).sample(judge.rows, SALT)
    pairs = zip(labelled["response"], labelled["audit_label"], strict=True)
    truth = [answers.right(said or "", label, schema) for said, label in pairs]
    open_ = asked.where(lambda t: t.audit_label.isnull()).sample(judge.rows, SALT)
    if short := _too_few(len(open_), truth.count(True), truth.count(False), "the window has"):
        return _unused(asker, short)
    known = [(row, told) for row, told in zip(_rows(labelled), truth, strict=True) if told is not None]
    both = zip_longest([(row, None) for row in _rows(open_)], known)  # in turns: what ends early lacks some of each
    turns: list[tuple[Mapping[str, Any], bool | None]] = [one for one in chain.from_iterable(both) if one is not None]
    replies = endpoint.ask_all([prompt(template, task=task, row=row) for row, _ in turns], seconds=judge.seconds)
    return calibrated(asker, [(row["request_id"], told) for row, told in turns], replies)


def calibrated(
    asker: Judged, asked: Sequence[tuple[str, bool | None]], replies: Sequence[Reply | EndpointError]
) -> Judged:  # fmt: skip
    """PURE. asked: (request id, what people said of the answer, None where nobody did); replies: the judge's, in that order."""
    read, truth = [_read(reply) for reply in replies], [told for _, told in asked]
    doubted = (request for (request, told), said in zip(asked, read, strict=True) if told is None and said is False)
    counts = Counter(zip(truth, [verdict if isinstance(verdict, bool) else None for verdict in read], strict=True))
    why = Counter(verdict for verdict in read if isinstance(verdict, str))
    found = asker.model_copy(
        update={
            "asked": len(replies), "unread": why.total(), "doubted": tuple(sorted(doubted)),
            "yes": counts[None, True], "n": counts[None, True] + counts[None, False],
            "right_yes": counts[True, True], "right_n": counts[True, True] + counts[True, False],
            "wrong_yes": counts[False, True], "wrong_n": counts[False, True] + counts[False, False],
        }
    )  # fmt: skip
    for told, whose in ((None, "unlabelled"), (True, "labelled right"), (False, "labelled wrong")):
        n, unread = sum(k for (known, _), k in counts.items() if known is told), counts[told, None]
        if unread > MOST_UNREAD * n:  # of each kind: the unlabelled rows alone carry the estimate
            most, times = why.most_common(1)[0]
            said = f"{unread} of {n} {whose} rows brought no verdict, at most {MOST_UNREAD:.0%} may"
            return _unused(found, f"{said}; {times} times: {most}")
    if short := _too_few(found.n, found.right_n, found.wrong_n, "it gave verdicts on"):
        return _unused(found, short)
    return _shared(found)


def pool(judged: Sequence[Judged], by: str) -> Judged | None:
    """Windows of the same judge as one, of those in which it was used; None where there is none."""
    used = [one for one in judged if one.by == by and one.share is not None]
    if not used:
        return None
    names = ("asked", "unread", "yes", "n", "right_yes", "right_n", "wrong_yes", "wrong_n")
    sums = {name: sum(getattr(one, name) for one in used) for name in names}
    return _shared(Judged(model=used[0].model, by=by, **sums))


def doubted(judged: Iterable[Judged | None]) -> frozenset[str]:
    """Requests that the judge calls wrong in those of the windows in which it was shown to tell right from wrong."""
    return frozenset(request for one in judged if one and one.share is not None for request in one.doubted)


def judged_fall(now: Judged | None, before: Judged | None, *, least: float | None, level: float) -> tuple[str, float] | None:
    """(what fell, how rarely chance alone does this) where the share fell by at least `least`, and beyond chance at `level`.

    None where `least` is None: nobody asked that it counts; and where one of the two is not there, or another judge's.
    """
    if least is None or now is None or before is None or now.share is None or before.share is None or now.by != before.by:
        return None
    p = stats.corrected_fall_p(now.corrected(), before.corrected())
    if before.share - now.share < least - ROUNDING or p > level:
        return None
    return f"the judge's share of right answers fell from {before.share:.0%} to {now.share:.0%}", p


def _shared(found: Judged) -> Judged:
    try:
        share = found.corrected()
    except ValueError:
        told = f"it calls {found.right_yes} of {found.right_n} answers right that people found right, and {found.wrong_yes} of "
        return _unused(found, f"{told}{found.wrong_n} that they found wrong: it does not tell them apart")
    agreed = found.right_yes + found.wrong_n - found.wrong_yes
    update = {"share": share.share, "low": share.low, "high": share.high, "agreement": agreed / found.labelled}
    return found.model_copy(update=update)


def _unused(found: Judged, reason: str) -> Judged:
    return found.model_copy(update={"reason": reason})


def _too_few(open_: int, right: int, wrong: int, who: str) -> str | None:
    if right < LEAST_EACH or wrong < LEAST_EACH:
        each = f"{LEAST_EACH} of each are needed to calibrate it"
        return f"{who} {right} answers that people labelled right and {wrong} that they labelled wrong, {each}"
    return f"{who} {open_} answers that nobody labelled, {LEAST} are needed" if open_ < LEAST else None


# --- what it is asked


def template_of(name: str | None, read: Callable[[str], str]) -> str:
    """The text that asks; ParamsError where there is none, or it lacks one of {{nonce}}, {{task}}, {{question}}, {{answer}}."""
    if name is None:
        return TEMPLATE.read_text("utf-8")
    text = read(name)
    missing = [place for place in ("{{" + place + "}}" for place in PLACES) if place not in text]
    if missing:
        raise ParamsError(f"{WHERE}.template: {name} lacks {', '.join(missing)}: see {TEMPLATE} for how each is used")
    return text


def prompt(template: str, *, task: str, row: Mapping[str, Any]) -> Messages:
    """The template with a row in it."""
    return judging.framed(template, task, {"question": row["prompt"], "answer": row["response"] or ""})


def _rows(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    rows = frame[["request_id", "prompt", "response"]].to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows]


# --- what it says


def _read(reply: Reply | EndpointError) -> bool | str:
    """The verdict, else why there is none."""
    told, why = judging.read(reply, WORDS)
    return why if told is None else told


def verdict(text: str) -> bool | None:
    """True for right, False for wrong, None for all else."""
    return WORDS.get(judging.word(text) or "")
