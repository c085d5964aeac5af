"""Values put over those of a params.yaml: `--set key.path=value`, and an adapter's own sections."""

import difflib
import re
from typing import Any

import yaml

from retrain.errors import ParamsError

# mappings whose keys are the user's own: --set may add one (an adapter's sections under `override` too)
OPEN = {
    *("bases", "adapters", "approved", "router", "gates.floor", "scrub.patterns", "drift.columns"),
    *("logs.columns", "logs.feedback.columns", "quality.judge.extra", "gates.judge.extra", "synthesize.generator.extra"),
}


def apply(data: dict[str, Any], overrides: list[str] | tuple[str, ...]) -> dict[str, Any]:
    for override in overrides:
        key, sep, value = override.partition("=")
        if not sep or not re.fullmatch(r"[\w.-]+", key):
            raise ParamsError(f"--set {override!r}: must be key.path=value, such as train.epochs=2")
        *parents, last = key.split(".")
        place: Any = data
        for depth, parent in enumerate(parents):
            inner = _kinds(place).get(parent) if isinstance(place, list) else place.get(parent)
            if not isinstance(inner, dict) and not (isinstance(inner, list) and parent == "policies"):
                where = ".".join(parents[: depth + 1])
                raise ParamsError(f"--set {key}: {where} is not in params.yaml{nearest(parent, _names(place))}")
            place = inner
        free = "override" in parents or ".".join(parents) in OPEN
        if last not in place and isinstance(place, dict) and not free:
            raise ParamsError(f"--set {key}: {last!r} is not in params.yaml{nearest(last, _names(place))}")
        try:
            new = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ParamsError(f"--set {override!r}: the value is not YAML") from error
        if isinstance(place, list):
            _set_kind(place, last, new)
        else:
            place[last] = new
    return data


def _kinds(policies: Any) -> dict[str, Any]:
    """A list of policies by `kind`: how --set and overrides address one of them."""
    return {item["kind"]: item for item in policies if isinstance(item, dict) and "kind" in item}


def _set_kind(policies: list[Any], kind: str, new: Any) -> None:
    """`trigger.policies.cooldown={hours: 24}` adds or replaces the policy of that kind, null takes it away."""
    place = next((i for i, item in enumerate(policies) if isinstance(item, dict) and item.get("kind") == kind), None)
    if new is not None and not isinstance(new, dict):
        raise ParamsError(f"--set trigger.policies.{kind}={new}: give a mapping such as {{hours: 24}}, or null to take it away")
    if new is None and place is None:
        raise ParamsError(f"--set trigger.policies.{kind}=null: there is none of that kind{nearest(kind, _names(policies))}")
    if place is None:
        policies.insert(0, {"kind": kind, **(new or {})})  # in front: a comment behind the last item stays behind it
    elif new is None:
        del policies[place]
    else:
        policies[place] = {"kind": kind, **new}


def _names(place: Any) -> list[str]:
    return list(_kinds(place) if isinstance(place, list) else place)


def merge(old: Any, new: Any) -> Any:
    """Mappings by key, policies by kind, anything else as a whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: merge(old.get(key), value) for key, value in new.items()}}
    if isinstance(old, list | tuple) and isinstance(new, list) and _kinds(new) and len(_kinds(new)) == len(new):
        return list({**_kinds(old), **_kinds(new)}.values())
    return new


def nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {near[0]!r}?" if near else (f"; known: {', '.join(known)}" if known else "")
