"""What grew, in words: on made-up messages whose shares are known."""

import random

import numpy as np
import pandas as pd
import pytest

from monitoring import changes
from monitoring.counting import NotComparable
from monitoring.topics import Prompts

ASKED = {
    "parcel": ["where is my parcel", "when does the parcel come", "the parcel is late", "my parcel never came"],
    "refund": ["i want my money back", "refund my order please", "when is the refund paid", "no refund so far"],
    "login": ["i cannot log in", "my password is wrong", "reset my password", "the login page is broken"],
    "card": ["is there a gift card", "my gift card code fails", "how do i redeem a gift card", "gift card balance"],
}


def prompts(before: dict[str, int], now: dict[str, int], seed: int = 0) -> Prompts:
    draw = random.Random(seed)
    sides = [[f"{draw.choice(ASKED[name])} {draw.randrange(900)}" for name, n in side.items() for _ in range(n)]
             for side in (before, now)]  # fmt: skip
    return Prompts.of(*sides)


USUAL = {"parcel": 500, "refund": 400, "login": 300}


def test_the_share_that_new_groups_gained_is_the_distance_of_the_column() -> None:
    growth = changes.found(prompts(USUAL, {**USUAL, "card": 120}))
    assert [change.terms[0] for change in growth.changes] == ["gift card"]
    assert growth.changes[0].before == 0
    assert growth.changes[0].now == pytest.approx(120 / 1320)
    before, now = growth.column()
    assert set(before) == {changes.AS_BEFORE}
    assert (now != changes.AS_BEFORE).sum() == 120


def test_nothing_grew_where_shares_move_by_a_fifth() -> None:
    for seed in range(5):
        draw = random.Random(seed)
        moved = {name: round(n * draw.uniform(0.8, 1.2)) for name, n in USUAL.items()}
        assert changes.found(prompts(USUAL, moved, seed)).changes == []


def test_no_prompt_is_in_two_groups_that_grew() -> None:
    growth = changes.found(prompts({"parcel": 800, "refund": 400}, {"parcel": 400, "login": 400, "card": 400}))
    assert len(growth.changes) > 1
    assert np.sum(growth.groups, axis=0).max() == 1


def test_of_few_prompts_no_share_is_said() -> None:
    growth = changes.found(prompts(USUAL, {"parcel": 300, "card": 300}))
    assert growth.changes  # in words it is said all the same
    with pytest.raises(NotComparable, match="needs 1,000 prompts in the samples of both sides, one has 600"):
        growth.column()


def hours(first: int, last: int, rows: int) -> pd.Series:
    """Times from hour to hour, counted from a Monday."""
    return pd.Series(pd.Timestamp("2026-03-02", tz="UTC") + pd.to_timedelta(np.linspace(first, last, rows), unit="h"))


def test_the_same_time_of_the_week_is_known_where_the_reference_has_one() -> None:
    week, day = hours(0, 168, 1401), hours(168 + 24, 168 + 47.9, 500)
    tuesday = changes.same_time(week, day)
    assert tuesday is not None
    assert week[tuesday].min() == pd.Timestamp("2026-03-03", tz="UTC")
    assert week[tuesday].max() < pd.Timestamp("2026-03-04", tz="UTC")
    around = changes.same_time(week, hours(7 * 24 - 12, 7 * 24 + 12, 500))  # a window from Sunday noon to Monday noon
    assert around is not None
    assert around[:100].all() and around[-100:].all() and around.sum() == pytest.approx(201, abs=2)


def test_the_same_time_of_the_week_is_not_guessed() -> None:
    week, day = hours(0, 168, 1401), hours(168, 191, 500)
    assert changes.same_time(hours(0, 120, 1000), day) is None  # five days
    assert changes.same_time(hours(0, 168, 300), day) is None  # so few rows a day
    assert changes.same_time(week, hours(168, 336, 500)) is None  # a window of a week
    assert changes.same_time(pd.Series([pd.NaT] * 300, dtype=week.dtype), day) is None  # a suite has no times
