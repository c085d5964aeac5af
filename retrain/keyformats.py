"""Formats of keys, tokens and passwords that Presidio does not know, as providers and secret scanners describe them.

`FORMATS`: (gate, pattern). The gate is for `re` and is in every text that the pattern finds something in; the pattern is for
`regex`, whose assertions behind may vary in length. Of `password=...` and the like only the value is found. A gate that knows
no case is made of WORDS alone: all of those are one look, in the text in lower case, which takes a tenth of their time.
"""

import functools
import re

_LEFT, _RIGHT = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"
_WORDS = r"password|passwd|pwd|passphrase|passcode"  # "my ... is hunter2" says one; a key or token is longer
_KEYS = (
    r"secret|api[ _-]?key|(?:secret[ _-]?)?access[ _-]?key|account[ _-]?key|secret[ _-]?key|private[ _-]?key|"
    r"(?:access|auth|refresh|bearer|session|api)[ _-]?token|client[ _-]?secret"
)
_NAMES = rf"{_WORDS}|{_KEYS}"
_PEM = r"(?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?"
_OPEN, _VALUE = r"[\"']?", r"[^\s\"',;&<>]"
# Groq, xAI, Perplexity, Replicate, NVIDIA, Atlassian, New Relic, Linear, Notion, Square, Vault, Postman, DigitalOcean
_VENDORS = (
    r"gsk_|xai-|pplx-|r8_|nvapi-|ATATT3|NR(?:AK|JS|II|AL)-|lin_(?:api|oauth)_|ntn_|EAAA|sq0(?:atp|csp|idp)-|hv[sbr]\.|"
    r"PMAK-|do[opr]_v1_"
)
_VENDORS_HEX = r"dapi|shp(?:at|ca|pa|ss|ua|tka)_|SK|key-"  # Databricks, Shopify, Twilio, Mailgun

