"""What single prompts say by their sentence vectors: how unusual each is, and which topic it falls in."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from monitoring.counting import NotComparable
from retrain.text import vectors

DERIVED = ("novelty", "topic", "grown")  # columns that are made of the sample's prompts, here and in `changes`
NEAREST = 3
TOPICS = 24
TOPIC_ROWS = 300  # of fewer rows, so many shares differ by chance alone: 100 quiet rows already look like drift


@dataclass(frozen=True)
class Prompts:
    """The prompts of both samples, the reference's first, with their vectors: each is looked at three times."""

    texts: list[str]
    points: Any  # (prompts, 256)
    reference: int  # so many are the reference's

    @classmethod
    def of(cls, reference: list[str], current: list[str]) -> "Prompts":
        return cls([*reference, *current], vectors([*reference, *current]), len(reference))


def novelty(prompts: Prompts) -> tuple[Any, Any]:
    """How far each prompt is from what the champion's users asked: 1 - mean cosine of the three nearest reference prompts.

    The text classifier behind abs_text_content_drift sees little in windows of a few hundred rows; this sees more. A
    reference prompt is not its own neighbour, and copies do not count on either side.
    """
    once = list({text: i for i, text in enumerate(prompts.texts[: prompts.reference])}.values())
    if len(once) <= NEAREST:
        raise NotComparable(f"{len(once)} different prompts in the reference, novelty needs more than {NEAREST}")
    near = prompts.points @ prompts.points[once].T
    near[near > 0.9999] = -1.0
    found = 1.0 - np.partition(near, -NEAREST, axis=1)[:, -NEAREST:].mean(axis=1)
    return found[: prompts.reference], found[prompts.reference :]


def topics(prompts: Prompts) -> tuple[Any, Any]:
    """Which of 24 clusters a prompt falls in, found on both sides together: new wording gets a cluster of its own.

    Clusters of the reference alone have no place for what is new, and saw a third of the shifted windows.
    """
    from sklearn.cluster import KMeans

    if min(prompts.reference, len(prompts.texts) - prompts.reference) < TOPIC_ROWS:
        raise NotComparable(f"topics need {TOPIC_ROWS} prompts on both sides")
    count = min(TOPICS, len(set(prompts.texts)))
    found = np.array([f"topic {n}" for n in KMeans(count, random_state=0, n_init=1).fit_predict(prompts.points)])
    return found[: prompts.reference], found[prompts.reference :]
