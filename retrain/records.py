"""The records that travel through the loop, and how they are read and written.

JSONL is split at LF only: U+2028 and U+0085 are text. Every record carries `schema`; a newer one is refused.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from retrain.errors import DataError, IntegrityError
from retrain.text import normalise

SCHEMA = 1
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
ADAPTER_FILES = {"adapter_model.safetensors", "adapter_config.json", "run.json", "trained_on.json"}  # and manifest.json


class Record(BaseModel):
    """Immutable; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_: int = SCHEMA

    @model_validator(mode="before")
    @classmethod
    def _known_schema(cls, data: Any) -> Any:
        if isinstance(data, dict) and "schema" in data:
            data = dict(data)
            data["schema_"] = data.pop("schema")
            if not isinstance(data["schema_"], int) or data["schema_"] > SCHEMA:
                raise ValueError(f"schema is {data['schema_']!r}, this version reads up to {SCHEMA}: update retrain-loop")
        return data

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, with `schema` first."""
        data = self.model_dump(mode="json", exclude_none=True)
        return {"schema": data.pop("schema_"), **data}


AnyRecord = TypeVar("AnyRecord", bound=Record)


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    role: Literal["system", "user", "assistant", "tool"]
    content: str


class Origin(BaseModel):
    """One log row that an example came from; erasing its user removes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    request_id: str
    user: str | None = None
    source: str | None = None  # where the request came from, if params failures.poisoning.source says where that stands
    collected: str | None = None
    conversation: str | None = None  # a keyed hash of the id that the logs have


