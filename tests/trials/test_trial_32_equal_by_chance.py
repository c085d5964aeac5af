"""Trial 32: candidates of the champion's quality whose answers differ by chance, and the champion's own bytes."""

import json
import random

from tables import Rows, drawn, judge, suite

CANDIDATES = 200


def table(rng: random.Random, gain: float = 0.0) -> Rows:
    parts = [drawn(rng, name, n, gain, 0.2, 0.85) for name, n in (("audit", 120), ("golden", 150), ("retained", 150))]
    return [row for part in parts for row in part]


def test_candidates_that_differ_by_chance_are_promoted_no_more_often_than_the_level_says() -> None:
    rng = random.Random(32)
    rules = {"min_effect": 0.0, "margin": 0.3, "floor": {}}  # nothing but the level stands in their way
    promoted = sum(judge(table(rng), **rules).promote for _ in range(CANDIDATES))
    assert promoted <= 0.05 * CANDIDATES
    assert sum(judge(table(rng, gain=0.15), **rules).promote for _ in range(20)) >= 15  # those that are better do pass


def test_ten_tries_on_the_same_rows_share_the_level() -> None:
    rng, ever, series = random.Random(33), 0, 40
    for _ in range(series):
        ever += any(judge(table(rng), tries=k, min_effect=0.0, margin=0.3, floor={}).promote for k in range(10))
    assert ever <= 0.05 * series + 2


def test_the_champions_own_bytes_are_never_better_and_always_as_good() -> None:
    rng = random.Random(34)
    for _ in range(10):
        right = [rng.random() < 0.85 for _ in range(150)]
        same = [row for name in ("audit", "golden", "retained") for row in suite(name, right, right)]
        assert not judge(same, floor={}).promote
        assert judge(same, floor={}, purpose="replace").promote


def test_the_same_predictions_give_the_same_verdict_to_the_byte() -> None:
    rows = table(random.Random(35))
    first = json.dumps(judge(rows).as_dict(), sort_keys=True)
    for seed in range(5):
        assert json.dumps(judge(random.Random(seed).sample(rows, len(rows))).as_dict(), sort_keys=True) == first
