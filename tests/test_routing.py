"""The router as a function: where messages go, what is for nobody, what measures it, and that damaged files never route."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retrain import params, route_figures, router, routing
from retrain.errors import DataError, IntegrityError
from retrain.records import Example, read_examples, unit_hash
from retrain.sections import Router as Rules
from retrain.story import HOME

RULES = params.load(HOME).router["auto"]
LABELS = {"support": params.load(HOME).adapter("support").labels, "orders": ()}
CARD, LEMONS, MOON = (
    "My card was declined at the checkout",
    "12 crates of lemons to 19 Quay Street",
    "Tell me a riddle about the moon",
)


def some(path: str, n: int) -> list[Example]:
    return read_examples(HOME / path)[:n]


def rows_of(*names: str, n: int = 120) -> routing.Rows:
    human = {name: some(f"data/seed/{name}.jsonl", n) for name in names}
    judged = {name: some(f"data/suites/{name}/golden.jsonl", 40) for name in names}
    return routing.Rows(human, judged, router.read_nobody(HOME / router.NOBODY), LABELS).clean()


ROWS = rows_of("support", "orders")


@pytest.fixture(scope="module")
def fitted() -> routing.Router:
    return routing.fit(ROWS, RULES, seed=7)


def test_each_message_goes_to_its_specialist_and_what_is_for_none_to_nobody(fitted: routing.Router) -> None:
    assert [route.specialist for route in fitted.routes([CARD, LEMONS, MOON])] == ["support", "orders", None]


def test_no_specialist_loses_more_of_its_calibration_rows_than_params_allow(fitted: routing.Router) -> None:
    for name, rows in ROWS.human.items():
        held = [row.question for row in rows if unit_hash(row.id, "calibrate") < RULES.calibration]
        refused = (fitted.probabilities(held).max(axis=1) < fitted.threshold).mean()
        assert len(held) > 15 and refused <= RULES.refused, name


def test_a_stricter_share_refuses_fewer(fitted: routing.Router) -> None:
    loose = routing.fit(ROWS, RULES.model_copy(update={"refused": 0.3}), seed=7)
    assert loose.threshold > fitted.threshold


def test_the_same_rows_give_the_same_bytes_which_route_the_same(fitted: routing.Router) -> None:
    files = routing.packed(fitted)
    assert routing.digest_of(files) == routing.digest_of(routing.packed(routing.fit(ROWS, RULES, seed=7)))
    again = routing.unpacked(files, routing.digest_of(files))
    texts = [row.question for row in ROWS.judged["support"]]
    assert np.array_equal(again.probabilities(texts), fitted.probabilities(texts))


def altered(fitted: routing.Router, **changes: object) -> dict[str, bytes]:
    return routing.packed(replace(fitted, **changes))  # type: ignore[arg-type]


def test_a_router_of_other_bytes_than_its_digest_says_is_not_read(fitted: routing.Router) -> None:
    files = routing.packed(fitted)
    digest = routing.digest_of(files)
    broken = bytearray(files[routing.ARRAYS])
    broken[-5] ^= 1
    cases = [
        ({**files, routing.ARRAYS: bytes(broken)}, "damaged or exchanged"),
        ({**files, routing.FILE: files[routing.FILE] + b" "}, "not the one with sha256"),
        ({routing.FILE: files[routing.FILE]}, "has no router.safetensors"),
    ]
    for one, words in cases:
        with pytest.raises(IntegrityError, match=words):
            routing.unpacked(one, digest)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": np.full((1, 3), 0.0, np.float32)}, "do not fit together"),
        ({"threshold": 1.5}, "no probability"),
        ({"specialists": ("support",)}, "do not fit together"),
    ],
)
def test_a_router_that_makes_no_sense_is_not_read(fitted: routing.Router, change: dict[str, object], words: str) -> None:
    with pytest.raises(IntegrityError, match=words):
        routing.unpacked(altered(fitted, **change), None)


def test_weights_that_are_not_finite_or_of_other_vectors_are_not_read(
    fitted: routing.Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = fitted.weights.copy()
    weights[0, 0] = np.nan
    with pytest.raises(IntegrityError, match="not finite"):
        routing.unpacked(altered(fitted, weights=weights), None)
    files = routing.packed(fitted)
    monkeypatch.setattr(routing, "vectors", lambda texts: np.ones((len(texts), 256), np.float32))
    with pytest.raises(IntegrityError, match="other sentence vectors"):
        routing.unpacked(files, None)


def test_a_newer_schema_is_refused_with_the_reason(fitted: routing.Router) -> None:
    files = routing.packed(fitted)
    newer = {**json.loads(files[routing.FILE]), "schema": 2}
    with pytest.raises(IntegrityError, match="reads up to 1: update"):
        routing.unpacked({**files, routing.FILE: json.dumps(newer).encode()}, None)


@pytest.mark.parametrize(
    "text", ["", "  \n", "\ud800", "x" * 1_000_000, "今日はとても暑いですね。", "👍", "\0", "¿dónde está?"]
)
def test_any_text_has_a_route_and_a_blank_one_is_for_nobody(fitted: routing.Router, text: str) -> None:
    found = fitted.route(text)
    assert 0 <= found.probability <= 1
    assert found.specialist is None or text.strip()


def test_a_long_text_is_routed_by_its_beginning(fitted: routing.Router) -> None:
    long = f"{CARD}. " * 60
    assert fitted.route(long).specialist == "support"
    assert fitted.route(long[:2000]).probabilities == fitted.route(long[:2000] + LEMONS * 50).probabilities


def test_one_specialist_gets_what_is_its_own_and_the_rest_is_for_nobody() -> None:
    alone = routing.fit(rows_of("orders"), RULES, seed=7)
    assert [route.specialist for route in alone.routes([LEMONS, MOON])] == ["orders", None]


def test_a_specialist_without_rows_is_left_out_and_without_any_nothing_is_fitted() -> None:
    some_rows = routing.Rows({**ROWS.human, "new": []}, {**ROWS.judged, "new": []}, ROWS.nobody, LABELS)
    made = routing.fit(some_rows, RULES, seed=7)
    assert made.specialists == ("support", "orders") and made.fitted["left_out"] == {"new": 0}
    with pytest.raises(DataError, match=r"router.auto.min_rows \(20\)"):
        routing.fit(replace(ROWS, human={"new": []}), RULES, seed=7)
    with pytest.raises(DataError, match="enough and 0"):
        routing.fit(replace(ROWS, nobody=[]), RULES, seed=7)


def test_a_router_that_nothing_would_measure_is_not_fitted() -> None:
    with pytest.raises(DataError, match="without golden and audited rows are: orders"):
        routing.fit(replace(ROWS, judged={"support": ROWS.judged["support"]}), RULES, seed=7)
    fits, _ = ROWS.halves(RULES.nobody_judges)
    with pytest.raises(DataError, match="0 rows of data/router/nobody.jsonl judge"):
        routing.fit(replace(ROWS, nobody=fits), RULES, seed=7)


def test_what_judges_never_fits_and_a_specialists_text_is_never_nobodys() -> None:
    def row(text: str, answer: str = "a") -> Example:
        return Example.of(text, answer, source="seed")

    rows = routing.Rows(
        {"one": [row("in both"), row("own"), row("own", "b"), row("label that nobody lists", "c")]},
        {"one": [row("In both!")]}, ["own", "in both", "theirs", "Theirs."], {"one": ("a", "b")},
    ).clean()  # fmt: skip
    assert [one.question for one in rows.human["one"]] == ["own"]
    assert rows.nobody == ["Theirs."]


def test_what_nobody_judges_stays_so_when_rows_are_added() -> None:
    fits, judges = ROWS.halves(RULES.nobody_judges)
    more = replace(ROWS, nobody=["a new one", *ROWS.nobody])
    assert set(judges) <= set(more.halves(RULES.nobody_judges)[1])
    assert not set(fits) & set(judges)


def test_a_row_routed_right_and_answered_wrong_is_wrong_end_to_end(fitted: routing.Router) -> None:
    own = [row for row in ROWS.judged["support"] if fitted.route(row.question).specialist == "support"]
    rows = replace(ROWS, judged={"support": own[:10]})
    assert route_figures.measure(fitted, rows, [MOON]).quality is None
    right = {"support": {row.id: i >= 3 for i, row in enumerate(own[:8])}}  # two have no stored answer: their route counts
    found = route_figures.measure(fitted, rows, [MOON], right)
    assert (found.accuracy, found.quality, found.recall) == (1.0, 0.7, 1.0)
    assert found.specialists["support"]["answered"] == 8


def figures(accuracy: float, quality: float | None, recall: float) -> route_figures.Figures:
    return route_figures.Figures(accuracy, quality, recall, {}, 10)


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (figures(0.90, 0.80, 0.70), []),
        (figures(0.88, 0.78, 0.68), []),
        (figures(0.879, 0.80, 0.70), ["routed right"]),
        (figures(0.95, 0.77, 0.70), ["routed and answered right"]),
        (figures(0.95, None, 0.60), ["out of scope and refused"]),
        (figures(0.5, 0.4, 0.1), ["routed right", "routed and answered right", "out of scope and refused"]),
    ],
)
def test_a_router_is_worse_where_any_figure_lost_more_than_the_margin(new: route_figures.Figures, words: list[str]) -> None:
    found = route_figures.worse(new, figures(0.90, 0.80, 0.70), 0.02)
    assert [line.partition(":")[0] for line in found] == words


@pytest.mark.parametrize(("orders", "words"), [(0.861, []), (0.859, ["rows of orders routed right"])])
def test_one_specialist_may_not_lose_what_the_mean_over_all_hides(orders: float, words: list[str]) -> None:
    def of(accuracy: float) -> route_figures.Figures:
        told = {"a": 0.9, "b": 0.9, "c": 0.9, "orders": accuracy}
        return replace(figures(0.90, None, 0.70), specialists={name: {"accuracy": share} for name, share in told.items()})

    found = route_figures.worse(of(orders), of(0.90), 0.02)
    assert [line.partition(":")[0] for line in found] == words


def test_the_rules_are_bounded() -> None:
    for key, value in (("refused", 0), ("calibration", 1), ("nobody_judges", 1), ("min_rows", 0), ("margin", 1)):
        with pytest.raises(ValueError, match=key):
            Rules.model_validate({**RULES.model_dump(), key: value})


@pytest.mark.parametrize("text", ['{"message": "x"}', '{"text": "  "}', '{"text": 7}'])
def test_a_row_of_nobody_without_a_text_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "nobody.jsonl").write_text(f'{{"text": "fine"}}\n{text}\n')
    with pytest.raises(DataError, match="row 2, has no text"):
        router.read_nobody(tmp_path / "nobody.jsonl")