class Example(Record):
    """One question and the right answer to it, in OpenAI chat form; `id` is the hash of the normalised content."""

    messages: tuple[Message, ...]
    id: str = ""
    source: Literal["seed", "failure", "synthetic", "golden", "audit"]
    label_source: Literal["human", "correction", "synthetic"] = "human"
    origins: tuple[Origin, ...] = ()
    conversation: str | None = None
    reasons: tuple[str, ...] = ()  # why it is a failure case: keys of monitoring.selection.REASONS

    def as_dict(self) -> dict[str, Any]:
        data = super().as_dict()
        return data if self.reasons else {key: value for key, value in data.items() if key != "reasons"}

    @field_validator("messages")
    @classmethod
    def _ends_with_answer(cls, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        if len(messages) < 2 or messages[-1].role != "assistant" or not any(m.role == "user" for m in messages[:-1]):
            raise ValueError("messages must hold a user's message and end with the assistant's answer")
        if not all(m.content.strip() for m in messages if m.role in ("user", "assistant")):
            raise ValueError("a message is blank")
        return messages

    @model_validator(mode="after")
    def _content_id(self) -> "Example":
        found = content_id([(m.role, m.content) for m in self.messages])
        if self.id and self.id != found:
            raise ValueError(f"id is {self.id}, the content hashes to {found}: leave id out after editing a row")
        object.__setattr__(self, "id", found)
        return self

    @property
    def question(self) -> str:
        """The user's last message."""
        return next(m.content for m in reversed(self.messages) if m.role == "user")

    @property
    def answer(self) -> str:
        return self.messages[-1].content

    @cached_property
    def key(self) -> str:
        """Hash of the normalised question alone: equal keys are copies, whatever the answers."""
        return question_key(self.messages[:-1])

    @property
    def asked(self) -> str:
        """All that was said before the answer, system texts aside: what near copies are told by."""
        return "\n".join(message.content for message in self.messages[:-1] if message.role != "system")

    @property
    def conversations(self) -> set[str]:
        """Those that it came from."""
        return {talk for talk in (self.conversation, *(origin.conversation for origin in self.origins)) if talk}

    @property
    def split_key(self) -> str:
        """What a split goes by: the (first) conversation where there is one, else the question."""
        return self.conversation or next((o.conversation for o in self.origins if o.conversation), None) or self.key

    @classmethod
    def of(cls, question: str, answer: str, **fields: Any) -> "Example":
        """A single-turn example."""
        return cls(messages=(Message(role="user", content=question), Message(role="assistant", content=answer)), **fields)


def merged(rows: Sequence[Example], origins: tuple[Origin, ...]) -> Example:
    """Equal rows as one, with these origins and the reasons of all."""
    reasons = tuple(dict.fromkeys(reason for row in rows for reason in row.reasons))
    return rows[0].model_copy(update={"origins": origins, "reasons": reasons})


Kind = Literal["conflict", "form", "personal_data", "poisoning"]  # why a row was kept out


class Quarantined(Record):
    """A row that was kept out of training, and why; `example` is absent where its content must not be kept, or is none.

    `id` is what `release` takes: the example's own, else one of the request. `where` is file:line of the log row.
    """

    id: str = ""
    request_id: str
    kind: Kind
    reason: str
    where: str | None = None
    example: Example | None = None

    @model_validator(mode="after")
    def _its_id(self) -> "Quarantined":
        found = self.example.id if self.example else content_id([(self.kind, self.request_id)])
        if self.id and self.id != found:
            raise ValueError(f"id is {self.id}, must be {found}")
        object.__setattr__(self, "id", found)
        return self

    def as_dict(self) -> dict[str, Any]:
        data = super().as_dict()
        return {**data, "example": self.example.as_dict()} if self.example else data


def content_id(turns: Iterable[tuple[str, str]]) -> str:
    """20 hex digits of the sha256 of normalised (role, content) pairs."""
    return hashlib.sha256(json.dumps([[r, normalise(c)] for r, c in turns]).encode("utf-8", "surrogatepass")).hexdigest()[:20]


def question_key(messages: str | Iterable[Message]) -> str:
    """`content_id` of a question: a string, or the messages before the answer (system texts do not count)."""
    if isinstance(messages, str):
        return content_id([("user", messages)])
    return content_id([(m.role, m.content) for m in messages if m.role != "system"])


def unit_hash(key: str, salt: str) -> float:
    """A stable number in [0, 1) for a key: splits by it never move when data grows."""
    return int(hashlib.sha256(f"{salt}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()[:13], 16) / 16**13


# --- files


def parse_time(value: str | datetime, name: str = "time") -> datetime:
    """An aware UTC datetime; a naive one is refused, never guessed."""
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except ValueError as error:
        raise DataError(f"{name} is {value!r}, must be ISO 8601 such as 2026-03-01T00:00:00Z") from error
    if time.tzinfo is None:
        raise DataError(f"{name} is {value!r} without a time zone: add Z for UTC, or an offset such as +02:00")
    return plain(time)


def plain(time: datetime) -> datetime:
    """The same instant as a datetime of the standard library, in UTC: Airflow's (pendulum's) lose their zone when added to."""
    there = time.astimezone(UTC)
    return datetime(*there.timetuple()[:6], there.microsecond, tzinfo=UTC)


def stamp(time: datetime) -> str:
    """How an instant is named in files, tags and tables: 2026-03-01T00-00-00Z (no colon, sorts by time)."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")


def from_stamp(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H-%M-%SZ").replace(tzinfo=UTC)


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text) of each non-blank line, split at LF only; not UTF-8 is a DataError."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): give a file of JSON lines") from error
    for number, raw in enumerate(data.split(b"\n"), 1):
        if not raw.strip():
            continue
        try:
            yield number, raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{number} is not UTF-8 (byte {error.start}): save the file as UTF-8") from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in lines_of(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number} is not JSON ({error.msg}): mend or remove the line") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number} is a {type(row).__name__}, must be a JSON object")
        rows.append(row)
    return rows


def read_examples(path: Path) -> list[Example]:
    """Examples of a JSONL file; the first bad row raises DataError with file, line and reason."""
    return read_records(path, Example)


def read_records(path: Path, kind: type[AnyRecord]) -> list[AnyRecord]:
    """Records of a JSONL file; the first bad row raises DataError with file, line and reason."""
    records = []
    for number, line in lines_of(path):
        try:
            records.append(kind.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "row"
            raise DataError(f"{path}:{number} {where}: {first['msg'].removeprefix('Value error, ')}") from error
    return records


def read_folder(folder: Path) -> list[Example]:
    """Examples of all *.jsonl of a folder, by file name; a folder that is missing holds none."""
    return [row for path in sorted(Path(folder).glob("*.jsonl")) for row in read_examples(path)]


def dumps(row: Any, **kwargs: Any) -> str:
    return json.dumps(row, ensure_ascii=False, **kwargs)


def parse_yaml(text: str) -> Any:
    """What a YAML text holds, by libyaml where it is there, ten times as fast; yaml.YAMLError shows the line that is wrong."""
    try:
        return yaml.load(text, Loader=LOADER)
    except yaml.YAMLError:
        return yaml.safe_load(text)  # libyaml tells the place alone


def write_text(path: Path, text: str) -> None:
    """Written to a temporary name beside it, flushed to disk, then renamed: never half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, data: Any) -> None:
    write_text(path, dumps(data, indent=2) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    write_text(path, "".join(dumps(row.as_dict() if isinstance(row, Record) else row) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON ({error}): restore it from git or make it anew") from error


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def rows_digest(examples: Iterable[Example]) -> str:
    """sha256 over (id, key) in order of id: the same rows in any order are the same dataset."""
    return text_digest("\n".join(sorted(row.id for row in examples)))


def verify_folder(folder: Path, digest: str) -> None:
    """Exactly the files that manifest.json lists, each of its sha256, and the manifest of this one; else IntegrityError.

    Nothing but an adapter's own files is let through, whatever the manifest lists: weights are safetensors, never pickles.
    """
    try:
        listed = read_json(folder / "manifest.json")["files"]
    except (DataError, KeyError, TypeError) as error:
        raise IntegrityError(f"{folder} has no manifest.json that can be read: it was not written to its end") from error
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    if file_digest(found.pop("manifest.json")) != digest:
        raise IntegrityError(f"{folder}/manifest.json is not the one with sha256 {digest[:12]}")
    differ = sorted(set(found) ^ set(listed)) or sorted(name for name in found if file_digest(found[name]) != listed[name])
    foreign = sorted(set(listed) - ADAPTER_FILES)
    if foreign:
        own = ", ".join(sorted(ADAPTER_FILES))
        raise IntegrityError(f"{folder} holds {', '.join(foreign)}, an adapter has {own} alone: not loaded")
    if differ:
        raise IntegrityError(f"{folder} is not what its manifest.json says: {', '.join(differ[:5])} missing, added or changed")
