"""README's commands exist, with the options it names; every verb says an example or needs none; its folders are there."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from retrain.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = sorted(
    {line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line.startswith("retrain ")}
)


def help_of(*verbs: str) -> str:
    done = CliRunner().invoke(app, [*verbs, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert done.exit_code == 0, done.output
    return done.output


def test_readme_shows_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_exists_with_its_options(command: str) -> None:
    words = shlex.split(command)[1:]
    verbs = words[:2] if words[0] == "labels" else words[:1]
    text = help_of(*verbs)
    for option in (word for word in words if word.startswith("-")):
        assert option in text, f"{command}: {option}"


def test_every_option_of_the_demo_that_the_readme_names_exists() -> None:
    text = help_of("demo")
    named = re.search(r"`--initial.*?`", README, re.DOTALL)
    assert named
    for option in re.findall(r"--[a-z-]+", named[0]):
        assert option in text


def test_every_verb_of_the_issue_is_there() -> None:
    command = typer.main.get_command(app)
    verbs = set(command.commands)  # type: ignore[attr-defined]
    wanted = "init demo simulate monitor collect labels repro register promote rollback status history doctor up"
    assert set(wanted.split()) <= verbs


def test_every_make_target_of_the_readme_is_in_the_makefile() -> None:
    targets = set(re.findall(r"make ([a-z]+)", README))
    assert targets >= {"demo", "test", "up"}
    makefile = (ROOT / "Makefile").read_text()
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []
