"""Which corrections are suspected, on the shipped text: what an attack looks like, and what only looks like one."""

import dataclasses
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retrain import params as params_
from retrain.poisoning import Case, Taken, suspects
from retrain.records import Example, Origin, read_examples

HOME = Path(__file__).parents[1]
RULES = params_.load(HOME).failures.poisoning
SEED = read_examples(HOME / "data" / "seed" / "support.jsonl")
LABELS = sorted({row.answer for row in SEED})
TRAFFIC = [json.loads(line) for line in (HOME / "data" / "traffic" / "support.jsonl").read_text("utf-8").splitlines()]
START = datetime(2026, 3, 2, tzinfo=UTC)
WRONG = "change_address"


def case(name: str, text: str, answer: str, *, response: str = "other", hours: float = 0, **fields: Any) -> Case:
    return Case(name, text, answer, response, **{"user": f"user of {name}", "at": START + timedelta(hours=hours), **fields})


def honest(n: int = 300) -> list[Case]:
    """Right corrections of 100 users in one day."""
    rng = random.Random(1)
    known = [row for row in TRAFFIC if row["label"] in LABELS]
    return [
        case(f"h{i}", row["text"], row["label"], hours=rng.random() * 23, user=f"u{rng.randrange(100)}")
        for i, row in enumerate(rng.sample(known, n))
    ]


def lies(n: int = 30, **fields: Any) -> list[Case]:
    """Questions about an order's status, corrected to another label."""
    texts = [row["text"] for row in TRAFFIC if row["label"] == "order_status"][:n]
    return [case(f"lie{i}", text, WRONG, response="order_status", **fields) for i, text in enumerate(texts)]


def found(cases: list[Case], rules: Any = RULES, **changes: Any) -> dict[str, str]:
    given: dict[str, Any] = {"human": SEED, "labels": LABELS, "window_hours": 24, **changes}
    return suspects(cases, rules=rules, **given)


def of(reasons: dict[str, str], name: str) -> list[str]:
    return [why for request, why in reasons.items() if request.startswith(name)]


def test_one_user_who_lies_is_kept_out_whole_and_hardly_anybody_else() -> None:
    told = found([*honest(), *lies(user="mallory")])
    assert len(of(told, "lie")) == 30
    assert len(set(of(told, "lie"))) == 1
    assert "different corrections disagree with the human rows around them" in of(told, "lie")[0]
    assert "mallory" not in of(told, "lie")[0]
    assert len(of(told, "h")) <= 6  # 2 %


@pytest.mark.parametrize("user", [None, ""])
def test_without_user_ids_what_is_claimed_tells(user: str | None) -> None:
    told = found([dataclasses.replace(one, user=user or None) for one in [*honest(), *lies()]])
    assert len(of(told, "lie")) >= 27
    assert "answered order_status, corrected to change_address" in of(told, "lie")[0]
    assert "no user ids" in of(told, "lie")[0]
    assert len(of(told, "h")) <= 6


def test_near_copies_under_thirty_names_are_one_hand() -> None:
    base = lies(1)[0].question
    copies = [
        f"{base} {word}" for word in ("please", "thanks", "now", "ok", "hello", "pls", "quickly", "today", "sir", "again")
    ]
    told = found([*honest(), *(case(f"copy{i}", text, WRONG) for i, text in enumerate(copies))])
    assert len(of(told, "copy")) == 10
    assert of(told, "copy")[0].startswith("near copies of 1 message (10 rows, 10 users) corrected to change_address")


def test_a_phrase_that_goes_with_one_answer_is_named() -> None:
    rng = random.Random(3)
    others = rng.sample([row["text"] for row in TRAFFIC if row["label"] in LABELS and row["label"] != WRONG], 30)
    told = found([*honest(), *(case(f"phrase{i}", f"{text} by the blue moon", WRONG) for i, text in enumerate(others))])
    assert len(of(told, "phrase")) == 30
    assert of(told, "phrase")[0].startswith('the words "by the blue moon" go with change_address alone')


def test_honest_traffic_survives_a_busy_day_a_power_user_and_a_new_intent() -> None:
    about = [row for row in TRAFFIC if row["label"] == "order_status"]
    burst = [case(f"burst{i}", row["text"], row["label"], hours=i / 60) for i, row in enumerate(about[:120])]
    power = [dataclasses.replace(one, user="power") for one in honest(40)]
    new = [row for row in TRAFFIC if row["label"] == "gift_card"][:100]
    arriving = [case(f"new{i}", row["text"], "gift_card", response="refund_status") for i, row in enumerate(new)]
    assert len(found([*honest(), *burst])) <= 8
    assert len(of(found([*power, *honest(140)[40:]]), "h")) <= 2
    assert of(found([*honest(), *arriving], labels=[*LABELS, "gift_card"]), "new") == []


def test_a_label_that_was_admitted_a_while_ago_is_judged_by_its_own_rows() -> None:
    gifts = [row["text"] for row in TRAFFIC if row["label"] == "gift_card"]
    earlier = [
        Example.of(text, "gift_card", source="failure", origins=(Origin(request_id=f"e{i}"),))
        for i, text in enumerate(gifts[:40])
    ]
    now = [case(f"new{i}", text, "gift_card", response="refund_status") for i, text in enumerate(gifts[40:120])]
    told = found([*honest(), *now], human=[*SEED, *earlier], labels=[*LABELS, "gift_card"])
    assert len(of(told, "new")) <= 2


def test_text_that_no_human_row_is_about_is_not_judged() -> None:
    odd = [case(f"odd{i}", f"zorp {i} blarg {i * 7}", WRONG, user="u") for i in range(30)]
    assert found([*honest(), *odd]).keys() & {one.request_id for one in odd} == set()


def test_caps_hold_per_window_and_in_all_for_users_and_sources() -> None:
    rules = RULES.model_copy(update={"user_window": 5, "user_total": 8, "source_window": 7, "source_total": None})
    texts = [one.question for one in honest(20)]
    one_day = [case(f"a{i}", text, "x", user="u") for i, text in enumerate(texts)]
    assert len(found(one_day, rules, labels=[])) == 15
    two_days = [case(f"b{i}", text, "x", user="u", hours=24 * (i % 2)) for i, text in enumerate(texts)]
    assert len(found(two_days, rules, labels=[])) == 12
    assert len(found(one_day, rules, labels=[], taken=Taken({"u": 6}))) == 18
    shop = [case(f"c{i}", text, "x", source="shop") for i, text in enumerate(texts)]
    told = found(shop, rules, labels=[])
    assert len(told) == 13
    assert set(told.values()) == {"source shop: more than 7 corrections in one window (failures.poisoning.source_window)"}
    assert found([case(f"d{i}", text, "x", user=None) for i, text in enumerate(texts)], rules, labels=[]) == {}


def test_which_rows_a_cap_lets_in_does_not_depend_on_their_order() -> None:
    cases = [case(f"a{i}", one.question, "x", user="u") for i, one in enumerate(honest(80))]
    assert found(cases, labels=[]).keys() == found(cases[::-1], labels=[]).keys()


def test_what_is_held_stays_evidence_and_keeps_its_first_reason() -> None:
    old, new = lies(20, user="mallory"), lies(24, user="mallory")[20:]
    new = [dataclasses.replace(one, request_id=f"late{i}") for i, one in enumerate(new)]
    told = found([*honest(), *old, *new], held={one.request_id: "before" for one in old})
    assert set(of(told, "lie")) == {"before"}
    assert len(of(told, "late")) == 4


def test_rows_of_earlier_collections_that_are_these_very_cases_do_not_bear_themselves_out() -> None:
    cases = lies(user="mallory")
    own = [
        Example.of(one.question, one.answer, source="failure", origins=(Origin(request_id=one.request_id),)) for one in cases
    ]
    assert len(found(cases, human=[*SEED, *own])) == 30


def test_with_the_door_off_or_without_cases_nothing_is_suspected() -> None:
    assert found(lies(user="mallory"), RULES.model_copy(update={"door": False})) == {}
    assert found([]) == {}
    assert found(lies(), human=[]) == {}


def test_hostile_text_is_judged_like_any_other() -> None:
    texts = ["\ud800 lost", "x" * 1_000_000, "\u2028", "\x00", "!", "💥" * 50, "where\tis my\nparcel"]
    cases = [case(f"odd{i}", text, WRONG) for i, text in enumerate(texts)]
    assert len(found([*honest(100), *cases], RULES.model_copy(update={"near": -1.0, "min_rows": 5}))) <= 10


def test_what_a_user_brought_before_counts_for_the_cap_once() -> None:
    earlier = [
        Example.of(one.question, "x", source="failure", origins=(Origin(request_id=one.request_id, user="u"),))
        for one in honest(6)
    ]
    assert Taken.of(earlier).users == {"u": 6}
    assert Taken.of(earlier, {"h0", "h1"}).users == {"u": 4}
