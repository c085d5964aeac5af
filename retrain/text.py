"""Text as the loop compares it: normalised form and static sentence vectors."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

LONGEST = 2000  # characters of a text that its vector is made of: a batch is padded to its longest, 1 MB took 8 GB
_NOT_WORD = re.compile(r"[^\w\s]+")
_UNSEEN = re.compile("[\u0300-\u036f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]+")  # accents, no width
_ALIKE = str.maketrans("авеіјкмнорстухѕԁһӏԛԝαβγεηικνορτυχωıɡɪɴʀ", "abeijkmhopctyxsdhlqwabyenikvoptuxwiginr")
_DIGIT = re.compile(r"\d")


def normalise(text: str) -> str:
    """NFKC, case-folded, punctuation and runs of white space dropped: equal results are exact copies.

    A text made of punctuation alone keeps it, or all of them would be copies of each other.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_NOT_WORD.sub(" ", folded).split()) or " ".join(folded.split())


def skeleton(text: str) -> str:
    """What two near copies are compared by: `normalise`, less accents and characters of no width, with Cyrillic and Greek
    letters that look like Latin ones as these, and every digit as 0."""
    if not text.isascii():
        text = _UNSEEN.sub("", unicodedata.normalize("NFKD", text)).casefold().translate(_ALIKE)
    return _DIGIT.sub("0", normalise(text))


@cache
def _wordllama() -> Any:
    from pathlib import Path

    import wordllama

    # plain load() looks for its tokenizer in the wrong folder and then downloads; this finds both in the wheel
    return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)


def vectors(texts: Sequence[str]) -> Any:
    """Static sentence vectors of the texts' beginnings, float32 (texts, 256), rows of length 1 (0 for no known word)."""
    import numpy as np

    if not texts:
        return np.zeros((0, 256), dtype=np.float32)
    clean = [text[:LONGEST].encode("utf-8", "replace").decode() for text in texts]  # the tokenizer refuses a lone surrogate
    order = sorted(range(len(clean)), key=lambda i: len(clean[i]))  # a batch is padded to its longest
    found = np.empty((len(clean), 256), dtype=np.float32)
    found[order] = np.nan_to_num(_wordllama().embed([clean[i] for i in order], norm=True))
    return found


def filled(template: str, places: Mapping[str, str]) -> str:
    """The template with each {{place}} filled, all at once: what is put into one is never searched for another."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: places.get(found[1], found[0]), template)


def is_text(value: str) -> bool:
    """Whether a value can be in a file or a query at all."""
    return "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)
