"""PURE: which specialist a message is for, or none of them: fitted, calibrated, packed (`route_figures` measures it).

A softmax regression over static sentence vectors and hashed character 2- to 4-grams. Its classes are the labels of each
specialist (one class where a specialist writes texts) and "nobody"; a specialist's probability is the sum over its classes.
The message goes to the likeliest specialist, or where that is less likely than the threshold to nobody.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from retrain.errors import DataError, IntegrityError
from retrain.records import Example, dumps, question_key, text_digest, unit_hash
from retrain.sections import Router as Rules
from retrain.text import LONGEST, vectors

NAME = "auto"  # the model that a client asks for
FILE, ARRAYS = "router.json", "router.safetensors"
SCHEMA = 1
GRAMS = 2**12  # hashed character n-grams; on the shipped rows four times as many told no better
STRENGTH = 2.0  # inverse of regularisation: of 2, 5 and 20 the best on the shipped rows
NOBODY = -1  # the owner of the class of out-of-scope rows
PROBES = ("where is my parcel", "two crates of lemons for Friday", "do you like jazz?")  # what the vectors are known again by


@dataclass(frozen=True)
class Route:
    """Where a message goes, None where nobody is meant; `probability` is the likeliest specialist's."""

    specialist: str | None
    probability: float
    probabilities: dict[str, float]
    threshold: float

    def as_dict(self) -> dict[str, Any]:
        told = {name: round(p, 4) for name, p in sorted(self.probabilities.items(), key=lambda one: -one[1])}
        nobody = round(max(0.0, 1 - sum(self.probabilities.values())), 4)
        return {"route": self.specialist, "probabilities": told, "nobody": nobody, "threshold": round(self.threshold, 4)}


@dataclass(frozen=True, eq=False)
class Router:
    """weights: float32 (classes, features); bias: (classes,); owners: which specialist each class is of, NOBODY for none."""

    specialists: tuple[str, ...]
    weights: Any
    bias: Any
    owners: Any
    threshold: float
    fitted: dict[str, Any]  # what it was made of, for people

    def probabilities(self, texts: Sequence[str]) -> Any:
        """float64 (texts, specialists); a blank text is for nobody."""
        import numpy as np

        points = features(texts)
        scores = points @ self.weights.T.astype(np.float64) + self.bias
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares = scores / scores.sum(axis=1, keepdims=True)
        own = [shares[:, self.owners == n].sum(axis=1) for n in range(len(self.specialists))]
        said = np.asarray([bool(text.strip()) for text in texts], dtype=np.float64)
        return np.stack(own, axis=1) * said[:, None]

    def routes(self, texts: Sequence[str]) -> list[Route]:
        found = self.probabilities(texts) if texts else []
        return [self._route([float(p) for p in row]) for row in found]

    def route(self, text: str) -> Route:
        return self.routes([text])[0]

    def _route(self, row: list[float]) -> Route:
        best = max(range(len(row)), key=row.__getitem__)
        chosen = self.specialists[best] if row[best] >= self.threshold else None
        return Route(chosen, row[best], dict(zip(self.specialists, row, strict=True)), self.threshold)


def features(texts: Sequence[str]) -> Any:
    """Sparse (texts, 256 + GRAMS) of the texts' beginnings: both parts have length 1, or 0 for a text without any."""
    from scipy import sparse

    clean = [text[:LONGEST].encode("utf-8", "replace").decode() for text in texts]
    return sparse.hstack([sparse.csr_matrix(vectors(clean)), _grams().transform(clean)], format="csr")


@cache
def _grams() -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), n_features=GRAMS, alternate_sign=False)


# --- fitting


