"""The kinds of lines that a ledger holds, each with what it says in words; `ledger` reads, appends and adds them up."""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from retrain.errors import ParamsError
from retrain.records import Record
from retrain.scrub import Scrubber
from retrain.scrub_rules import Scrub
from retrain.text import is_text

MOST_REASON = 500  # characters

Purpose = Literal["first", "improve", "replace"]
Status = Literal["passed", "failed", "not_evaluated"]


class Line(Record):
    """One line; `at` is an ISO 8601 instant in UTC."""

    at: str
    adapter: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, `schema` first, nulls kept: "no champion" is said, not left out."""
        data = self.model_dump(mode="json")
        return {"schema": data.pop("schema_"), **data}

    def told(self) -> str:
        """The line in words, without its time."""
        raise NotImplementedError


class Attempt(Line):
    """A candidate put before the gate, refused ones too."""

    kind: Literal["attempt"] = "attempt"
    purpose: Purpose
    end: str  # stamp of the collection it was trained at
    commit: str  # of the dvc.lock that reproduces it
    digest: str  # sha256 of the adapter's manifest.json
    status: Status
    promote: bool
    dataset: str
    audit: str | None  # stamp of the audit file that the verdict read
    champion: str | None  # digest of the champion it was judged against; null: none served, so the base was
    base_digest: str | None = None  # of the base model's weights
    cost: dict[str, float] = {}  # of its training: device_seconds, tokens, peak_bytes, joules; {} where none ran
    why: str

    def told(self) -> str:
        return f"attempt at {self.end}: {self.status}: {self.why}"


class Decision(Line):
    """What a person said about a candidate that passed the gate; `by` is whom the place told, where it tells."""

    kind: Literal["decision"] = "decision"
    digest: str
    approved: bool
    via: Literal["airflow", "mlflow"]
    by: str | None
    reason: str

    def told(self) -> str:
        who = f" by {self.by}" if self.by else ""
        return f"{self.digest[:12]} {'approved' if self.approved else 'rejected'}{who} in {self.via}: {self.reason}"


class Promotion(Line):
    """forced: a person put it past the gate, for this reason; that is never taken away again."""

    kind: Literal["promotion"] = "promotion"
    version: int = Field(ge=1)
    digest: str
    commit: str
    tag: str
    replaces: int | None  # the version that served until now
    forced: bool = False
    reason: str | None = None

    def told(self) -> str:
        place = f", in place of v{self.replaces}" if self.replaces else ""
        return f"promoted {self.tag}{place}" + (f", FORCED past the gate: {self.reason}" if self.forced else "")


class Rollback(Line):
    kind: Literal["rollback"] = "rollback"
    from_version: int
    version: int
    digest: str
    reason: str

    def told(self) -> str:
        return f"from v{self.from_version} to v{self.version}: {self.reason}"


class Restored(Line):
    """MLflow had lost a version or its bytes: they are registered again, under the next number that MLflow gives."""

    kind: Literal["restored"] = "restored"
    version: int
    number: int = Field(ge=1)  # MLflow's; the version keeps its name, for its bytes are the same
    digest: str
    reason: str

    def told(self) -> str:
        return f"v{self.version} registered again as MLflow's version {self.number}: {self.reason}"


class Watch(Line):
    """How the watch after a promotion ended; `end` is the stamp of the window that ended it."""

    kind: Literal["watch"] = "watch"
    version: int
    against: int  # the version that it replaced and was compared with
    outcome: Literal["kept", "harmed", "inconclusive"]
    end: str
    rows: int = Field(ge=0)  # audited rows that both were asked
    lost: int = Field(ge=0)
    won: int = Field(ge=0)
    why: str

    def told(self) -> str:
        return f"watch of v{self.version} after its promotion: {self.outcome}: {self.why}"


class Rollout(Line):
    """One step of a challenger beside the champion; the newest line says how it stands.

    weight: of 100 users or conversations, how many the challenger answers; 0: a copy of the traffic, shown to nobody. hours:
    the soak time of the step. passed: every step was a success. outcome: of `ended` alone; failed and withdrawn take the
    candidate out of the running, expired does not, for nobody knows.
    """

    kind: Literal["rollout"] = "rollout"
    action: Literal["begun", "stepped", "paused", "resumed", "passed", "ended"]
    version: int = Field(ge=1)
    digest: str
    commit: str
    against: int  # the version that serves
    step: int = Field(ge=0)
    weight: int = Field(ge=0, le=99)
    hours: float
    outcome: Literal["failed", "expired", "withdrawn"] | None = None
    why: str

    @property
    def tag(self) -> str:
        return f"{self.adapter}-v{self.version}"

    @property
    def key(self) -> str:
        """What the log rows of this step carry."""
        return f"{self.tag}/{self.step}"

    def promotion(self) -> "Promotion":
        """The line that would make it champion: what fetches and verifies versions takes one."""
        return Promotion(
            at=self.at, adapter=self.adapter, version=self.version, digest=self.digest, commit=self.commit, tag=self.tag,
            replaces=self.against,
        )  # fmt: skip

    def share(self) -> str:
        return f"{self.weight} % of the traffic" if self.weight else "a copy of the traffic"

    def told(self) -> str:
        words = {
            "begun": f"begun against v{self.against}, on {self.share()}", "stepped": f"goes on with {self.share()}",
            "passed": "passed all its steps", "ended": f"ended, {self.outcome}",
        }  # fmt: skip
        return f"rollout of {self.tag} {words.get(self.action, self.action)}: {self.why}"


class Pause(Line):
    """Promotions wait, until a time (ISO 8601) or until somebody resumes them."""

    kind: Literal["pause"] = "pause"
    until: str | None
    reason: str

    def told(self) -> str:
        return f"promotions paused {f'until {self.until}' if self.until else 'until resumed'}: {self.reason}"


class Resume(Line):
    kind: Literal["resume"] = "resume"
    reason: str

    def told(self) -> str:
        return f"promotions resumed: {self.reason}"


class Label(Line):
    """A label that a person admitted; a record only: params.yaml is what configures."""

    kind: Literal["label"] = "label"
    label: str
    rows: int = Field(ge=0)

    def told(self) -> str:
        return f"label admitted: {self.label} ({self.rows} rows)"


class Release(Line):
    """A quarantined row that a person let go: the next collection takes it."""

    kind: Literal["release"] = "release"
    id: str  # of the record in data/quarantine/<adapter>/
    reason: str

    def told(self) -> str:
        return f"released from quarantine: {self.id}: {self.reason}"


class Suite(Line):
    """Rows of the suites changed by a person: the suites' own file has them, this line is the record that they were."""

    kind: Literal["suite"] = "suite"
    change: Literal["add", "relabel", "retire"]
    rows: int = Field(ge=1)
    reason: str

    def told(self) -> str:
        return f"suites changed: {changed(self)}: {self.reason}"


