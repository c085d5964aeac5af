"""Would something simpler have been enough? Logistic regression on static sentence vectors, on the same rows."""

from collections.abc import Sequence
from typing import Any

from retrain.records import Example
from retrain.text import vectors

STRENGTH = 20.0


def answers(train: Sequence[Example], questions: Sequence[str], *, seed: int) -> list[str]:
    """The label that a regression fitted on train gives each question; with a single label, that label."""
    labels = [row.answer for row in train]
    if not questions or len(set(labels)) < 2:
        return labels[:1] * len(questions)
    return [str(label) for label in _of(train, seed).predict(vectors(questions))]


def agreement(train: Sequence[Example], rows: Sequence[Example], *, seed: int) -> list[float]:
    """Probability (0 to 1) that a regression fitted on train gives each row's own label; 0 for a label it never saw.

    With fewer than two labels in train nothing could disagree, so nothing agrees either: 0 for all.
    """
    if not rows or len({row.answer for row in train}) < 2:
        return [0.0] * len(rows)
    model = _of(train, seed)
    at = {str(label): i for i, label in enumerate(model.classes_)}
    found = model.predict_proba(vectors([row.question for row in rows]))
    return [float(found[i, at[row.answer]]) if row.answer in at else 0.0 for i, row in enumerate(rows)]


def fitted(points: Any, labels: Sequence[str], *, strength: float, seed: int | None = None) -> Any:
    """scikit-learn's model of labels by points, float (rows, dimensions); strength: its C, the inverse of regularisation."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=2000, class_weight="balanced", random_state=seed)
    return model.fit(points, labels)


def _of(train: Sequence[Example], seed: int) -> Any:
    points, labels = vectors([row.question for row in train]), [row.answer for row in train]
    return fitted(points, labels, strength=STRENGTH, seed=seed)
