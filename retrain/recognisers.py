"""The only Presidio file: what looks like personal data or a secret in one text, without a model unless one is named.

Presidio's recognisers are asked one by one, each only where its gate (`scrub_rules`, `keyformats`) lets a text through: what a
gate holds back none of them finds, which tests hold against the plain analyzer. What scores below MIN is not believed.
"""

import functools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from retrain.errors import ParamsError, RetrainError
from retrain.gates import Gate, Gates
from retrain.keyformats import FORMATS
from retrain.phones import ABROAD, DIALLED, PLUS, Region, dialled
from retrain.scrub_rules import NAMED, PATTERNS, Scrub
from retrain.spellings import ordinary, plain

MIN = 0.4  # a phone number always scores this; below are patterns that any nine digits match
ANY = Gate("", "")  # who knows
PHONE = Gate(PLUS, ""), Gate(DIALLED)
ANY_PHONE = re.compile("|".join(gate.pattern for gate in PHONE))
HEAVY = ("torch", "transformers", "stanza")  # 20 s and 440 MB in place of 3 s and 110 MB, and none of them is used


class Failed(RetrainError):
    """A recogniser could not tell: what it was looking at is not to be kept. The message has no text of a user."""


class Span(NamedTuple):
    """text[start:end] is of this kind."""

    start: int
    end: int
    kind: str


class Recogniser(NamedTuple):
    kind: str
    gate: Gates | re.Pattern[str]
    find: Callable[[str], list[Any]]  # results of Presidio


class Finder:
    """Finds spans in texts; one is made for params scrub and kept."""

    def __init__(self, rules: Scrub) -> None:
        self.rules = rules
        self.gate = Gates(_gates(rules), secrets="secret" in rules.kinds)

    @functools.cached_property
    def recognisers(self) -> tuple[Recogniser, ...]:
        """Made when a text first gets through: Presidio takes 3 s to load. ParamsError where it, or the model, is not there."""
        return tuple(_recognisers(self.rules))

    def __call__(self, text: str) -> list[Span]:
        """Spans in order that do not overlap: where two do, they are one, of the kind that began it. Failed, without a word of
        the text, where a recogniser raised or took too long."""
        found = [
            Span(one.start, one.end, recogniser.kind)
            for recogniser in self.recognisers
            if recogniser.gate.search(text)
            for one in _asked(recogniser, text)
            if one.score >= MIN and not ordinary(recogniser.kind, text, one.start, one.end)
        ]
        spans: list[Span] = []
        for span in sorted(found, key=lambda span: (span.start, -span.end)):
            if spans and span.start < spans[-1].end:
                spans[-1] = spans[-1]._replace(end=max(spans[-1].end, span.end))
            else:
                spans.append(span)
        return spans


@functools.cache
def _finder(rules: str) -> Finder:
    return Finder(Scrub.model_validate_json(rules))


def finder(rules: Scrub) -> Finder:
    """The same one for the same rules."""
    return _finder(rules.model_dump_json())


def _asked(recogniser: Recogniser, text: str) -> list[Any]:
    try:
        return recogniser.find(text)
    except TimeoutError:
        raise Failed(f"the recogniser of {recogniser.kind} took too long") from None
    except Exception as error:  # whatever it is, the text may be in its words
        raise Failed(f"the recogniser of {recogniser.kind} raised {type(error).__name__}") from None


