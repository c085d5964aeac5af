"""params.yaml as frozen models: the only place that holds defaults is the file itself.

An unknown key, a wrong type or a contradiction raises ParamsError with path, value, the nearest known key and the fix.
"""

from datetime import date
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator

from retrain.errors import ParamsError
from retrain.gating import Gates
from retrain.overrides import apply, merge, nearest
from retrain.poisoning_rules import Poisoning
from retrain.policies import KINDS, AnyPolicy
from retrain.records import parse_yaml
from retrain.scrub_rules import Scrub
from retrain.sections import Drift, Judge, Launch, Logs, Positive, Promotion, Router, Section, Serve, Share, Synthesize, Window

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]

SECTIONS = (
    *("logs", "scrub", "window", "drift", "quality", "trigger", "failures", "synthesize", "prepare", "train", "evaluate"),
    *("gates", "promotion", "notify"),
)
RESERVED = ("auto", "router")  # the model that the router is asked by, and the folder of its files


class Workspace(Section):
    remote: str | None
    branch: Name
    dvc_remote: str | None


class Mlflow(Section):
    uri: str | None
    timeout: Positive


class Base(Section):
    source: Literal["wheel", "hub", "path"]
    name: str
    file: str | None
    revision: str | None
    sha256: str | None

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.source == "wheel" and ("==" not in self.name or not self.file or not self.sha256):
            raise ValueError("a base from a wheel needs name as package==version, file and sha256")
        if self.source == "hub" and not self.revision:
            raise ValueError("a base from the hub needs revision: pin a commit, or it will change under you")
        if self.source == "hub" and self.sha256:
            raise ValueError("a base from the hub is pinned by its revision, sha256 would not be checked: leave it empty")
        if self.source == "path" and not self.name.startswith(("/", "~")):
            raise ValueError(
                f"name is the relative path {self.name!r}, must be absolute or begin with ~/: jobs run in clones of the "
                "workspace, where it would be another place"
            )
        return self


class Adapter(Section):
    base: str
    task: Literal["classification", "generation"]
    prompt: str
    labels: tuple[str, ...] = ()
    output: str | None = None
    max_new_tokens: Positive = 16
    override: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _task_has_its_answers(self) -> Self:
        if self.task == "classification" and len(self.labels) < 2:
            raise ValueError("task classification needs at least two labels")
        if len(set(self.labels)) != len(self.labels) or not all(label.strip() == label != "" for label in self.labels):
            raise ValueError("labels must be distinct, not blank, and without space around them")
        if self.task == "generation" and self.labels:
            raise ValueError("task generation has no labels: give output (a JSON schema file), or use classification")
        if self.task == "classification" and self.output:
            raise ValueError("task classification has no output, its answers are labels: remove output, or use generation")
        for name, path in (("prompt", self.prompt), ("output", self.output)):
            if path is not None and (not path.startswith("data/prompts/") or ".." in path):
                raise ValueError(f"{name} is {path!r}, must lie in data/prompts/: dvc.yaml watches that folder for changes")
        return self


class Trigger(Section):
    level: Annotated[float, Field(gt=0, lt=0.5)]
    accuracy_drop: Share
    satisfaction_drop: Share
    judge_drop: Annotated[float, Field(gt=0, le=1)] | None = None
    min_audit: Positive
    power: Annotated[float, Field(ge=0.5, lt=1)]
    min_new: Positive
    policies: tuple[AnyPolicy, ...]

    @model_validator(mode="after")
    def _once(self) -> Self:
        kinds = [policy.kind for policy in self.policies]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"policies names {max(kinds, key=kinds.count)} twice: give each kind once")
        return self


class Quality(Section):
    lag_hours: Annotated[float, Field(ge=0)]
    slices: tuple[Literal["response", "model_version"], ...]
    judge: Judge | None = None


class Failures(Section):
    audit_rate: Share
    confidence_below: float | None
    form: bool
    where: Annotated[str, StringConstraints(min_length=1)] | None
    review_days: Annotated[float, Field(gt=0, le=3650)]
    poisoning: Poisoning


