"""Rows that are no independent evidence of each other: one of them enters the tests."""

import random
import string

from tables import Rows, good, judge, right, suite

from retrain import watch
from retrain.card import plain_lines
from retrain.clusters import independent, joins
from retrain.contamination import Likeness
from retrain.records import Example, Origin, unit_hash

LIKE = Likeness(0.7, labels=True, structured=False)


def asked(text: str, *users: str | None, conversation: str | None = None) -> Example:
    origins = tuple(Origin(request_id=f"{text} {number}", user=user) for number, user in enumerate(users))
    return Example.of(text, "refund", source="audit", origins=origins, conversation=conversation)


def kept(rows: list[Example], copies: tuple[tuple[int, int], ...] = ()) -> list[Example]:
    shared = dict(zip([row.id for row in rows], joins(rows, copies), strict=True))
    return independent(rows, of=lambda row: (row.id, shared[row.id]))


def test_rows_of_one_user_one_conversation_one_question_or_near_copies_are_one() -> None:
    for pair in (
        [asked("where is it", "ann"), asked("how much is it", "ann")],
        [asked("where is it", conversation="c1"), asked("how much is it", conversation="c1")],
        [asked("Where is it?", "ann"), Example.of("where is it", "order", source="audit")],
    ):
        assert kept(pair) == [min(pair, key=lambda row: row.id)]
    two = [asked("where is my new card please", "ann"), asked("where is my new card pleese", "bob")]
    assert len(kept(two)) == 2 and len(kept(two, tuple(LIKE.pairs(two)))) == 1


def test_rows_without_a_user_stand_for_themselves() -> None:
    assert len(kept([asked(f"question {i}", None) for i in range(9)] + [asked("another")])) == 10


def test_no_chain_makes_one_cluster_of_many_users() -> None:
    rows = [asked(f"question {i}", f"user{i}", f"user{i + 1}") for i in range(60)]
    found = kept(rows)
    assert 20 <= len(found) <= 30  # a row is left out only beside one that is kept
    assert all({a.user for a in one.origins}.isdisjoint(b.user for b in other.origins) for one in found for other in found
               if one is not other)  # fmt: skip


def test_the_order_of_the_rows_changes_nothing_and_digests_name_nobody() -> None:
    rows = [asked(f"question {i}", f"user{i % 7}") for i in range(50)]
    found = kept(rows)
    assert len(found) == 7 and found == kept(random.Random(1).sample(rows, len(rows)))
    assert "user3" not in str(joins(rows, ()))


def test_the_planner_counts_what_the_gate_will_test() -> None:
    rng = random.Random(5)
    texts = ["".join(rng.choices(string.ascii_lowercase, k=30)) for _ in range(190)]
    rows = [asked(text, f"user{i % 90}") for i, text in enumerate([*texts, *(text + "s" for text in texts[:10])])]
    judging = [row for row in rows if unit_hash(row.split_key, "to-retained") >= 0.25]
    table = suite("audit", right(len(judging)), right(len(judging), 60))
    for prediction, row, shared in zip(table, judging, joins(judging, LIKE.pairs(judging)), strict=True):
        prediction |= {"id": row.id, "joins": shared}
    check = judge(good(audit=table), min_rows=10).check("superior")
    assert check and check.n == watch._enter_tests(rows, [], 0.25, LIKE) < 90


def test_the_card_shows_the_mean_of_all_rows_beside_what_was_tested() -> None:
    rows = good(audit=suite("audit", right(140, 5), right(140, 35)))
    for row in rows[:11]:
        row["joins"] = ["one user"]
    arms = {arm: {"n": 140, "right": share} for arm, share in (("candidate", 0.964286), ("champion", 0.75))}
    lines = plain_lines(judge(rows), {"suites": {"audit": {"n": 140, "arms": arms}}})
    (line,) = [line for line in lines if "(audit)" in line and "champion" in line]
    assert line.endswith("of 130 rows: it gained 23.1 points, more than chance would explain (over all 140 rows, of which only "
                         "those that share no user or question were tested: 96.4 %, the champion 75.0 %).")  # fmt: skip


def test_slices_pool_the_suites_one_row_a_user() -> None:
    def everywhere(joined: list[str] | None) -> Rows:
        rows = [row for name in ("audit", "golden", "retained") for row in suite(name, right(160), right(160, 40))]
        for row in rows:
            row["joins"] = joined or [row["suite"] + row["id"]]
        return rows

    check = judge(everywhere(None), floor={}).check("slices")
    assert check and "of 480 rows" in check.why
    shared = everywhere(None)
    for row in shared:
        row["joins"] = [row["id"]]  # the same users are in all three
    check = judge(shared, floor={}).check("slices")
    assert check and "of 160 rows" in check.why
