"""Which texts are shown to a recogniser: those that its gate, a regular expression, lets through.

A gate takes up to 20 us a text. Before it stands a sign, a cheaper look for what every match of the gate has: it changes
nothing in what passes, it only says where the gate need not be asked, and tests hold each against texts made from its gate.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from retrain.keyformats import CASED, SIGN, worded

DIGIT = r"\d"
Look = Callable[[str], object]


class Gate(NamedTuple):
    """`pattern` is in every text that a recogniser finds something in, `sign` in every text that has the pattern; "": the gate
    is asked of every text."""

    pattern: str
    sign: str = DIGIT


class Gates:
    """Several gates as one: open where any of them is; those with one sign are one regular expression."""

    def __init__(self, gates: Iterable[Gate], *, secrets: bool = False) -> None:
        signed: dict[str, list[str]] = {}
        for gate in dict.fromkeys(gates):
            signed.setdefault(gate.sign, []).append(gate.pattern)
        self.looks: list[tuple[Look, Look]] = [(worded, worded), (SIGN.search, re.compile(CASED).search)] if secrets else []
        for sign, patterns in signed.items():
            found = re.compile("|".join(patterns)).search
            self.looks.append((re.compile(sign).search if sign else found, found))

    def search(self, text: str) -> bool:
        for sign, gate in self.looks:  # noqa: SIM110 (any() takes twice as long, and this is asked of every text)
            if sign(text) and gate(text):
                return True
        return False