class Prepare(Section):
    retained_share: Share
    audit_share: Annotated[float, Field(ge=0, lt=1)]  # at 1 no audited row would ever judge
    repair_share: Share
    first_audit_share: Share
    near: Annotated[float, Field(gt=0, le=1)]
    paraphrase: Annotated[float, Field(gt=0, le=1)]
    independent: Share
    max_per_label: Positive


class Train(Section):
    method: Literal["qlora", "lora"]
    base_residency: Literal["nf4", "bf16", "fp32", "auto"]
    r: Positive
    alpha: Positive
    dropout: Share
    targets: tuple[str, ...]
    epochs: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    loraplus: Annotated[float, Field(ge=1)] = 1.0  # a workspace from before it was there trains as it did
    warmup: Share
    batch: Positive
    max_length: Annotated[int, Field(ge=16)]
    checkpoint_steps: Positive
    device: Literal["auto", "cpu", "cuda"]

    @model_validator(mode="before")
    @classmethod
    def _adapter_alone(cls, data: Any) -> Any:
        if isinstance(data, dict) and "modules_to_save" in data:
            raise ValueError(
                "modules_to_save would train whole layers of the base beside the adapter, and a server that loads adapters "
                "alone answers without them: remove it, and name layers in train.targets"
            )
        return data

    @model_validator(mode="after")
    def _residency_fits(self) -> Self:
        if self.method == "lora" and self.base_residency == "nf4":
            raise ValueError("method lora trains on the unrounded base: base_residency is bf16, fp32 or auto, or method qlora")
        return self


class Evaluate(Section):
    base_rows: Positive
    beside_rows: Positive
    shots: Annotated[int, Field(ge=0)]
    batch: Positive


class Notify(Section):
    urls: tuple[str, ...]
    events: tuple[Literal["fire", "failed", "stale", "restored", "waiting"], ...]


class Params(Section):
    seed: Annotated[int, Field(ge=0)]
    workspace: Workspace
    mlflow: Mlflow
    bases: dict[Name, Base]
    adapters: dict[Name, Adapter]
    logs: Logs
    scrub: Scrub
    window: Window
    drift: Drift
    quality: Quality
    trigger: Trigger
    failures: Failures
    synthesize: Synthesize
    approved: dict[Name, str]
    prepare: Prepare
    train: Train
    launch: Launch | None = None  # a workspace from before it was there trains where its jobs run
    evaluate: Evaluate
    gates: Gates
    promotion: Promotion
    notify: Notify
    serve: Serve
    router: dict[Literal["auto"], Router]

    @model_validator(mode="before")
    @classmethod
    def _no_router_is_empty(cls, data: Any) -> Any:
        if isinstance(data, dict) and "router" in data and data["router"] is None:
            raise ValueError("router is null, must be {} where there is none: dvc.yaml makes a stage of each router")
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.adapters:
            raise ValueError("adapters is empty: name at least one specialist")
        for name, adapter in self.adapters.items():
            if adapter.base not in self.bases:
                raise ValueError(f"adapters.{name}.base is {adapter.base!r}, bases has {', '.join(self.bases)}")
            for section in adapter.override:
                if section not in SECTIONS:
                    raise ValueError(f"adapters.{name}.override.{section} is no section{nearest(section, SECTIONS)}")
            if name in RESERVED:
                raise ValueError(f'adapters.{name}: the name belongs to the router (`model: "auto"`, out/router): give another')
        for router in self.router.values():
            if router.fallback is not None and router.fallback not in self.adapters:
                raise ValueError(
                    f"router.auto.fallback is {router.fallback!r}, must be an adapter ({', '.join(self.adapters)}), or empty: "
                    "what is for none of them is then refused"
                )
        for one, other in combinations(self.adapters, 2):
            if (dag := one.replace("-", "_")) == other.replace("-", "_"):
                raise ValueError(f"adapters {one} and {other} would both be the DAG retrain_{dag}: rename one")
        return self

    def adapter(self, name: str) -> Adapter:
        if name not in self.adapters:
            raise ParamsError(f"adapter {name!r} is not in params.yaml, which has {', '.join(self.adapters)}")
        return self.adapters[name]

    def of(self, name: str) -> "Params":
        """These params with the adapter's own overrides merged into the sections."""
        override = self.adapter(name).override
        if not override:
            return self
        data = self.model_dump()
        for section, values in override.items():
            data[section] = merge(data[section], values)
        data["adapters"][name]["override"] = {}
        return validated(data, f"params.yaml, with adapters.{name}.override")

    def other_trigger(self, changes: dict[str, Any], overrides: tuple[str, ...], where: str) -> Trigger:
        """This trigger with some of its keys replaced: what a replay asks about."""
        data = self.model_dump(mode="json")
        data["trigger"] = {**data["trigger"], **changes}
        return validated(apply(data, overrides), where).trigger


