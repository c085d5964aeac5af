"""Sections of params.yaml: the log and its drift, models behind an address, synthesis, promotion; `params` has the others."""

import re
import shlex
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)

from retrain.overrides import nearest


def _words(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"{command!r} is no command line ({error}): close its quotes") from error
    if not words:
        raise ValueError("is empty: write null where trainings run on this machine")
    return command


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is no time zone: give one such as Europe/Berlin, or UTC") from error
    return name


Zone = Annotated[str, AfterValidator(_known_zone)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


SERVED = "logs/.feedback/{adapter}"  # where `retrain serve` keeps what people told it: `logs.feedback: served`


class Feedback(Section):
    uri: str
    columns: dict[str, str]


class Logs(Section):
    uri: str
    preset: Literal["ours", "openai", "otel", "mlflow"]
    timezone: str | None
    columns: dict[str, str]
    feedback: Feedback | Literal["served"] | None


class Window(Section):
    hours: Annotated[float, Field(gt=0)]
    lateness_hours: Annotated[float, Field(ge=0)]
    schedule: str


class DriftColumn(Section):
    """`kind` is for what the method leaves open: a field of the metadata by jensenshannon or psi is a category unless said.

    `weekly` is the threshold against the same time of the reference's week; without it the whole reference is compared.
    """

    method: Literal["abs_text_content_drift", "jensenshannon", "wasserstein", "psi", "TVD"]
    threshold: Annotated[float, Field(gt=0)]
    kind: Literal["number", "category"] | None = None
    weekly: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _kind_fits(self) -> Self:
        only = {"wasserstein": "number", "TVD": "category", "abs_text_content_drift": None}
        if self.kind and self.kind != only.get(self.method, self.kind):
            raise ValueError(f"method {self.method} is not for a {self.kind}: leave kind out, or use jensenshannon or psi")
        if self.weekly and (self.method != "jensenshannon" or self.kind == "number"):
            raise ValueError("weekly is for categories by jensenshannon: leave it out")
        return self


DRIFT_COLUMNS = (
    *("prompt", "response", "prompt_length", "response_length", "novelty", "topic", "grown"),
    *("latency_ms", "confidence", "prompt_tokens", "completion_tokens", "model_version", "adapter"),
)


class Drift(Section):
    min_rows: Positive
    sample: Positive
    missing_max: Share
    columns: dict[str, DriftColumn]

    @model_validator(mode="after")
    def _columns_exist(self) -> Self:
        for name in self.columns:
            if name not in DRIFT_COLUMNS and not re.fullmatch(r"metadata(\.[A-Za-z0-9_-]+)+", name):
                raise ValueError(f"columns.{name} is no column{nearest(name, DRIFT_COLUMNS)}, or metadata.<field>")
        return self


class Endpoint(Section):
    """A model behind chat completions of OpenAI's protocol; `key_env` names the variable that holds its key.

    `extra` goes into each request as it is: temperature, max_tokens, ... `timeout` is seconds for one answer.
    """

    url: str
    model: Annotated[str, StringConstraints(min_length=1)]
    key_env: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    timeout: Annotated[float, Field(gt=0, le=600)]
    retries: Annotated[int, Field(ge=0, le=10)]
    concurrency: Annotated[int, Field(ge=1, le=64)]
    extra: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def _addressed(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("url must be such as https://host/v1: what stands before /chat/completions, and nothing behind it")
        if parts.username or parts.password:
            raise ValueError("url holds a user or password: put the key into a variable and name it in key_env")
        for name in ("model", "messages", "stream"):
            if name in self.extra:
                raise ValueError(f"extra.{name} is not for extra: it is said elsewhere, remove it")
        return self


class Judge(Endpoint):
    """An LLM that says of answers whether they are right: one noisy signal, calibrated on what people labelled."""

    rows: Annotated[int, Field(ge=30, le=2000)]
    seconds: Annotated[float, Field(gt=0)]
    template: str | None = None

    @model_validator(mode="after")
    def _template_is_in_the_workspace(self) -> Self:
        if self.template is not None and (self.template.startswith(("/", "~", "-")) or ".." in Path(self.template).parts):
            raise ValueError(f"template is {self.template!r}, must be a path inside the workspace, such as data/judge.txt")
        return self


class Reverse(Section):
    """The base itself, taught in reverse on the human rows (a text for a label), then sampled."""

    kind: Literal["reverse"]
    epochs: Annotated[int, Field(ge=1, le=50)]
    temperature: Annotated[float, Field(gt=0, le=2)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_new_tokens: Annotated[int, Field(ge=4, le=1024)]
    template: str | None = None


class Asked(Endpoint):
    """A model behind an address that is shown human rows of a label and asked for others."""

    kind: Literal["endpoint"]
    seconds: Annotated[float, Field(gt=0)]
    shots: Annotated[int, Field(ge=1, le=50)]
    template: str | None = None


class Synthesize(Section):
    """Examples that a model writes; each filter rejects what fails it (`synthetic_filters`)."""

    rows: Annotated[int, Field(ge=0, le=10_000)]
    approval: Literal["required", "none"]
    generator: Annotated[Reverse | Asked, Field(discriminator="kind")]
    tries: Annotated[float, Field(ge=1, le=100)]
    near: Annotated[float, Field(gt=0, le=1)]
    agreement: Annotated[float, Field(ge=0, le=1)]
    length: Annotated[float, Field(ge=1)]
    diversity: Annotated[float, Field(ge=0, le=1)]
    max_share: Annotated[float, Field(ge=0, lt=1)]

    @model_validator(mode="after")
    def _template_is_watched(self) -> Self:
        named = self.generator.template
        if named is not None and (not named.startswith("data/prompts/") or ".." in Path(named).parts):
            raise ValueError(f"generator.template is {named!r}, must lie in data/prompts/: dvc.yaml watches that folder")
        return self


def of_the_day(now: datetime, after: int, before: int) -> bool:
    """Whether it is between these hours, which may lie over midnight."""
    if after >= before:
        return now.hour >= after or now.hour < before
    return after <= now.hour < before


class OfficeHours(Section):
    """When promotions may happen: at these hours of these days."""

    after: Annotated[int, Field(ge=0, le=23)]
    before: Annotated[int, Field(ge=0, le=24)]
    timezone: Zone
    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...]

    def closed(self, at: datetime) -> str | None:
        """Why nothing is promoted at this instant, None within the hours."""
        now = at.astimezone(ZoneInfo(self.timezone))
        if DAYS[now.weekday()] in self.days and of_the_day(now, self.after, self.before):
            return None
        when = f"{self.after}:00 and {self.before}:00 on {', '.join(self.days)} ({self.timezone})"
        return f"it is {DAYS[now.weekday()]} {now:%H:%M}, promotions happen between {when} (params.yaml, promotion.hours)"


class Watch(Section):
    """What is looked at after a promotion, and what a loss that is shown brings."""

    windows: Annotated[int, Field(ge=1, le=1000)]
    rows: Annotated[int, Field(ge=1)]
    min_rows: Annotated[int, Field(ge=1)]
    level: Annotated[float, Field(gt=0, lt=0.5)]
    rollback: bool


class Step(Section):
    """weight: of 100 users or conversations, how many the challenger answers; 0: a copy. hours: the soak time."""

    weight: Annotated[int, Field(ge=0, le=99)]
    hours: Annotated[float, Field(ge=0, le=24 * 90)]


class Faults(Section):
    """How much larger the challenger's share of requests with a fault may be than the champion's at the same time."""

    failed: Annotated[float, Field(gt=0, lt=1)]
    invalid: Annotated[float, Field(gt=0, lt=1)]
    slow: Annotated[float, Field(gt=0, lt=1)]


class Rollout(Section):
    """How a challenger earns its place beside the champion; without steps it serves at once."""

    steps: tuple[Step, ...]
    sticky: Literal["conversation", "user"]
    min_requests: Annotated[int, Field(ge=1)]
    min_labels: Annotated[int, Field(ge=0)]
    expire_hours: Annotated[float, Field(gt=0)]
    level: Annotated[float, Field(gt=0, lt=0.5)]
    faults: Faults
    fault_level: Annotated[float, Field(gt=0, lt=0.5)]
    slow_times: Annotated[float, Field(gt=1)]

    @model_validator(mode="after")
    def _climbs(self) -> Self:
        weights = [step.weight for step in self.steps]
        if any(later <= earlier for earlier, later in pairwise(weights)):
            raise ValueError(f"steps have the weights {', '.join(map(str, weights))}: each must be above the one before")
        longest = max((step.hours for step in self.steps), default=0)
        if longest >= self.expire_hours:
            raise ValueError(
                f"a step takes {longest:g} hours and expire_hours is {self.expire_hours:g}: it would always expire"
            )
        return self


class Promotion(Section):
    """Who lets a passed candidate serve, and when."""

    approval: Literal["auto", "airflow", "mlflow"]
    users: tuple[str, ...]
    answer_hours: Annotated[float, Field(gt=0)]
    hours: OfficeHours | None
    watch: Watch
    rollout: Rollout


class ServeFeedback(Section):
    days: Annotated[float, Field(gt=0, le=3650)]
    per_user: Annotated[int, Field(ge=1)]


class Vllm(Section):
    """A vLLM server that holds the models: `folder` is where it and this machine both find adapters."""

    url: str
    folder: str
    key_env: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None

    @model_validator(mode="after")
    def _addressed(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.username:
            raise ValueError("url must be such as http://host:8000, without /v1, user or password")
        if not self.folder.startswith(("/", "~")):
            raise ValueError(f"folder is {self.folder!r}, must be absolute or begin with ~/: vLLM runs elsewhere")
        return self


class Serve(Section):
    """`retrain serve`: where it listens, how much it takes at once, and how it follows the ledger."""

    host: Annotated[str, StringConstraints(min_length=1)]
    port: Annotated[int, Field(ge=0, le=65535)]
    keys: str | None
    follow_seconds: Annotated[float, Field(gt=0, le=3600)]
    load_seconds: Annotated[float, Field(gt=0)]
    keep: Annotated[int, Field(ge=0, le=20)]
    batch: Annotated[int, Field(ge=1, le=512)]
    queue: Annotated[int, Field(ge=0)]
    timeout: Annotated[float, Field(gt=0, le=3600)]
    drain_seconds: Annotated[float, Field(ge=0)]
    max_body_kb: Annotated[int, Field(ge=1)]
    max_prompt_tokens: Annotated[int, Field(ge=1)]
    rotate_mb: Annotated[float, Field(gt=0)]
    vllm: Vllm | None
    feedback: ServeFeedback


class Launch(Section):
    """Where trainings run: `command` starts a Python with this package there; `device` is what it must find.

    The task of a retraining takes so many slots of that pool of Airflow's.
    """

    command: Annotated[str, AfterValidator(_words)] | None
    device: Literal["auto", "cuda"]
    pool: Annotated[str, StringConstraints(min_length=1)]
    slots: Positive


class Router(Section):
    """`model: "auto"` at the door: how the specialist of a message is found, and what is for none of them."""

    fallback: str | None
    refused: Annotated[float, Field(gt=0, le=0.5)]
    calibration: Annotated[float, Field(gt=0, le=0.5)]
    nobody_judges: Annotated[float, Field(gt=0, le=0.9)]
    min_rows: Annotated[int, Field(ge=10)]
    margin: Annotated[float, Field(ge=0, lt=1)]
