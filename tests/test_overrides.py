"""`--set`: any key of params.yaml can be overridden, and where the keys are the user's own a new one can be set."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from retrain import overrides, params
from retrain.errors import ParamsError

OTHER = "{source: path, name: /models/b, file: null, revision: null, sha256: null}"


def test_a_key_of_the_users_own_may_be_new() -> None:
    settings = (
        f"bases.b={OTHER}", "adapters.support.base=b", "gates.floor.audit=0.6", "scrub.patterns.customer=C-[0-9]+",
        "drift.columns.prompt_tokens={method: wasserstein, threshold: 0.2}",
        "logs.columns.prompt=question", "approved.support=abc",
    )  # fmt: skip
    found = params.load(".", settings)
    assert found.adapter("support").base == "b"
    assert found.gates.floor == {"golden": 0.75, "audit": 0.6}
    assert found.scrub.patterns["customer"] == "C-[0-9]+"
    assert (found.logs.columns, found.approved) == ({"prompt": "question"}, {"support": "abc"})
    assert found.drift.columns["prompt_tokens"].threshold == 0.2


def mappings(annotation: Any, path: str) -> Iterator[str]:
    """Places below one of params.yaml where a mapping has keys of the user's own."""
    if get_origin(annotation) is dict:
        yield path
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield from mappings(field.annotation, f"{path}.{name}")
    else:
        for part in get_args(annotation):
            yield from mappings(part, path)


def test_these_are_all_mappings_that_params_have() -> None:
    assert {path.removeprefix(".") for path in mappings(params.Params, "")} == overrides.OPEN


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.epoch=2", "did you mean 'epochs'"),
        ("basis.b=1", "did you mean 'bases'"),
        ("gates.floor.goldn=0.5", "gates.floor"),
        ("bases.b={source: path}", "bases.b"),
        ("seed", "must be key.path=value"),
        ("seed={", "is not YAML"),
    ],
)
def test_what_is_no_key_or_no_value_is_said_with_the_nearest(setting: str, words: str) -> None:
    with pytest.raises(ParamsError, match=words):
        params.load(".", (setting,))


def test_a_file_that_is_no_yaml_is_named_with_the_line_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 7\ntrain: [1, 2\nlogs: {}\n")
    with pytest.raises(params.ParamsError) as failed:
        params.load(tmp_path)
    assert str(failed.value).startswith(f"{tmp_path / 'params.yaml'} is not YAML: ")
    assert "line 3" in str(failed.value) and "logs: {}" in str(failed.value)