@dataclass(frozen=True)
class Rows:
    """What a router is made of and measured on: questions with ids and answers of each specialist, and texts for nobody.

    labels: of the specialists that choose among labels. `judged` never fits: a question in both leaves `human`.
    """

    human: Mapping[str, Sequence[Example]]
    judged: Mapping[str, Sequence[Example]]
    nobody: Sequence[str]
    labels: Mapping[str, Sequence[str]]

    def clean(self) -> "Rows":
        """Once each question, without unlisted labels, without what judges, and nobody's without what a specialist has."""
        judged = {name: _once(self._listed(name, rows)) for name, rows in self.judged.items()}
        judges = {row.key for rows in judged.values() for row in rows}
        human = {
            name: [row for row in _once(self._listed(name, rows)) if row.key not in judges] for name, rows in self.human.items()
        }
        taken = judges | {row.key for rows in human.values() for row in rows}
        nobody = list({key: text for text in self.nobody if (key := question_key(text)) not in taken}.values())
        return Rows(human, judged, nobody, self.labels)

    def _listed(self, name: str, rows: Sequence[Example]) -> list[Example]:
        listed = self.labels.get(name)
        return [row for row in rows if not listed or row.answer in listed]

    def halves(self, share: float) -> tuple[list[str], list[str]]:
        """Nobody's texts (that fit, that judge), by hash."""
        judge = [unit_hash(question_key(text), "nobody") < share for text in self.nobody]
        pairs = list(zip(self.nobody, judge, strict=True))
        return [text for text, held in pairs if not held], [text for text, held in pairs if held]


def _once(rows: Sequence[Example]) -> list[Example]:
    return sorted({row.key: row for row in rows}.values(), key=lambda row: row.id)


