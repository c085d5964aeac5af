"""Rows that are no independent evidence of each other: of one conversation, of one user, or near copies. PURE.

Each row carries what it may share with others as `joins`. Of rows that share any, the one with the lowest id enters the tests:
those that do are pairwise independent, and no chain (this user asked what that user asked, who ...) makes a cluster of half a
suite.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from retrain.records import Example, text_digest

Row = TypeVar("Row")


def joins(rows: Sequence[Example], copies: Iterable[tuple[int, int]]) -> list[tuple[str, ...]]:
    """For each row what it shares, as digests; copies: pairs of rows, by their places, that are near copies of each other."""
    found = [_shared(row) for row in rows]
    for left, right in copies:
        pair = f"copy {rows[left].id} {rows[right].id}"
        found[left].add(pair)
        found[right].add(pair)
    return [tuple(sorted(text_digest(join)[:16] for join in shared)) for shared in found]


def _shared(row: Example) -> set[str]:
    talks, users = row.conversations, {origin.user for origin in row.origins if origin.user}
    return {f"question {row.key}", *(f"conversation {talk}" for talk in talks), *(f"user {user}" for user in users)}


def independent(rows: Iterable[Row], *, of: Callable[[Row], tuple[str, Iterable[str]]]) -> list[Row]:
    """Rows of which no two share a join, in order of id; of: a row's id and its joins."""
    taken: set[str] = set()
    found = []
    for row in sorted(rows, key=lambda row: of(row)[0]):
        shared = set(of(row)[1])
        if taken.isdisjoint(shared):
            taken |= shared
            found.append(row)
    return found
