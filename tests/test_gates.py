"""Texts that no recogniser has to be asked about: what a sign holds back, its gate would hold back too."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrain.gates import Gate, Gates
from retrain.keyformats import CASED, FIELDS, FORMATS, SIGN, secret_in, worded
from retrain.recognisers import PHONE
from retrain.scrub_rules import PATTERNS

ALL = [*(pattern.gate for pattern in PATTERNS.values()), *PHONE]
WORDED = sorted({gate for gate, _ in FORMATS if gate.startswith("(?i:")})
made = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("gate", ALL, ids=lambda gate: gate.pattern)
@made
@given(data=st.data())
def test_a_sign_is_in_every_text_that_its_gate_lets_through(gate: Gate, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(gate.pattern))
    assert re.search(gate.sign, text)
    assert Gates([gate]).search(text)


@made
@given(text=st.from_regex(CASED))
def test_every_text_with_a_format_of_keys_has_its_sign_or_a_word(text: str) -> None:
    assert SIGN.search(text) or worded(text)


@pytest.mark.parametrize("gate", WORDED)
@made
@given(data=st.data())
def test_every_text_that_a_gate_without_case_lets_through_has_a_word(gate: str, data: st.DataObject) -> None:
    assert worded(data.draw(st.from_regex(gate)))


def test_every_name_of_a_field_for_secrets_has_a_word() -> None:
    named = [*FIELDS, "X-Api-Key", "accessToken", "DB_PASSWORD", "Set-Cookie", "Authorization"]
    assert all(secret_in(name) and worded(name) for name in named)


@pytest.mark.parametrize("text", ["PASSWORD", "to\u212aen", "pa\u017fs", "Cook\u0130e", "\u00e4 bearer"])
def test_a_word_is_known_in_whatever_case(text: str) -> None:
    assert worded(text)


def test_gates_are_open_where_one_of_them_is() -> None:
    gates = Gates([Gate(r"\d{3}"), Gate(r"\d-\d"), Gate("@", "")], secrets=True)
    opened = ["123", "1-2", "a@b", "my secret", "xoxb"]
    assert [text for text in [*opened, "12", "hello", "", "a-b: c_d"] if gates.search(text)] == opened


def test_no_gates_let_nothing_through() -> None:
    assert not Gates([]).search("123 @ secret")
