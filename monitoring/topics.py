"""What single prompts say by their sentence vectors: how unusual each is, and which topic it falls in."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from monitoring.counting import NotComparable
from retrain.text import vectors

NEAREST = 3
TOPICS = 24
TOPIC_ROWS = 300  # of fewer rows, so many shares differ by chance alone: 100 quiet rows already look like drift


def novelty(reference: Sequence[str], current: Sequence[str]) -> tuple[Any, Any]:
    """How far each prompt is from what the champion's users asked: 1 - mean cosine of the three nearest reference prompts.

    The text classifier behind abs_text_content_drift sees little in windows of a few hundred rows; this sees more. A
    reference prompt is not its own neighbour, and copies do not count on either side.
    """
    known = vectors(sorted(set(reference)))
    if len(known) <= NEAREST:
        raise NotComparable(f"{len(known)} different prompts in the reference, novelty needs more than {NEAREST}")
    return _novelty(reference, known), _novelty(current, known)


def _novelty(prompts: Sequence[str], known: Any) -> Any:
    near = vectors(prompts) @ known.T
    near[near > 0.9999] = -1.0
    return 1.0 - np.partition(near, -NEAREST, axis=1)[:, -NEAREST:].mean(axis=1)


def topics(reference: Sequence[str], current: Sequence[str]) -> tuple[Any, Any]:
    """Which of 24 clusters a prompt falls in, found on both sides together: new wording gets a cluster of its own.

    Clusters of the reference alone have no place for what is new, and saw a third of the shifted windows.
    """
    from sklearn.cluster import KMeans

    if min(len(reference), len(current)) < TOPIC_ROWS:
        raise NotComparable(f"topics need {TOPIC_ROWS} prompts on both sides")
    both = np.vstack([vectors(reference), vectors(current)])
    count = min(TOPICS, len(np.unique(both, axis=0)))
    found = np.array([f"topic {n}" for n in KMeans(count, random_state=0, n_init=1).fit_predict(both)])
    return found[: len(reference)], found[len(reference) :]
