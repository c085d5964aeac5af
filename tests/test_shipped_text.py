"""The shipped text is written sentence by sentence: no copies between what trains and what judges, hardly any near copy."""

import json
from pathlib import Path

import numpy as np
import pytest

from retrain.records import Example, question_key
from retrain.router import read_nobody
from retrain.simulate import read_traffic

DATA = Path(__file__).parents[1] / "data"
NEAR = 0.6  # Jaccard similarity of the character 4-grams of two normalised messages


def texts(adapter: str) -> dict[str, list[str]]:
    files = [DATA / "seed" / f"{adapter}.jsonl", *sorted((DATA / "suites" / adapter).rglob("*.jsonl"))]
    found = {
        str(path.relative_to(DATA)): [
            Example.model_validate(json.loads(line)).question for line in path.read_text().splitlines()
        ]
        for path in files
    }
    return found | {"traffic": [row["text"] for row in read_traffic(DATA / "traffic" / f"{adapter}.jsonl")]}


def nearest(messages: list[str]) -> np.ndarray:
    """Each message's similarity (0 to 1) to its most similar other one; shape (n,)."""
    from sklearn.feature_extraction.text import CountVectorizer

    grams = CountVectorizer(analyzer="char_wb", ngram_range=(4, 4), binary=True).fit_transform(messages).astype(np.float32)
    both = (grams @ grams.T).toarray()
    sizes = np.asarray(grams.sum(axis=1)).ravel()
    similarity = both / (sizes[:, None] + sizes[None, :] - both)
    np.fill_diagonal(similarity, 0.0)
    return similarity.max(axis=1)


@pytest.mark.parametrize("adapter", ["support", "orders"])
def test_no_message_stands_in_two_places(adapter: str) -> None:
    keys = [question_key(text) for found in texts(adapter).values() for text in found]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(("adapter", "most"), [("support", 0.01), ("orders", 0.01)])
def test_hardly_any_message_is_a_near_copy_of_another(adapter: str, most: float) -> None:
    messages = [question_key(text) for found in texts(adapter).values() for text in found]
    share = float((nearest(messages) >= NEAR).mean())
    assert share <= most


def test_the_measure_finds_a_template() -> None:
    filled = [f"i would like to return the {thing} that i bought last week" for thing in ("lamp", "chair", "kettle", "rug")]
    assert (nearest([*filled, "where is my parcel"]) >= NEAR).sum() == 4


def test_what_is_for_nobody_stands_nowhere_else_and_is_near_to_nothing() -> None:
    shipped = [text for adapter in ("support", "orders") for found in texts(adapter).values() for text in found]
    nobody = read_nobody(DATA / "router" / "nobody.jsonl")
    assert len(nobody) >= 120
    keys = [question_key(text) for text in [*shipped, *nobody]]
    assert len(keys) == len(set(keys))
    assert float(nearest([*shipped, *nobody])[len(shipped) :].max()) < NEAR
