"""What an answer must be (a visible text; with an output schema, JSON that fits it), and when it is right."""

import json
from pathlib import Path
from typing import Any

from retrain.errors import ParamsError
from retrain.params import Adapter

Schema = dict[str, Any]
FIX = "correct `output` in params.yaml, or mend the file"
SCHEMA = "schema.json"  # beside the suites: `prepare` freezes there what `evaluate` judges by


def schema_of(root: Path, spec: Adapter) -> Schema | None:
    """The adapter's output schema, None where its answers are labels or free text; ParamsError where it is no schema."""
    if spec.output is None:
        return None
    path = Path(root) / spec.output
    try:
        return schema_in(path.read_bytes().decode("utf-8"), path)
    except FileNotFoundError as error:
        raise ParamsError(f"output schema {path} does not exist: {FIX}") from error
    except UnicodeDecodeError as error:
        raise ParamsError(f"output schema {path} is not JSON ({error}): {FIX}") from error


def schema_in(text: str, path: Path | str) -> Schema:
    """The schema that is a file's text; `path` names it in errors."""
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise ParamsError(f"output schema {path} is not JSON ({error}): {FIX}") from error
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    if not isinstance(schema, dict):
        raise ParamsError(f"output schema {path} is a JSON {type(schema).__name__}, must be an object: {FIX}")
    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        raise ParamsError(f"output schema {path} is no JSON schema at {error.json_path}: {error.message}: {FIX}") from error
    return schema


def misfit(answer: str, schema: Schema | None) -> str | None:
    """Why nobody could be held to this answer, or None: it is blank, no JSON, or does not fit the schema."""
    if not any(char.isprintable() and not char.isspace() for char in answer):
        return "the answer is blank"
    if schema is None:
        return None
    from jsonschema.validators import validator_for
    from referencing.exceptions import Unresolvable

    try:
        error = next(validator_for(schema)(schema).iter_errors(json.loads(answer)), None)
    except (ValueError, ArithmeticError, RecursionError):  # a number of 5,000 digits parses, and cannot be counted with
        return "the answer is no JSON"
    except Unresolvable as unknown:
        raise ParamsError(f"the output schema names {unknown.ref!r}, which is not in it: a schema is one file") from unknown
    return f"the answer does not fit the output schema at {error.json_path}: {error.message[:200]}" if error else None


def right(answer: str, expected: str, schema: Schema | None) -> bool | None:
    """Whether an answer is what was expected: the same text, or with a schema the same JSON values, however they are spelled.

    None where the expected answer is none itself: nobody can be held to it.
    """
    if schema is None:
        return answer.strip() == expected.strip()
    if misfit(expected, schema):
        return None
    return misfit(answer, schema) is None and spelled(value_of(answer)) == spelled(value_of(expected))


def value_of(text: str) -> Any:
    """The JSON value of a text, with 1.0 as 1."""
    return json.loads(text, parse_float=_number)


def spelled(value: Any) -> str:
    """One spelling of a JSON value, keys in order: `true` is not 1, as it is for Python."""
    return json.dumps(value, sort_keys=True)


def meaning(answer: str, labels: bool, structured: bool) -> str:
    """What two answers that say the same have in common: the label, or with an output schema the JSON values.

    Of free text nothing: no two people write the same, so the question alone tells a copy.
    """
    if structured:
        try:
            return spelled(value_of(answer))
        except (ValueError, ArithmeticError, RecursionError):
            return answer.strip()
    return answer.strip() if labels else ""


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number
