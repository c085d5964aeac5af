"""Formats of keys, tokens and passwords that Presidio does not know, as providers and secret scanners describe them.

`FORMATS`: (gate, pattern). The gate is for `re` and is in every text that the pattern finds something in; the pattern is for
`regex`, whose assertions behind may vary in length. Of `password=...` and the like only the value is found.
"""

_LEFT, _RIGHT = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"
_NAMES = (
    r"password|passwd|pwd|passphrase|passcode|secret|api[ _-]?key|(?:secret[ _-]?)?access[ _-]?key|account[ _-]?key|"
    r"secret[ _-]?key|private[ _-]?key|(?:access|auth|refresh|bearer|session|api)[ _-]?token|client[ _-]?secret"
)
_PEM = r"(?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?"
_OPEN, _VALUE = r"[\"']?", r"[^\s\"',;&<>]"

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
    (r"hf_|npm_|pypi-|dop_v1_", _LEFT + r"(?:hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|pypi-[\w-]{40,}|dop_v1_[a-f0-9]{64})"),
    (r"SG\.", _LEFT + r"SG\.[\w-]{16,32}\.[\w-]{16,64}"),  # SendGrid
    (r"\d:[\w-]{35}", _LEFT + r"\d{8,10}:[\w-]{35}(?![\w-])"),  # Telegram bots
    (r"://", r"(?<=://)(?:[^\s/?#@:\"'<>]*:(?!<)[^\s/?#\"'<>]+|[^\s/?#@:\"'<>]{16,})(?=@)"),  # user and password in an address
    (r"(?i:bearer)", r"(?i)(?<=\bbearer\s{1,3})(?=[^\s]*\d)[A-Za-z0-9._~+/-]{16,}=*"),
    (r"(?i:authorization)", r"(?i)(?<=\bauthorization[\"']?\s{0,3}:\s{0,3}[\"']?basic\s{1,3})[A-Za-z0-9+/]{6,}={0,2}"),
    (  # password: hunter2 has a digit or a sign, "password: please" is a sentence
        r"(?i:pass|pwd|secret|key|token)",
        rf"(?i)(?<=(?<![a-z])(?:{_NAMES}){_OPEN}\s{{0,3}}(?::|=>|\bis\b)\s{{0,3}}{_OPEN})"
        rf"(?=[^\s\"',;]*[\d@#$%^*])(?!\d{{1,3}}(?:\W|$)){_VALUE}{{4,}}",
    ),
    (
        r"(?i:pass|pwd|secret|key|token)",
        rf"(?i)(?<=(?<![a-z])(?:{_NAMES}){_OPEN}\s{{0,3}}=(?!>)\s{{0,3}}{_OPEN}){_VALUE}{{4,}}",
    ),
)

ANY_FORMAT = "|".join(dict.fromkeys(gate for gate, _ in FORMATS))

# names of fields in JSON, without case, dashes and underscores, whose text is a secret whatever it looks like
FIELD_GATE = r"(?i:pass|pwd|secret|key|token|authorization|cookie|credential)"
FIELDS = (
    *("password", "passwd", "pwd", "passphrase", "passcode", "secret", "secretkey", "apikey", "accesskey", "privatekey"),
    *("accountkey", "accesstoken", "authtoken", "refreshtoken", "sessiontoken", "apitoken", "idtoken", "csrftoken"),
    *("authorization", "cookie", "credential", "credentials"),
)


def is_secret(field: str) -> bool:
    """Whether a field of this name holds a secret: `api_key`, `X-Api-Key`, `accessToken`, ..."""
    return field.casefold().replace("_", "").replace("-", "").replace(" ", "").endswith(FIELDS)