class Rebaseline(Line):
    """golden and retained are held against what served then, no longer against those that served when their rows entered."""

    kind: Literal["rebaseline"] = "rebaseline"
    version: int
    digest: str
    reason: str

    def told(self) -> str:
        return f"REBASELINED: small losses add up anew from v{self.version} on: {self.reason}"


class Approval(Line):
    """Synthetic rows that a person let train; a record only: `approved` in params.yaml is what configures."""

    kind: Literal["approval"] = "approval"
    recipe: str
    reason: str

    def told(self) -> str:
        return f"synthetic rows approved: recipe {self.recipe}: {self.reason}"


class Erasure(Line):
    """Rows of an erased user or request, gone from every dataset version: what used them can no longer be reproduced."""

    kind: Literal["erasure"] = "erasure"
    rows: int = Field(ge=0)
    versions: tuple[int, ...]  # that learned them
    candidates: tuple[str, ...]  # digests of all that learned them, versions or not
    after: str | None  # end of the newest attempt then
    tombstone: str  # first digits of its hash
    reason: str

    def told(self) -> str:
        used = f"v{', v'.join(map(str, self.versions))} used them" if self.versions else "no version used them"
        return f"{erased(self)} ({used}): {self.reason}"


Entry = Annotated[
    Attempt | Decision | Promotion | Rollback | Restored | Watch | Rollout | Pause | Resume
    | Label | Release | Suite | Rebaseline | Approval | Erasure,
    Field(discriminator="kind"),
]  # fmt: skip
ENTRY: TypeAdapter[Entry] = TypeAdapter(Entry)


def reason_of(text: str, why: str, rules: Scrub) -> str:
    """A person's reason on one line, as the ledger keeps it; ParamsError where it is blank, too long, no text or personal."""
    told = " ".join(text.split())
    if not is_text(told):
        raise ParamsError(f"--reason {told[:40]!r} is not UTF-8 text: say {why} in words")
    if not told or len(told) > MOST_REASON:
        raise ParamsError(f"--reason has {len(told)} characters: say in 1 to {MOST_REASON} {why}, the ledger keeps it for ever")
    if found := Scrubber(rules).kinds(told):
        raise ParamsError(
            f"--reason holds what looks like {', '.join(found)}, which the ledger would keep for ever: leave it out"
        )
    return told


def describe(entry: Entry) -> str:
    """One ledger line as a sentence."""
    return f"{entry.at} {entry.told()}"


def changed(entry: Suite) -> str:
    words = {"add": "added to golden", "relabel": "given another answer", "retire": "retired"}
    return f"{entry.rows} row{'s' if entry.rows > 1 else ''} {words[entry.change]}"


def erased(entry: Erasure) -> str:
    return f"{entry.rows} row{'' if entry.rows == 1 else 's'} erased on {entry.at[:10]}, no longer reproducible"