def load(root: Path | str = ".", overrides: list[str] | tuple[str, ...] = ()) -> Params:
    """Params of the workspace at root; each override is `key.path=value`, the value in YAML."""
    path = Path(root) / "params.yaml"
    return _checked(apply(read(path), overrides), str(path))


def parse(text: str, where: str) -> Params:
    """Params of a file's text; `where` names it in errors."""
    return _checked(_mapping(text, where), where)


def _checked(data: dict[str, Any], where: str) -> Params:
    params = validated(data, where)
    for name in params.adapters:
        own, whose = params.of(name), f"{where}, adapter {name}"  # what cannot hold is said now, not at night
        _can_be_first(own, whose)
        _has_its_metric(own.gates, own.adapter(name), whose)
    return params


def _can_be_first(params: Params, where: str) -> None:
    """A first candidate is held against the base, on the rows that the base is asked."""
    asked, needed = params.evaluate.base_rows, params.gates.min_rows
    if asked < needed:
        raise ParamsError(
            f"{where}: evaluate.base_rows is {asked}, gates.min_rows is {needed}: a first candidate is judged on the rows that "
            "the base is asked too, so none could ever pass: raise evaluate.base_rows or lower gates.min_rows"
        )


def _has_its_metric(gates: Gates, spec: Adapter, where: str) -> None:
    metric, generates = gates.metric, spec.task == "generation"
    if gates.judge and not generates:
        raise ParamsError(f"{where}: gates.judge compares generated answers, and labels are right or wrong: set it to null")
    lacks = {"fields": None if spec.output else "a JSON schema in `output`"}.get(metric)
    if metric != "right" and not generates:
        lacks = "task generation: labels are right or wrong"
    if lacks:
        raise ParamsError(f"{where}: gates.metric is {metric}, which needs {lacks}: set it to right")


def read(path: Path) -> dict[str, Any]:
    try:
        return _mapping(path.read_text("utf-8"), str(path))
    except FileNotFoundError as error:
        raise ParamsError(f"{path} does not exist: run in a workspace, or make one with `retrain init DIR`") from error
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path} is not UTF-8: {error}") from error


def _mapping(text: str, where: str) -> dict[str, Any]:
    try:
        data = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ParamsError(f"{where} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise ParamsError(f"{where} is empty or not a mapping: start from the file that `retrain init` writes")
    return data


def validated(data: dict[str, Any], where: str) -> Params:
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        raise ParamsError("\n".join(_explain(problem, data, where) for problem in error.errors())) from error


def _explain(problem: Any, data: dict[str, Any], where: str) -> str:
    path = [str(part) for part in problem["loc"] if part != "[key]"]
    name = ".".join(path) or "the file"
    if problem["type"] == "extra_forbidden":
        return f"{where}: {name} is not a known key{nearest(path[-1], _known(path[:-1]))}"
    if problem["type"] == "missing":
        return f"{where}: {name} is missing: add it (`retrain init` writes a whole file)"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "string_type" and isinstance(problem["input"], bool | int | float | date):
        message += f': put it in quotes, "{problem["input"]}", or YAML reads it as a {type(problem["input"]).__name__}'
    if problem["type"] == "value_error":
        return f"{where}: {message}" if not path else f"{where}: {name}: {message}"
    return f"{where}: {name} is {problem['input']!r}: {message[0].lower()}{message[1:]}"


def _known(path: list[str]) -> list[str]:
    """Field names of the section at path."""
    model: Any = Params
    for part in path:
        if part in KINDS:
            model = KINDS[part]
            continue
        field = model.model_fields.get(part) if isinstance(model, type) and issubclass(model, BaseModel) else None
        model = field.annotation if field else model
        if getattr(model, "__origin__", None) is dict:
            model = model.__args__[1]
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