class _Loud:
    """In place of Presidio's loggers: a pattern that timed out is a warning there, and nothing found; what it could not read
    it quotes."""

    def warning(self, *_args: Any, **_kwargs: Any) -> None:
        raise TimeoutError

    def debug(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    info = error = exception = debug


# --- what they are made of


def _gates(rules: Scrub) -> Iterator[Gate]:
    yield from (PATTERNS[kind].gate for kind in rules.kinds if kind in PATTERNS)
    yield from PHONE if "phone" in rules.kinds else ()
    yield from [ANY] if rules.patterns or rules.model else []


def _recognisers(rules: Scrub) -> Iterator[Recogniser]:
    presidio = _presidio(rules.seconds)
    known = presidio.predefined_recognizers
    for kind in rules.kinds:
        if kind in PATTERNS:
            gate, own = PATTERNS[kind].gate.pattern, PATTERNS[kind].own
            yield _recogniser(kind, gate, getattr(known, PATTERNS[kind].recogniser)(), respelt=PATTERNS[kind].plain)
            if own:
                yield _recogniser(kind, gate, _own(presidio, kind, own))
        elif kind == "phone":
            yield Recogniser(kind, ANY_PHONE, _Phones(known.PhoneRecognizer, rules.regions))
        elif kind == "secret":
            formats = [_recogniser(kind, gate, _own(presidio, kind, pattern)) for gate, pattern in FORMATS]
            yield Recogniser(kind, Gates([], secrets=True), functools.partial(_any_of, formats))
    for kind, pattern in rules.patterns.items():
        yield _recogniser(kind, "", _own(presidio, kind, pattern))
    if rules.model is not None:
        yield from _named(presidio, rules)


def _recogniser(kind: str, gate: str, recogniser: Any, *, respelt: bool = False) -> Recogniser:
    def find(text: str) -> list[Any]:
        read = dict.fromkeys([text, plain(kind, text)] if respelt else [text])
        return [one for spelling in read for one in recogniser.analyze(spelling, recogniser.supported_entities, None)]

    return Recogniser(kind, re.compile(gate), find)


def _own(presidio: Any, kind: str, pattern: str) -> Any:
    made = presidio.Pattern(kind, pattern, 1.0)
    return presidio.PatternRecognizer(supported_entity=kind.upper(), patterns=[made], global_regex_flags=0)


def _any_of(recognisers: list[Recogniser], text: str) -> list[Any]:
    return [one for recogniser in recognisers if recogniser.gate.search(text) for one in recogniser.find(text)]


class _Phones:
    """Presidio's recogniser of phone numbers, asked for each region whose numbers a text could hold."""

    def __init__(self, recogniser: Any, regions: tuple[str, ...]) -> None:
        self.regions = [(Region.of(region), recogniser(supported_regions=(region,))) for region in regions]
        self.shortest = min((0 if region.rewrites else region.shortest for region, _ in self.regions), default=ABROAD)

    def __call__(self, text: str) -> list[Any]:
        if len(text) < self.shortest and not re.search(PLUS, text):
            return []
        digits = dialled(text)
        asked = [recogniser for region, recogniser in self.regions if region.could_hold(digits)]
        return [one for recogniser in asked for one in recogniser.analyze(text, ["PHONE_NUMBER"], None)]


def _named(presidio: Any, rules: Scrub) -> Iterator[Recogniser]:
    """What a spaCy model takes for names; it has to be installed, for Presidio would fetch it."""
    import spacy.util
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    name = str(rules.model)
    if not spacy.util.is_package(name) and not Path(name).is_dir():
        raise ParamsError(f"scrub.model (params.yaml) is {name!r}, which is not installed: install it, or set it to null")
    engine = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": name}])
    engine.load()
    recogniser = presidio.predefined_recognizers.SpacyRecognizer()
    for kind in rules.kinds:
        if kind in NAMED:
            yield Recogniser(kind, re.compile(""), functools.partial(_names, engine, recogniser, NAMED[kind]))


def _names(engine: Any, recogniser: Any, entity: str, text: str) -> list[Any]:
    return list(recogniser.analyze(text, [entity], engine.process_text(text, "en")))


def _presidio(seconds: float) -> Any:
    """The package, without the models that it would bring, the list of domains that it would fetch, and its logs; `seconds`
    for one pattern over one text."""
    absent = [name for name in HEAVY if name not in sys.modules]
    try:
        sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
        import presidio_analyzer
        import tldextract
        from presidio_analyzer import pattern_recognizer
        from presidio_analyzer.predefined_recognizers.generic import email_recognizer, iban_recognizer
    except ImportError as error:
        raise ParamsError(f"scrub (params.yaml) needs Presidio ({error.name} is missing): pip install -e '.[watch]'") from error
    finally:
        for name in absent:
            sys.modules.pop(name, None)
    email_recognizer.tldextract = SimpleNamespace(extract=tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None))
    for module in (pattern_recognizer, iban_recognizer):
        module.logger = _Loud()
        module.REGEX_TIMEOUT_SECONDS = seconds
    return presidio_analyzer
