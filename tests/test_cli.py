"""The command line as people and programs meet it: help, one JSON object a call, exit codes, errors of one line."""

from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from retrain import cli


def verbs() -> Iterator[tuple[str, ...]]:
    """Every command, as the words that call it."""
    for name, command in typer.main.get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        yield from ((name, sub) for sub in inner) if inner else [(name,)]


@pytest.mark.parametrize("verb", list(verbs()), ids=" ".join)
def test_the_help_of_every_verb_shows_an_example_of_it(verb: tuple[str, ...]) -> None:
    text = CliRunner().invoke(cli.app, [*verb, "--help"], env={"COLUMNS": "200"}).output
    assert f"Example: retrain {' '.join(verb)}" in text