FORMATS: tuple[tuple[str, str], ...] = (
    (r"A(?:KIA|SIA|BIA|CCA)", _LEFT + r"A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}" + _RIGHT),  # AWS access keys
    (r"gh[pousr]_|github_pat_", _LEFT + r"(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})"),
    (r"glpat-", _LEFT + r"glpat-[A-Za-z0-9_-]{20,}"),  # GitLab
    (r"xox|xapp-", _LEFT + r"(?:xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}|xapp-\d-[A-Za-z0-9-]{10,})"),  # Slack
    (r"hooks\.slack\.com", r"(?<=hooks\.slack\.com/(?:services|workflows|triggers)/)[A-Za-z0-9/_-]{20,}"),
    (r"sk-", _LEFT + r"sk-(?=[A-Za-z0-9_-]*\d)[A-Za-z0-9_-]{20,}"),  # OpenAI, Anthropic, OpenRouter, ...
    (r"AIza", _LEFT + r"AIza[0-9A-Za-z_-]{35}(?![0-9A-Za-z_-])"),  # Google, with the next
    (r"ya29\.|GOCSPX-", _LEFT + r"(?:ya29\.[0-9A-Za-z_-]{20,}|GOCSPX-[0-9A-Za-z_-]{28})"),
    (r"eyJ", _LEFT + r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"),  # JWT
    (
        r"PRIVATE KEY",  # PEM; one that is cut off reaches to the end of the text
        rf"(?s)-----BEGIN {_PEM}-----.*?(?:-----END {_PEM}-----|\Z)",
    ),
    (r"[srp]k_|whsec_", _LEFT + r"(?:[srp]k_(?:live|test)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9+/=]{20,})"),  # Stripe
    (r"hf_|npm_|pypi-", _LEFT + r"(?:hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|pypi-[\w-]{40,})"),
    (_VENDORS, _LEFT + rf"(?:{_VENDORS})(?=[\w=-]*\d)[\w=-]{{20,}}"),
    (rf"(?:{_VENDORS_HEX})[0-9A-Fa-f]{{32}}", _LEFT + rf"(?:{_VENDORS_HEX})[0-9A-Fa-f]{{32}}" + _RIGHT),
    (r"secret_", _LEFT + r"secret_[A-Za-z0-9]{40,}"),  # Notion, before 2024
    (r"sig=", r"(?<=[?&]sig=)[A-Za-z0-9%+/_-]{30,}=*"),  # Azure's shared access signatures
    (r"SG\.", _LEFT + r"SG\.[\w-]{16,32}\.[\w-]{16,64}"),  # SendGrid
    (r"\d:[\w-]{35}", _LEFT + r"\d{8,10}:[\w-]{35}(?![\w-])"),  # Telegram bots
    (r"://", r"(?<=://)(?:[^\s/?#@:\"'<>]*:(?!<)[^\s/?#\"'<>]+|[^\s/?#@:\"'<>]{16,})(?=@)"),  # user and password in an address
    (r"(?i:bearer)", r"(?i)(?<=\bbearer\s{1,3})(?=[^\s]*\d)[A-Za-z0-9._~+/-]{16,}=*"),
    (
        r"(?i:authorization)",
        r"(?i)(?<=\bauthorization[\"']?\s{0,3}:\s{0,3}[\"']?(?:basic|token|apikey)\s{1,3})[A-Za-z0-9+/_.-]{6,}={0,2}",
    ),
    (
        r"(?i:cookie)",
        r"(?i)(?<=\bcookie[\"']?\s{0,3}:\s{0,3}[\"']?)[^\s=;,\"'<>]{1,80}=[^\s;\"'<>]{4,}(?:;\s?[^\s=;\"'<>]+=[^\s;\"'<>]+)*",
    ),
    (  # password: hunter2 has a digit or a sign, "password: please" is a sentence
        r"(?i:pass|pwd?|secret|key|token)",
        rf"(?i)(?<=(?<![a-z])(?:(?:{_NAMES}|pass|pw){_OPEN}\s{{0,3}}(?::|=>)|(?:{_WORDS}|pw)\s{{1,3}}(?:is|was)\b)\s{{0,3}}{_OPEN})"
        rf"(?=[^\s\"',;]*[\d@#$%^*])(?!\d{{1,3}}(?:\W|$)){_VALUE}{{4,}}",
    ),
    (
        r"(?i:secret|key|token)",
        rf"(?i)(?<=(?<![a-z])(?:{_KEYS})\s{{1,3}}(?:is|was)\s{{0,3}}:?\s{{0,3}}{_OPEN})(?=[^\s\"',;]*\d){_VALUE}{{12,}}",
    ),
    (
        r"(?i:token)",
        rf"(?i)(?<=(?<![a-z])token{_OPEN}\s{{0,3}}(?::|=>?)\s{{0,3}}{_OPEN})(?=[^\s\"',;]*\d){_VALUE}{{16,}}",
    ),
    (
        r"(?i:pass|pwd?|secret|key|token)",
        rf"(?i)(?<=(?<![a-z])(?:{_NAMES}|pass|pw){_OPEN}\s{{0,3}}=(?!>)\s{{0,3}}{_OPEN}){_VALUE}{{4,}}",
    ),
    (  # JSON that stands in prose, or line by line: whatever is in its quotes
        r"(?i:pass|pwd|secret|key|token)",
        rf"(?i)(?<=\"(?:[\w-]{{0,30}}[_-])?(?:{_NAMES})\\?\"\s{{0,3}}:\s{{0,3}}\\?\")(?!<[A-Z_]+_\d+>)[^\"\\\s][^\"\\\n]{{0,200}}",
    ),
)

WORDS = ("pass", "pw", "secret", "key", "token", "authorization", "cookie", "credential", "bearer")
_WORD, _WORD_AS_UNICODE = re.compile("|".join(WORDS)), re.compile(rf"(?i:{'|'.join(WORDS)})")
CASED = "|".join(dict.fromkeys(gate for gate, _ in FORMATS if not gate.startswith("(?i:")))
# what every text that CASED finds something in has, besides a word of WORDS
SIGN = re.compile(r"[_=:-]|[KSB]IA|ACCA|xox|AIza|eyJ|EAAA|ATATT|\.slack|SG\.|hv[sbr]\.|ya29|dapi|SK")


def worded(text: str) -> bool:
    """Whether a word of WORDS is in the text, in whatever case."""
    return bool(_WORD.search(text.lower()) if text.isascii() else _WORD_AS_UNICODE.search(text))


# Names of fields in JSON, as their last words without what is between them, and what in such a field is a secret: text or a
# number, and all that stands below it; each has a word of WORDS. `cookie` is a header's: "chocolate chip" is none.
_ANY, _TOKEN, _LONG, _HEADER, _ONE = (
    re.compile(pattern)
    for pattern in (r"(?s).+", r"\S*[^\s\d]\S*|\d{8,}", r"(?=\D*\d)\S{16,}", r"[^\s=;]+=.+", r"(?=\D*\d)\S{6,}")
)
FIELDS: dict[str, re.Pattern[str]] = {
    **dict.fromkeys(("password", "passwd", "pwd", "passphrase", "passcode", "pw", "secret", "secretkey", "apikey"), _ANY),
    **dict.fromkeys(("accesskey", "privatekey", "accountkey", "authorization", "credential", "credentials"), _ANY),
    **{f"{kind}token": _TOKEN for kind in ("access", "auth", "refresh", "session", "api", "id", "csrf", "bearer")},
    **{"token": _LONG, "cookie": _HEADER, "setcookie": _HEADER, "pass": _ONE},
}
_ENDS = ("password", "passwd", "passphrase", "apikey", "accesskey", "secretkey", "privatekey", "accesstoken")  # `dbpassword`
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@functools.lru_cache(1024)
def secret_in(field: str) -> re.Pattern[str] | None:
    """What a value in a field of this name matches where it is a secret: `api_key`, `X-Api-Key`, `accessToken`, ..."""
    words = [word.lower() for word in _PARTS.findall(field)]
    for n in (3, 2, 1):
        if len(words) >= n and (found := FIELDS.get("".join(words[-n:]))):
            return found
    return next((FIELDS[end] for end in _ENDS if words and words[-1].endswith(end)), None)
