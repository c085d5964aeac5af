"""What goes into the gate beside predictions, and what comes out: frozen records that gate, card and registry share."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictBool, ValidationError, model_validator

from retrain.errors import DataError
from retrain.records import Record, read_json

Status = Literal["passed", "failed", "not_evaluated"]
Role = Literal["success", "guardrail", "deterioration", "quality"]
Model = TypeVar("Model", bound=BaseModel)
Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]


class Whole(Record):
    def as_dict(self) -> dict[str, Any]:
        """JSON-ready with `schema` first; nulls are kept, for "not told" must be seen."""
        data = self.model_dump(mode="json")
        return {"schema": data.pop("schema_"), **data}


class ChampionState(Whole):
    """champion/<adapter>.json: what serves, why this retraining runs, and how often its audit file was read before."""

    adapter: str
    purpose: str  # first | improve | replace; the gate, not the reader, refuses another word
    version: int | None
    digest: str | None
    attempts: tuple[str, ...]  # digests of the candidates that this same audit file has judged before
    audit: str | None
    metric: str = "right"  # of the anchors
    anchors: dict[str, dict[str, StrictBool | Score]] = {}  # suite -> row -> score of the champion that served when it entered
    rebaselined: tuple[str, ...] = ()  # when a person accepted the losses until then, and why: the ledger's lines
    changes: int = 0  # of the suites, made before the champion was judged: the card tells those made since

    @model_validator(mode="after")
    def _anchors_are_of_the_metric(self) -> Self:
        told = [anchor for rows in self.anchors.values() for anchor in rows.values()]
        if self.metric == "right" and not all(isinstance(anchor, bool) for anchor in told):
            raise ValueError("anchors of the metric right must be true or false")
        return self

    def earlier(self, candidate: Any) -> int:
        """Other candidates that the audit file has judged: the same bytes again are the same attempt."""
        return len(set(self.attempts) - {candidate})


class Served(Whole):
    """out/<adapter>/serves.json: what a candidate answered as it will serve, beside what was judged. No text of users."""

    adapter: str
    candidate: str  # sha256 of its manifest
    predictions: str  # ... and of the file that the answers were compared with
    backend: str
    on: str  # device and precision, such as `cpu fp32`
    evaluated_on: str | None  # the same of the evaluation; None where it did not say
    asked: Annotated[int, Field(ge=0, strict=True)]
    equal: Annotated[int, Field(ge=0, strict=True)]
    tied: tuple[str, ...]  # `suite id` of rows with another answer, which rounding explains
    differing: tuple[str, ...]  # ... and which it does not
    refused: tuple[str, ...]  # ... and of questions that the door does not take
    why: str | None  # it cannot be loaded, and why; then nothing was asked

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        others = len(self.tied) + len(self.differing) + len(self.refused)
        if self.equal + others != self.asked:
            raise ValueError(f"{self.equal} equal and {others} other answers are not the {self.asked} asked")
        return self


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Check(Frozen):
    """One line of a verdict. Scores are shares of n rows, `difference` is candidate minus reference, with an interval
    that leaves `level` on each side; `passed` is None where it could not be told."""

    name: str
    role: Role
    suite: str | None = None
    slice: str | None = None
    metric: str = "right"
    candidate: FiniteFloat | None = None
    champion: FiniteFloat | None = None
    base: FiniteFloat | None = None
    anchor: FiniteFloat | None = None  # those that served when the rows entered the suite
    n: int | None = None
    won: int | None = None  # rows that only the candidate, and only the reference, got right
    lost: int | None = None
    difference: FiniteFloat | None = None
    interval: tuple[FiniteFloat, FiniteFloat] | None = None
    p: FiniteFloat | None = None
    level: FiniteFloat | None = None
    allowed: FiniteFloat | None = None  # guardrails: the largest measured loss that would have passed
    threshold: FiniteFloat | None = None
    passed: bool | None
    why: str
    shared: str = Field(default="", exclude=True)  # for the card alone: it quotes words of users, and a verdict is in git


class Harm(Frozen):
    """What a failed guardrail or slice lost under one label: rows lost and won back, of n that were compared.

    `rows` are ids in the predictions: a verdict is in git, and what users wrote is not.
    """

    suite: str
    label: str
    lost: int
    won: int
    n: int
    rows: tuple[str, ...] = ()


class Verdict(Whole):
    """The gate's answer. `promote` holds exactly where every check that the purpose needs has passed."""

    adapter: str
    purpose: str
    promote: bool
    status: Status
    checks: tuple[Check, ...]
    excluded: dict[str, dict[str, int]]  # suite -> reason -> rows left out for all arms
    bound: dict[str, Any]
    harmed: tuple[Harm, ...] = ()

    @model_validator(mode="after")
    def _follows_from_checks(self) -> Self:
        found = status_of(self.checks)
        if self.status != found or self.promote != (found == "passed"):
            raise ValueError(f"status {self.status}, promote {self.promote} do not follow from the checks, which say {found}")
        return self

    def check(self, name: str, suite: str | None = None) -> Check | None:
        """The first check of that name (and suite)."""
        return next((c for c in self.checks if c.name == name and suite in (None, c.suite)), None)


def status_of(checks: tuple[Check, ...]) -> Status:
    """failed before not_evaluated before passed; no check at all tells nothing."""
    if any(check.passed is False for check in checks):
        return "failed"
    if not checks or any(check.passed is None for check in checks):
        return "not_evaluated"
    return "passed"


def read_verdict(path: Path) -> Verdict:
    return _read(path, Verdict, "run `dvc repro` again: a verdict is never edited")


def parse_verdict(text: str, where: str) -> Verdict:
    """The verdict of a text that is at hand, such as `git show REV:out/<adapter>/verdict.json`."""
    return _model(lambda: Verdict.model_validate_json(text), where, "a verdict is never edited: restore it")


def read_state(path: Path) -> ChampionState:
    return _read(path, ChampionState, "restore it from git: `retrain` writes it when a retraining starts")


def _read(path: Path, model: type[Model], fix: str) -> Model:
    return _model(lambda: model.model_validate(read_json(path)), path, fix)


def _model(made: Callable[[], Model], path: Path | str, fix: str) -> Model:
    try:
        return made()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(f"{path} {where}: {first['msg'].removeprefix('Value error, ')}; {fix}") from error