def fit(rows: Rows, rules: Rules, *, seed: int) -> Router:
    """A router of `rows.clean()`; DataError where there are too few rows of any specialist, or for nobody, or that measure it.

    The threshold is the largest by which no specialist loses more than rules.refused of its calibration rows, which are drawn
    by hash and do not fit.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    few = {name: len(found) for name, found in rows.human.items() if len(found) < rules.min_rows}
    names = tuple(name for name in rows.human if name not in few)
    learn, judge = rows.halves(rules.nobody_judges)
    if not names or len(learn) < rules.min_rows:
        raise DataError(
            f"a router needs router.auto.min_rows ({rules.min_rows}) human rows of a specialist, and as many of "
            f"data/router/nobody.jsonl that fit: there are {few or 'enough'} and {len(learn)}"
        )
    unjudged = [name for name in names if not rows.judged.get(name)]
    if unjudged or not judge:
        raise DataError(
            f"nothing would measure the router: {len(judge)} rows of data/router/nobody.jsonl judge (nobody_judges), "
            f"and specialists without golden and audited rows are: {', '.join(unjudged) or 'none'}"
        )
    held = {name: [row for row in rows.human[name] if unit_hash(row.id, "calibrate") < rules.calibration] for name in names}
    fits = {name: [row for row in rows.human[name] if unit_hash(row.id, "calibrate") >= rules.calibration] for name in names}
    classes = [(n, row.answer if rows.labels.get(name) else "") for n, name in enumerate(names) for row in fits[name]]
    classes += [(NOBODY, "")] * len(learn)
    known = sorted(set(classes))
    number = {one: n for n, one in enumerate(known)}
    which = np.asarray([number[one] for one in classes])
    texts = [row.question for name in names for row in fits[name]] + learn
    model = LogisticRegression(C=STRENGTH, max_iter=2000, random_state=seed)
    with threadpool_limits(1):  # a sum over threads would give other bytes on another number of cores
        model.fit(features(texts), which, sample_weight=_weights(known, which))
    weights, bias = model.coef_, model.intercept_
    if len(known) == 2:  # scikit-learn keeps one row of weights for two classes
        weights, bias = np.vstack([np.zeros_like(weights), weights]), np.concatenate([[0.0], bias])
    owners = np.asarray([owner for owner, _ in known])
    fitted = {
        "specialists": {name: {"fit": len(fits[name]), "calibrate": len(held[name])} for name in names},
        "nobody": len(learn),
        "left_out": few,
        "classes": len(known),
        "rows": text_digest("\n".join(sorted([row.id for name in names for row in rows.human[name]] + list(rows.nobody)))),
    }
    router = Router(names, weights.astype(np.float32), bias.astype(np.float32), owners, 0.0, fitted)
    return _calibrated(router, held, rules.refused)


def _weights(known: Sequence[tuple[int, str]], which: Any) -> Any:
    """Of each row, so that the specialists and nobody count the same, and so do the classes of each."""
    import numpy as np

    sizes, owners = np.bincount(which, minlength=len(known)), [owner for owner, _ in known]
    each = np.asarray([1 / (len(set(owners)) * owners.count(owner)) for owner in owners])
    return len(which) * (each / sizes)[which]


def _calibrated(router: Router, held: Mapping[str, Sequence[Example]], refused: float) -> Router:
    import numpy as np

    best = {name: router.probabilities([row.question for row in rows]).max(axis=1) for name, rows in held.items() if rows}
    if not best:
        raise DataError("no row sets the threshold: router.auto.calibration is too small for so few rows")
    return replace(router, threshold=float(min(np.quantile(found, refused, method="lower") for found in best.values())))


# --- files


def packed(router: Router) -> dict[str, bytes]:
    """The files of a router by name: arrays, and what they mean, which pins them."""
    import numpy as np
    from safetensors.numpy import save

    arrays = {"weights": router.weights, "bias": router.bias, "owners": router.owners.astype(np.int64)}
    # contiguous: safetensors writes an array's memory, whatever its order is
    data = save({name: np.ascontiguousarray(array) for name, array in {**arrays, "probes": vectors(PROBES)}.items()})
    about = {
        "schema": SCHEMA, "name": NAME, "specialists": list(router.specialists), "threshold": router.threshold,
        "fitted": router.fitted, "arrays": _sha(data),
    }  # fmt: skip
    return {FILE: (dumps(about, indent=2) + "\n").encode(), ARRAYS: data}


def digest_of(files: Mapping[str, bytes]) -> str:
    """sha256 of router.json, which holds that of the arrays."""
    return _sha(files[FILE]) if FILE in files else ""


def unpacked(files: Mapping[str, bytes], digest: str | None) -> Router:
    """The router of these files; IntegrityError where they are not those of the digest, damaged, or of other vectors."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load

    missing = {FILE, ARRAYS} - set(files)
    if missing:
        raise IntegrityError(f"the router has no {' and no '.join(sorted(missing))}")
    if digest is not None and digest_of(files) != digest:
        raise IntegrityError(f"{FILE} is not the one with sha256 {digest[:12]}, it has {digest_of(files)[:12]}")
    try:
        about = json.loads(files[FILE])
        if about["schema"] > SCHEMA:
            raise IntegrityError(f"the router has schema {about['schema']}, this version reads up to {SCHEMA}: update")
        if _sha(files[ARRAYS]) != about["arrays"]:
            raise IntegrityError(f"{ARRAYS} is not the one that {FILE} names: it was damaged or exchanged")
        arrays = load(files[ARRAYS])
        router = Router(
            tuple(about["specialists"]),
            arrays["weights"],
            arrays["bias"],
            arrays["owners"],
            float(about["threshold"]),
            about["fitted"],
        )
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise IntegrityError(f"the router cannot be read ({type(error).__name__}: {error}): fit it again") from error
    _check(router)
    if not np.allclose(arrays["probes"], vectors(PROBES), atol=1e-3):
        raise IntegrityError("the router was fitted on other sentence vectors than are installed here: `retrain route fit`")
    return router


def _check(router: Router) -> None:
    import numpy as np

    classes, owners = len(router.bias), set(np.asarray(router.owners).tolist())
    whole = router.weights.shape == (classes, vectors([]).shape[1] + GRAMS) and router.owners.shape == (classes,)
    if not whole or owners - {NOBODY} != set(range(len(router.specialists))) or not router.specialists:
        raise IntegrityError("the router's arrays do not fit together: fit it again")
    if not (np.isfinite(router.weights).all() and np.isfinite(router.bias).all() and 0 <= router.threshold <= 1):
        raise IntegrityError("the router has values that are not finite, or a threshold that is no probability: fit it again")


def _sha(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()
