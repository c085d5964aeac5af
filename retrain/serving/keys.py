"""Who may ask: keys kept as hashes, compared in constant time. On loopback none is needed unless some are given."""

import hashlib
import hmac
import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path

from retrain.errors import ParamsError, RequestRefused

VARIABLE = "RETRAIN_SERVE_KEYS"
LINE = re.compile(r"([0-9a-f]{64})[ \t]+(\S.*)")
MAKE = "make one with `printf %s KEY | sha256sum` and put a name in place of the dash"


@dataclass(frozen=True)
class Keys:
    """sha256 of a key -> whose it is; without any, everybody may ask."""

    names: dict[str, str]

    def check(self, authorization: str | None) -> None:
        """RequestRefused (401), which does not repeat what was sent, unless it is `Bearer` and a known key."""
        if not self.names:
            return
        kind, _, key = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not key.strip():
            raise RequestRefused("give a key: Authorization: Bearer KEY", status=401, code="missing_api_key")
        found = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).hexdigest()
        matches = [hmac.compare_digest(found, known) for known in self.names]  # all of them, whichever is right
        if not any(matches):
            raise RequestRefused("this key is not known here", status=401, code="invalid_api_key")


def read(root: Path, file: str | None, host: str) -> Keys:
    """Keys of the file and of the environment; ParamsError for a line that is none, and for a public host without keys."""
    text = os.environ.get(VARIABLE, "").replace(",", "\n")
    if file is not None:
        try:
            text += "\n" + (root / file).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ParamsError(f"serve.keys is {file!r} (params.yaml), which cannot be read ({error}): {MAKE}") from error
    names = {}
    for number, line in enumerate((line.strip() for line in text.splitlines()), 1):
        if line and not line.startswith("#"):
            found = LINE.fullmatch(line)
            if found is None:  # not quoted: somebody may have put the key itself there
                raise ParamsError(f"line {number} of the keys is not `<sha256 in hex> <name>`: {MAKE}")
            names[found[1]] = found[2]
    if not names and not loopback(host):
        raise ParamsError(
            f"serve.host is {host}, which others reach, and there is no key: name a file in serve.keys, or {VARIABLE}"
        )
    return Keys(names)


def loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
