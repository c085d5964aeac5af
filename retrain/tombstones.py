"""Who asked to be erased: `data/erased.jsonl` in git holds keyed hashes of users and requests, never the ids themselves.

What a tombstone covers is never collected, audited or trained on again. The key is RETRAIN_USER_KEY, else .retrain/user.key:
with another key nobody would be recognised, so that is an error and never "nobody".
"""

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from retrain.errors import DataError, IntegrityError, ParamsError
from retrain.records import Example, Quarantined, Record, write_text

FILE = "data/erased.jsonl"
VARIABLE, KEY_FILE, LEAST = "RETRAIN_USER_KEY", "user.key", 16  # characters of a key
Kind = Literal["user", "request"]


class Tombstone(Record):
    """`hash` is the HMAC-SHA256 of the id, `key` the first digits of the sha256 of the key it was made with."""

    at: str
    kind: Kind
    hash: str
    key: str


@dataclass(frozen=True)
class Tombstones:
    """All of a workspace, with the key to recognise an id by."""

    lines: tuple[Tombstone, ...]
    secret: bytes

    def of(self, kind: Kind, value: str) -> Tombstone | None:
        hashed = keyed(self.secret, value)
        return next((line for line in self.lines if line.kind == kind and line.hash in (hashed, value)), None)

    def cover(self, origin: Any) -> bool:
        """Whether an origin (request_id and user) is of an erased user or request; a user may be stored raw or hashed."""
        if not self.lines:
            return False
        told = origin if isinstance(origin, dict) else origin.model_dump()
        request, user = told.get("request_id"), told.get("user")
        return bool((request and self.of("request", str(request))) or (user and self.of("user", str(user))))

    def cover_quarantined(self, one: Quarantined) -> bool:
        origins = one.example.origins if one.example else ()
        return self.cover({"request_id": one.request_id}) or any(self.cover(origin) for origin in origins)

    def without(self, rows: Iterable[Example]) -> list[Example]:
        return without(rows, self.cover)


def without(rows: Iterable[Example], covers: Callable[[Any], bool]) -> list[Example]:
    """The rows less the origins that are covered; a row that has none left is gone."""
    kept = []
    for row in rows:
        origins = tuple(origin for origin in row.origins if not covers(origin.model_dump()))
        if len(origins) == len(row.origins):
            kept.append(row)
        elif origins:
            kept.append(row.model_copy(update={"origins": origins}))
    return kept


def read(root: Path, home: Path) -> Tombstones:
    """Those of the checkout or clone at root; home is the workspace, whose .retrain may hold the key."""
    path = Path(root) / FILE
    return parse(path.read_bytes(), path, home) if path.exists() else Tombstones((), b"")


def parse(data: bytes, where: Path | str, home: Path) -> Tombstones:
    """Those of a file's bytes; `where` names it in errors."""
    lines = []
    for number, text in enumerate(data.split(b"\n"), 1):
        try:
            lines += [Tombstone.model_validate_json(text)] if text.strip() else []
        except ValidationError as error:
            raise DataError(f"{where}:{number} is no tombstone ({error.errors()[0]['msg']}): restore it from git") from error
    if not lines:
        return Tombstones((), b"")
    found = key(home, make=False)
    if found is None or any(line.key != fingerprint(found) for line in lines):
        raise ParamsError(
            f"{FILE} was written with another key than this machine has, so that nobody erased would be recognised: "
            f"set RETRAIN_USER_KEY to that key, or copy it to {home}/.retrain/user.key"
        )
    return Tombstones(tuple(lines), found)


def key(home: Path, *, make: bool) -> bytes | None:
    """The key of this workspace; `make` writes one where there is none, and of several that make it at once one wins.

    ParamsError for a key that is too short to be one, IntegrityError for a key file that is not whole.
    """
    given, path = os.environ.get(VARIABLE), Path(home) / ".retrain" / KEY_FILE
    if given is not None:
        found = given.strip().encode("utf-8", "surrogateescape")
        if len(found) < LEAST:
            raise ParamsError(f"{VARIABLE} has {len(found)} characters, at least {LEAST} are needed: unset it or mend it")
        if path.exists() and path.read_bytes().strip() not in (b"", found):
            raise ParamsError(
                f"two keys for user ids: {VARIABLE} and {path} differ, so that rows of before would be nobody's: "
                f"set {VARIABLE} to what the file holds, or unset it; where no row was collected with the file's key, remove it"
            )
        return found
    if not path.exists() and not make:
        return None
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{KEY_FILE}.{os.getpid()}.{secrets.token_hex(4)}")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
        fresh.unlink()
    found = path.read_bytes().strip()
    if len(found) < LEAST:
        raise IntegrityError(f"{path} holds no key: restore it from a copy; without it nobody who was erased is recognised")
    return found


def keyed(secret: bytes, value: str) -> str:
    return hmac.new(secret, value.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def fingerprint(secret: bytes) -> str:
    return hashlib.sha256(b"retrain user key\0" + secret).hexdigest()[:12]


def add(root: Path, lines: Sequence[Tombstone]) -> None:
    """Append to the file of a clone."""
    path = Path(root) / FILE
    before = path.read_text("utf-8") if path.exists() else ""
    write_text(path, before + "".join(f"{line.model_dump_json(exclude={'schema_'})}\n" for line in lines))
