"""Near copies: what counts as one, that every pair is verified, and that no chain makes a group."""

import itertools
import random
import time

import numpy as np
import pytest

from retrain.copies import copied, groups, pairs, signatures, similarity
from retrain.text import skeleton

QUESTION = "Where is the parcel that I ordered on 12 May from your shop?"
NEAR = 0.7
WORDS = [f"{a}{b}{c}" for a in ("ba", "ko", "mi", "tru", "sel", "wen") for b in ("dor", "lin", "tag", "vep") for c in "aeiouy"]


def sentences(n: int, seed: int = 1, words: int = 9) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=words)) for _ in range(n)]


def jaccard(a: str, b: str) -> float:
    """By the definition."""
    first, second = ({f" {skeleton(t)} "[i : i + 3] for i in range(len(skeleton(t)))} for t in (a, b))
    return len(first & second) / len(first | second)


@pytest.mark.parametrize(
    "changed",
    [
        QUESTION.upper() + "!!",
        QUESTION.replace(" ", "  \t"),
        QUESTION.replace("12", "31"),
        QUESTION.replace("e", "е").replace("o", "ο"),
        "\u200b".join(QUESTION),
        QUESTION.replace("e", "e\u0301"),
        "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in QUESTION),
    ],
    ids=["case", "space", "number", "lookalike", "no width", "accent", "wide letters"],
)
def test_what_only_looks_different_is_the_same_skeleton(changed: str) -> None:
    assert skeleton(changed) == skeleton(QUESTION)


@pytest.mark.parametrize(
    ("text", "copy"),
    [
        (QUESTION.replace("parcel", "parcle"), True),
        (f"Hello, {QUESTION} Thanks!", True),
        (QUESTION.replace("the parcel", "parcel the"), True),
        (QUESTION[: len(QUESTION) // 2], False),
        ("Where is the card that I ordered from the bank?", False),
        ("", False),
    ],
    ids=["typo", "politeness", "words swapped", "half of it", "another question", "empty"],
)
def test_a_near_copy_shares_most_of_its_grams(text: str, copy: bool) -> None:
    assert (jaccard(text, QUESTION) >= NEAR) == copy
    assert (copied([text], [QUESTION], NEAR)[0] == 0) == copy
    assert (groups([QUESTION, text], NEAR)[1] == 0) == copy


def test_pairs_are_those_of_the_definition() -> None:
    texts = sentences(60, words=4)
    rng = random.Random(2)
    for text in sentences(60, words=4):
        words = text.split()
        words[rng.randrange(4)] = rng.choice(WORDS)
        texts.append(" ".join(words))
    left, right = pairs(texts, 0.5)
    found = set(zip(left.tolist(), right.tolist(), strict=True))
    assert found == {(i, j) for j in range(len(texts)) for i in range(j) if jaccard(texts[i], texts[j]) >= 0.5}
    assert len(found) > 30


def test_no_chain_makes_a_group() -> None:
    words = sentences(1, words=40)[0].split()
    chain = [" ".join(words[i : i + 20]) for i in range(20)]  # each a near copy of the next, the last nothing like the first
    stands = groups(chain, NEAR)
    assert len(set(stands.tolist())) > 3
    assert all(jaccard(chain[i], chain[at]) >= NEAR for i, at in enumerate(stands.tolist()))


def test_what_is_added_behind_changes_nothing_before_it() -> None:
    texts = [*sentences(50, words=3), *(f"{text} please" for text in sentences(50, words=3))]
    alone, more = groups(texts, NEAR), groups([*texts, *(f"so {text}" for text in texts)], NEAR)
    assert more[: len(texts)].tolist() == alone.tolist()


def test_only_texts_of_one_kind_are_copies() -> None:
    assert groups([QUESTION, QUESTION, QUESTION], NEAR, ["a", "b", "a"]).tolist() == [0, 1, 0]
    assert copied([QUESTION], [QUESTION], NEAR, ["a"], ["b"]).tolist() == [-1]
    assert copied([QUESTION], [QUESTION, QUESTION], NEAR, ["a"], ["b", "a"]).tolist() == [1]


def test_a_text_copies_the_one_that_is_most_like_it() -> None:
    known = [f"Good morning, {QUESTION}", QUESTION, "another question altogether", QUESTION]
    assert copied([f"{QUESTION}!"], known, NEAR).tolist() == [1]


def test_hostile_text_and_none_at_all() -> None:
    texts = ["\ud800 lost", "x" * 1_000_000, "\u2028", "\x00", "!", "💥" * 50, "a", "", "where\tis my\nparcel"]
    assert groups(texts, NEAR).tolist()[:5] == [0, 1, 2, 3, 4]
    assert groups([], NEAR).tolist() == []
    assert copied([], texts, NEAR).tolist() == []
    assert copied(texts, [], NEAR).tolist() == [-1] * len(texts)
    assert copied(texts, texts[:2], NEAR).tolist()[:2] == [0, 1]


def test_a_message_of_megabytes_takes_no_longer_than_its_beginning() -> None:
    started = time.perf_counter()
    assert groups(["x y " * 5_000_000, "x y " * 5_000_001], NEAR).tolist() == [0, 0]
    assert time.perf_counter() - started < 5


def test_an_estimate_is_near_the_truth() -> None:
    texts = [skeleton(text) for text in sentences(200, words=3)]
    others = [f"{text} {more}" for text, more in zip(texts, sentences(200, seed=3, words=2), strict=True)]
    truth = similarity(texts, others, np.arange(200), np.arange(200))
    told = (signatures(texts, 256) == signatures(others, 256)).mean(axis=1)
    assert np.abs(told - truth).mean() < 0.03
    assert abs(float((told - truth).mean())) < 0.01


def test_a_crowd_of_copies_is_one_group_and_takes_no_longer_than_its_number() -> None:
    rng = random.Random(5)
    crowd = [f"{QUESTION} {rng.choice(WORDS)}" for _ in range(4000)]
    started = time.monotonic()
    stands = groups([QUESTION, *crowd, *sentences(4000)], NEAR)
    assert (stands[1:4001] == 0).all()
    assert time.monotonic() - started < 60


def banking(words: int, n: int) -> list[str]:
    """Texts of disjoint sets of sentences in one small vocabulary, as people write."""
    stock = iter(sentences(n * (words // 9 + 1), seed=9))
    return [" ".join(itertools.chain.from_iterable(next(stock).split() for _ in range(words // 9 + 1))) for _ in range(n)]


@pytest.mark.parametrize("words", [100, 300, 1000, 3000])
def test_long_texts_of_disjoint_messages_are_no_copies_and_one_with_a_word_in_a_hundred_changed_is(words: int) -> None:
    texts = banking(words, 60)
    assert not len(pairs(texts, NEAR)[0])
    rng, changed = random.Random(3), texts[7].split()
    for at in rng.sample(range(len(changed)), len(changed) // 100):
        changed[at] = rng.choice(WORDS)
    assert [side.tolist() for side in pairs([*texts, " ".join(changed)], NEAR)] == [[7], [60]]
    assert copied([" ".join(changed)], texts, NEAR).tolist() == [7]


def test_grams_of_short_texts_are_the_same_beside_a_long_one() -> None:
    short = [skeleton(text) for text in sentences(20)]
    assert (signatures([*short, *banking(200, 1)])[:20] == signatures(short)).all()
