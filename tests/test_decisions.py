"""The recorded past: replays under another policy, and the story that `retrain why` tells."""

import json
from pathlib import Path

import pytest
from deciding import POLICY, day, facts, found, policy, share, window
from typer.testing import CliRunner

from monitoring.decisions import fires, replay, side_by_side, story
from monitoring.trigger import WindowRecord, decide
from retrain import params as params_
from retrain.cli import app
from retrain.founding import init
from retrain.ledger import Attempt
from retrain.policies import Cost
from retrain.registry import Registry
from retrain.story import params_text


def recorded(*kinds: str, rules: params_.Trigger = POLICY) -> list[WindowRecord]:
    """Windows decided one after another, as the monitor does, nothing being trained."""
    history: list[WindowRecord] = []
    for n, kind in enumerate(kinds):
        falls = [share(70 if kind == "bad" else 90, 100, 90, 100)]
        record = window(n, "quiet", compared=falls, facts=facts(), policy=rules.model_dump(mode="json"))
        record = record.model_copy(update={"violations": found(*falls)})
        decision = decide([*history, record], policy=rules, facts=facts())
        history.append(
            record.model_copy(update={"fire": decision.fire, "reasons": decision.reasons, "purpose": decision.purpose})
        )
    return [WindowRecord.model_validate(record.as_dict()) for record in history]


PAST = ("quiet", "quiet", "bad", "bad", "bad", "quiet", "bad")


def test_a_replay_of_the_same_policy_decides_the_same() -> None:
    past = recorded(*PAST)
    again = replay(past, POLICY)
    assert [line.replayed for line in again] == [line.decided for line in again]
    assert [line.reasons for line in again] == [record.reasons for record in past]
    assert fires(again)["decided"] == [day(4), day(7)]


def test_a_replay_says_when_another_policy_would_have_fired() -> None:
    past = recorded(*PAST)
    eager = replay(past, policy("policies.k_of_n={windows: 1, violations: 1}"))
    assert fires(eager) == {"decided": [day(4), day(7)], "replayed": [day(3), day(7)]}
    table = side_by_side(eager)
    assert "2026-03-04 00:00  hold     fire" in table
    assert "this policy: 2 fires, 2026-03-04 00:00, 2026-03-08 00:00" in table
    blind = replay(past, policy("accuracy_drop=0.5"))
    assert fires(blind)["replayed"] == []


def test_a_record_from_before_facts_were_kept_is_read_and_said_not_to_be_replayable() -> None:
    old = {k: v for k, v in window(0, "bad").as_dict().items() if k in ("adapter", "start", "end", "rows", "drift_status",
           "drifted", "audited", "violations", "version", "fire", "reasons")}  # fmt: skip
    line = replay([WindowRecord.model_validate(old)], POLICY)[0]
    assert line.replayed is None
    assert "cannot be replayed" in line.reasons[0]


def test_the_story_tells_quiet_windows_in_one_line_and_what_a_fire_came_to() -> None:
    attempt = Attempt(
        at="2026-03-05T01:00:00Z", adapter="support", purpose="improve", end=day(4), commit="c", digest="d", status="failed",
        promote=False, dataset="s", audit=None, champion=None, why="forgot cancel_order",
    )  # fmt: skip
    lines = story("support", recorded(*PAST), [attempt], Cost(runs=1, hours=0.2, week=0.2, weekly=0.2, one=0.2))
    assert lines[0] == "2026-03-02 00:00 to 2026-03-03 00:00  v1  hold: 2 quiet windows, 640 rows"
    text = "\n".join(lines)
    assert "2026-03-05 00:00  v1  FIRE, to improve: 320 rows" in text
    assert text.index("FIRE") < text.index("then: 2026-03-05T01:00:00Z attempt") < text.index("2026-03-06 00:00  v1  hold")
    assert "training took 12 min so far (1 run)" in text
    assert "no window has been measured yet" in story("support", [], [], Cost())[0]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real workspace whose MLflow holds the recorded windows."""
    root = init(tmp_path_factory.mktemp("why") / "ws", files={"params.yaml": params_text("support", ["a", "b"])}).root
    registry = Registry.open(params_.load(root).mlflow, root)
    for record in recorded(*PAST):
        registry.log_window("support", record.as_dict(), {}, [])
    return root


def printed(root: Path, *words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--workspace", str(root)])
    assert done.exit_code == 0, done.output or done.exception
    return done.stdout


def test_why_tells_the_recorded_windows_to_people_and_to_programs(watched: Path) -> None:
    assert "FIRE, to improve: 320 rows" in printed(watched, "why", "support")
    told = json.loads(printed(watched, "why", "support", "--json"))
    assert [line["decision"] for line in told["windows"]] == ["hold", "hold", "hold", "fire", "hold", "hold", "fire"]
    assert len(json.loads(printed(watched, "why", "support", "--windows", "2", "--json"))["windows"]) == 2


def test_another_policy_is_replayed_from_a_file_and_from_settings(watched: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("policies:\n  - {kind: k_of_n, windows: 1, violations: 1}\n")
    assert "this policy: 2 fires, 2026-03-04 00:00" in printed(watched, "trigger", "support", "--replay", str(other))
    setting = "trigger.policies.k_of_n={windows: 1, violations: 1}"
    told = json.loads(printed(watched, "trigger", "support", "--set", setting, "--json"))
    assert told["fires"] == {"decided": [day(4), day(7)], "replayed": [day(3), day(7)]}
    wrong = CliRunner().invoke(app, ["trigger", "support", "--set", "seed=8", "--workspace", str(watched)])
    assert "a replay changes the trigger alone" in str(wrong.exception)


def test_a_record_survives_json() -> None:
    record = window(1, "bad", facts=facts(), compared=[share(70, 100)], policy=POLICY.model_dump(mode="json"), fire=True)
    assert WindowRecord.model_validate(record.as_dict()) == record
