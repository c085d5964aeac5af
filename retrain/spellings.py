"""Spellings of personal data that Presidio does not read, and what it takes for personal data that is none.

`plain` gives a text of the same length in which it reads more: what stands there at a place stands in the text at that place.
"""

import re

_SPACES = dict.fromkeys(map(ord, "\u00a0\u2007\u2009\u200a\u202f\u3000"), " ")
_WIDE = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width forms of ASCII
_DOTTED = re.compile(r"(?<![\d.])\d{4}(?:\.\d{4}){3}(?![\d.])")
_BROKEN = re.compile(r"(?<!\d)(\d{4})\n(?=\d{4}(?!\d))")  # between two groups of four

# local parts in quotes, domains that are nobody's to register, @ as forms and addresses write it
EMAIL = (
    r"(?i)[\w.!#$%&'*+/?^{|}~-]+(?:@|\uff20|%40)(?:[\w-]+\.)+(?:local|localdomain|internal|intranet|lan|corp|home)\b"
    r"|\"[^\"\n]{1,64}\"@(?:[\w-]+\.)+[a-z]{2,24}\b|[\w.+%-]*[\w.+-](?:\uff20|%40)(?:[\w-]+\.)+[a-z]{2,24}\b"
)

_IN_IPV6 = re.compile(r"(?=[0-9A-Fa-f]*\d)[0-9A-Fa-f]{3,4}")
_VERSION = re.compile(r"(?i)\b(?:version|ver|v|release|build|macos|ios|ipados|android)[ :=]{0,3}\Z")
_DATE = re.compile(r"(?:19|20)\d\d\.(?:0[1-9]|1[0-2])\.(?:0[1-9]|[12]\d|3[01])(?:\.\d{1,2})*")


def plain(kind: str, text: str) -> str:
    """Of the same length: spaces and full-width characters as ASCII has them, cards with dashes, IBANs in capitals."""
    text = text.translate(_SPACES).translate(_WIDE)
    if kind == "credit_card":
        return _BROKEN.sub(r"\1 ", _DOTTED.sub(lambda found: found[0].replace(".", "-"), text))
    return "".join(up if len(up := char.upper()) == 1 else char for char in text) if kind == "iban" else text


def ordinary(kind: str, text: str, start: int, end: int) -> bool:
    """Whether text[start:end], taken for one of this kind, is a version, a date, or a :: of code or of a score."""
    found = text[start:end]
    if kind == "ip":
        short = "::" in found and "." not in found and not _IN_IPV6.search(found)
        return short or (":" not in found and _VERSION.search(text, max(0, start - 20), start) is not None)
    return kind == "phone" and _DATE.fullmatch(found) is not None
