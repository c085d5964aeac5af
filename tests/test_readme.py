"""The commands of README and docs/ exist, with the options they name; their params parse."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from ruamel.yaml import YAML
from typer.testing import CliRunner

from monitoring.sources import mapping
from retrain.cli import app
from retrain.sections import Logs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = {path.name: path.read_text("utf-8") for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
BLOCKS = [block for text in PAGES.values() for block in re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
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
    found = typer.main.get_command(app).commands.get(words[0])  # type: ignore[attr-defined]
    verbs = words[:2] if getattr(found, "commands", None) else words[:1]
    text = help_of(*verbs)
    for option in (word for word in words if word.startswith("-")):
        assert option in text, f"{command}: {option}"


def test_the_logs_that_the_page_on_sources_shows_are_params() -> None:
    block = re.search(r"^```yaml\n(.*?)^```", PAGES["sources.md"], re.MULTILINE | re.DOTALL)
    assert block
    logs = Logs.model_validate({"feedback": None, **YAML(typ="safe").load(block[1])["logs"]})
    assert logs.feedback
    assert mapping.of_logs(logs)["prompt"][0].unit == "messages"
    assert "feedback_at" in mapping.of_feedback(logs, logs.feedback)


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
