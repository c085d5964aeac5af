"""params scrub: which personal data and secrets are replaced. What finds them is in `recognisers`, and imported there alone."""

import re
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from retrain.gates import Gate
from retrain.spellings import EMAIL

PLACEHOLDER = re.compile(r"<([A-Z][A-Z0-9_]*)_(\d{1,6})>")


@dataclass(frozen=True)
class Pattern:
    """One of Presidio's recognisers of patterns: its class, and the gate of the texts that it finds something in, so that no
    other text has to be shown to it. `plain`: it is asked of `spellings.plain` too; `own`: a pattern of ours beside it."""

    recogniser: str
    gate: Gate
    plain: bool = False
    own: str | None = None


# Classes of presidio_analyzer.predefined_recognizers. A gate has no assertion about what stands around it.
PATTERNS = {
    "email": Pattern("EmailRecognizer", Gate(r"@|\uff20|%40", ""), own=EMAIL),
    "credit_card": Pattern("CreditCardRecognizer", Gate(r"\d(?:[-\s.]?\d){12}"), plain=True),
    "iban": Pattern("IbanRecognizer", Gate(r"[^\W\d]{2}\d{2}[\s-]?\w{4}"), plain=True),
    "crypto": Pattern("CryptoRecognizer", Gate(r"[13]\w{25}")),
    "ip": Pattern("IpRecognizer", Gate(r"\d\.\d{1,3}\.\d{1,3}\.\d|::|(?:[0-9A-Fa-f]{1,4}:){6}", "[.:]")),
    "mac": Pattern("MacAddressRecognizer", Gate(r"(?:[0-9A-Fa-f]{2}[:-]){5}|\.[0-9A-Fa-f]{4}\.", "[.:-]")),
    "us_ssn": Pattern("UsSsnRecognizer", Gate(r"\d{3}[- .]\d{2}[- .]\d{4}")),
    "us_itin": Pattern("UsItinRecognizer", Gate(r"9\d{2}[- ]\d{2}[- ]\d{4}")),
    "uk_nino": Pattern("UkNinoRecognizer", Gate(r"\d{2} ?\d{2} ?\d{2} ?[A-Da-d]")),
    "uk_nhs": Pattern("NhsRecognizer", Gate(r"\d{3}[- ]?\d{3}[- ]?\d{4}")),
    "ca_sin": Pattern("CaSinRecognizer", Gate(r"\d{3}[- ]?\d{3}[- ]?\d{3}")),
    "de_tax_id": Pattern("DeTaxIdRecognizer", Gate(r"\d{11}")),
    "de_social_security": Pattern("DeSocialSecurityRecognizer", Gate(r"\d{8}\w\d{3}")),
    "es_nif": Pattern("EsNifRecognizer", Gate(r"\d{7}-?\w")),
    "es_nie": Pattern("EsNieRecognizer", Gate(r"\d{7}-?\w")),
    "it_fiscal_code": Pattern("ItFiscalCodeRecognizer", Gate(r"\b\w{16}", "")),
    "pl_pesel": Pattern("PlPeselRecognizer", Gate(r"\d{11}")),
    "fi_personal_identity_code": Pattern("FiPersonalIdentityCodeRecognizer", Gate(r"\d{6}[-+\w]\d{3}")),
    "in_pan": Pattern("InPanRecognizer", Gate(r"\w{5}\d{4}\w")),
    "in_aadhaar": Pattern("InAadhaarRecognizer", Gate(r"\d{4}[- :]?\d{4}[- :]?\d{4}")),
}
OTHERS = ("phone", "secret")
NAMED = {"person": "PERSON", "location": "LOCATION", "organization": "ORGANIZATION"}  # what only a model finds
Kind = Annotated[str, Field(pattern=r"^[a-z_]+$")]


class Scrub(BaseModel):
    """`patterns` are the user's own: kind -> regular expression. Without kinds and patterns nothing is replaced."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kinds: tuple[Kind, ...]
    regions: tuple[Annotated[str, Field(pattern=r"^[A-Z]{2}$")], ...]
    patterns: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")], str]
    model: Annotated[str, Field(min_length=1)] | None
    seconds: Annotated[float, Field(gt=0, le=600)]

    @model_validator(mode="after")
    def _known(self) -> Self:
        for kind in self.kinds:
            if kind not in (known := (*PATTERNS, *OTHERS, *NAMED)):
                from retrain.overrides import nearest

                raise ValueError(f"kinds has {kind!r}, no known kind{nearest(kind, known)}; patterns is for your own")
            if kind in NAMED and self.model is None:
                raise ValueError(f"kinds has {kind!r}, which only a spaCy model finds: name an installed one in model")
        for kind, pattern in self.patterns.items():
            if kind in (*PATTERNS, *OTHERS, *NAMED):
                raise ValueError(f"patterns.{kind} is the name of a kind that there is: give it another")
            _usable(kind, pattern)
        return self


def _usable(kind: str, pattern: str) -> None:
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError) as error:
        raise ValueError(f"patterns.{kind} is no regular expression ({error}): in YAML put it in single quotes") from error
    if compiled.search(""):
        raise ValueError(f"patterns.{kind} matches an empty text: it would find something everywhere")
