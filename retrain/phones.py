"""Which texts can hold a phone number of a region, by the metadata of `phonenumbers`, whose own search takes 30 us a region.

What is found is always a row of whole groups of digits with little between them, which parsed is a number of the general form
of a region that shares the country code, behind the prefixes that people dial; or it begins with a plus.
"""

import re
from dataclasses import dataclass
from typing import Any

from retrain.errors import ParamsError

PLUS = r"[+\uFF0B]"  # any text with one may hold a number,
DIALLED = r"\d(?:[\Wx\u30FC]{0,4}\d){3}"  # or one with four digits: no number is shorter
_CHAIN = re.compile(r"\d+(?:[\Wx\u30FC]{1,4}\d+)*")  # what may stand between digits, and more
_GROUP = re.compile(r"\d+")
ABROAD = 8  # digits of the shortest number of another country, behind its code and what is dialled before that
LONGEST = 17 + 3 + 4  # digits of a number with its country code, and of what is dialled before that


def dialled(text: str) -> set[str] | None:
    """The digits of every row of neighbouring groups that is short enough; None where anything may be a number."""
    if "+" in text or "\uff0b" in text:
        return None
    found = set()
    for chain in _CHAIN.findall(text):
        groups = _GROUP.findall(chain)
        if (not chain.isascii() and not all(group.isascii() for group in groups)) or max(map(len, groups)) > LONGEST:
            return None
        for first in range(len(groups)):
            digits = ""
            for group in groups[first:]:
                digits += group
                if len(digits) > LONGEST:
                    break
                found.add(digits)
    return found


@dataclass(frozen=True)
class _Form:
    """How numbers that begin so are written, and whether what is dialled before them at home belongs to it."""

    begins: re.Pattern[str]
    digits: re.Pattern[str]
    needs_trunk: bool


@dataclass(frozen=True)
class Region:
    """`numbers`: the general form of the numbers of all regions with its country code, without it; `abroad` and `trunk` are
    what is dialled before a number."""

    code: str
    shortest: int
    numbers: re.Pattern[str]
    forms: tuple[_Form, ...]
    abroad: re.Pattern[str]
    trunk: re.Pattern[str] | None
    rewrites: bool  # a number that is dialled may be another one than its digits say

    @classmethod
    def of(cls, name: str) -> "Region":
        """ParamsError where there is no such region."""
        from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata

        known = PhoneMetadata.metadata_for_region(name)
        if known is None or known.country_code is None:
            raise ParamsError(f"scrub.regions (params.yaml) has {name!r}, no known region: use ISO codes such as US, GB, DE")
        every = [PhoneMetadata.metadata_for_region(one) for one in COUNTRY_CODE_TO_REGION_CODE[known.country_code]]
        general = [one.general_desc for one in every if one and one.general_desc]
        main = every[0] or known
        trunk = known.national_prefix_for_parsing
        return cls(
            code=str(known.country_code),
            shortest=min([ABROAD, *(length for one in general for length in one.possible_length)]),
            numbers=re.compile("|".join(f"(?:{one.national_number_pattern})" for one in general)),
            forms=tuple(map(_form, main.number_format)),
            abroad=re.compile(known.international_prefix or r"(?!)"),
            trunk=re.compile(trunk) if trunk else None,
            rewrites=bool(known.national_prefix_transform_rule),
        )

    def could_hold(self, dialled: set[str] | None) -> bool:
        """Whether one of these may be a number of the region, or one from abroad as it is dialled there."""
        if dialled is None or self.rewrites:
            return dialled is None or bool(dialled)
        return any(len(digits) >= self.shortest and self._could_be(digits) for digits in dialled)

    def _could_be(self, digits: str) -> bool:
        if self.numbers.fullmatch(digits) and not self._lacks_trunk(digits):
            return True
        behind = [digits.removeprefix(self.code)] if digits.startswith(self.code) else []
        trunks = [found for one in (digits, *behind) if self.trunk and (found := self.trunk.match(one))]
        behind += [found.string[found.end() :] for found in trunks]
        return bool(self.abroad.match(digits)) or any(map(self.numbers.fullmatch, behind))

    def _lacks_trunk(self, digits: str) -> bool:
        form = next((one for one in self.forms if one.begins.match(digits) and one.digits.fullmatch(digits)), None)
        return form is not None and form.needs_trunk


def _form(written: Any) -> _Form:
    rule = written.national_prefix_formatting_rule
    optional = written.national_prefix_optional_when_formatting or not rule or re.fullmatch(r"\(?\\1\)?", rule)
    begins = written.leading_digits_pattern[-1] if written.leading_digits_pattern else ""
    return _Form(re.compile(begins), re.compile(written.pattern), not optional)
