"""PURE: whether the audited rows there are could show what a retraining has to show, by the gate's own tests."""

import math
from functools import partial

from monitoring.judge import ROUNDING
from retrain import power
from retrain.params import Params, Trigger
from retrain.policies import Answer, Bar, Facts, Purpose

LOST = 0.01  # share of rows that a candidate trained from the base loses by the way: 0.5 to 1.4 points were measured


def bar(params: Params) -> Bar:
    """What the gate of these params (an adapter's own) asks for."""
    rules = {name: getattr(params.gates, name) for name in ("level", "margin", "min_effect", "min_rows", "repair")}
    return Bar(**rules, audit_share=params.prepare.audit_share)


def judgeable(purpose: Purpose, facts: Facts, policy: Trigger) -> Answer:
    """Whether the unread audited rows could show what the purpose needs, by the gate's own tests; else how many to label.

    `improve` supposes that a retraining repairs a share of today's wrong answers half-way between what the gate demands of it
    (gates.repair) and all, and loses 1 %; `replace`, that it changes as many answers for the worse as for the better.
    """
    bar, found, wrong = facts.bar, facts.unread_audit, facts.audit_wrong
    floor = max(policy.min_audit, bar.min_rows)
    if wrong is None:
        return _enough(found, floor, f"unread audited rows, {floor} are needed", facts)
    won, lost = wrong * (1 + bar.repair) / 2, min(LOST, 1 - wrong)
    if purpose == "replace":
        won = lost = max(min(won, 1 - wrong), LOST)
        passes = partial(power.power_non_inferior, won=won, lost=lost, margin=bar.margin, level=bar.level)
        shows = f"that an equal adapter is no worse by {_points(bar.margin)}"
    else:
        passes = partial(power.power_superior, won=won, lost=lost, level=bar.level, min_effect=bar.min_effect)
        shows = f"the {_points(won - lost)} that a retraining could gain"
    needed = power.rows_needed(passes, power=policy.power, least=floor)
    if needed is None and found < floor:
        needed = floor  # so few rows do not say that it is hopeless
    if needed is not None:
        return _enough(found, needed, f"unread audited rows, {needed} are needed to show {shows}", facts)
    if purpose == "replace":
        return False, f"{found} unread audited rows, and no 20,000 would show {shows}: gates.margin is too narrow"
    right = f"the champion answers {1 - wrong:.0%} of {found} unread audited rows right"
    return False, f"{right}: a retraining could gain {_points(max(won - lost, 0.0))}, too little for gates.min_effect to see"


def _enough(found: int, needed: int, what: str, facts: Facts) -> Answer:
    """N is what people have to label: of the audited rows a share goes to `retained` and does not judge (audit_share)."""
    if found >= needed:
        return True, f"{found} {what}"
    more = math.ceil((needed - found) / (1 - facts.bar.audit_share) - ROUNDING)
    return False, f"only {found} {what}: label {more} more"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"
