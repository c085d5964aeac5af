"""The loop's jobs on real git, DVC and MLflow (SQLite), with a base that knows nothing: what is refused stays recorded."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from retrain import collecting, datachecks, guard, inputs, jobs, ledger, release, simulate, story, watch
from retrain.edits import set_values
from retrain.errors import DataError, NothingToDo, ParamsError, RejectedError
from retrain.founding import init
from retrain.process import git
from retrain.records import Example, Origin, parse_time, read_examples, stamp, write_jsonl
from retrain.registry import Registry, load_champion
from retrain.workspace import Clone, Workspace

END = parse_time("2026-03-02T00:00:00Z")


@pytest.fixture(scope="module")
def workspace(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("jobs")
    files = story.shipped().files
    (folder / "params.yaml").write_text(files["params.yaml"])
    raw = json.dumps(str(tiny.parent / "raw"))
    small = ["bases.smollm2.source=path", f"bases.smollm2.name={raw}", "bases.smollm2.file=null", "bases.smollm2.sha256=null"]
    set_values(
        folder / "params.yaml",
        [*small, "train.learning_rate=0.05", "train.batch=16", "train.max_length=64", "evaluate.shots=1"],
    )
    return init(folder / "ws", files={**files, "params.yaml": (folder / "params.yaml").read_text()})


@pytest.fixture(scope="module")
def refused(workspace: Workspace) -> jobs.Attempted:
    return watch.retrain(workspace, "support", END, say=lambda line: None)


def test_a_candidate_that_learned_little_is_refused_recorded_and_never_promoted(
    workspace: Workspace, refused: jobs.Attempted
) -> None:
    assert refused.verdict is not None
    assert refused.verdict.status == "failed"
    lines = jobs.entries(workspace, "support")
    assert [type(line) for line in lines] == [ledger.Attempt]
    with pytest.raises(RejectedError, match="did not pass"):
        release.promote(workspace, "support")
    with pytest.raises(NothingToDo, match="no champion yet"):
        load_champion("support", workspace)
    assert guard.reconcile(workspace, "support").told() == "support has no champion yet"


def test_what_a_training_cost_is_in_the_ledger_and_in_mlflow_and_the_budget_counts_it(
    workspace: Workspace, refused: jobs.Attempted
) -> None:
    cost = refused.attempt.cost
    assert cost["device_seconds"] > 0 and cost["tokens"] > cost["supervised"] > 0
    assert jobs.entries(workspace, "support")[0] == refused.attempt
    run = Registry.open(workspace.params.mlflow, workspace.root).training_runs("support", 1)[0]
    assert run.span == (run.start, run.start + timedelta(seconds=cost["device_seconds"]))


def test_the_card_in_mlflow_leads_to_the_data_docs_of_what_trained_and_what_judged(
    workspace: Workspace, refused: jobs.Attempted
) -> None:
    registry = Registry.open(workspace.params.mlflow, workspace.root)
    run = registry.run_of("support", refused.attempt.digest)
    assert run is not None
    card = (registry.artifact(run, "card.md") or b"").decode()
    link = re.search(r"Great Expectations: (\d+) rules met .*\[Data Docs\]\(([^)]*)\)", card)
    assert link and int(link[1]) == 29  # eight for train, seven for each of golden, audit, retained
    page = workspace.local / "reports" / link[2]
    assert "train" in page.read_text() and page.parts[-2] == refused.attempt.end
    with workspace.clone("look") as clone:  # the card that the stage wrote knows nothing of it: it reproduces
        clone.dvc("pull", "out/support/card.md")
        assert "Data Docs" not in (clone.root / "out" / "support" / "card.md").read_text()


def test_what_breaks_its_expectations_trains_nothing(workspace: Workspace, tmp_path: Path) -> None:
    made = tmp_path / "out" / "support"
    good, bad = Example.of("hello", "order_status", source="seed"), Example.of("hi", "no_label_of_ours", source="seed")
    write_jsonl(made / "data" / "train.jsonl", [good.as_dict(), bad.as_dict()])
    write_jsonl(made / "suites" / "golden.jsonl", [good.as_dict()])
    with pytest.raises(DataError, match=r"would train support does not pass.*answer: 1 of 2 values"):
        datachecks.check(workspace, tmp_path, workspace.params.of("support"), "support", "2020-01-01T00-00-00Z")


def test_the_same_end_twice_is_one_attempt_and_the_commit_holds_its_verdict(
    workspace: Workspace, refused: jobs.Attempted
) -> None:
    again = watch.retrain(workspace, "support", END, say=lambda line: None)
    assert not again.fresh
    assert again.attempt == refused.attempt
    assert len(jobs.entries(workspace, "support")) == 1
    verdict = json.loads(git(workspace.root, "show", f"{refused.attempt.commit}:out/support/verdict.json"))
    assert verdict["bound"]["adapter"] == refused.attempt.digest


def test_attempts_never_go_back_and_a_checkout_with_changes_of_its_own_is_told(
    workspace: Workspace, refused: jobs.Attempted
) -> None:
    with pytest.raises(ParamsError, match="has an attempt at 2026-03-02T00-00-00Z, 2026-03-01T00-00-00Z is before that"):
        watch.retrain(workspace, "support", END - timedelta(days=1), say=lambda line: None)
    path, said = workspace.root / "data/prompts/support.txt", []
    text = path.read_text()
    path.write_text(text + "Be brief.\n")
    jobs.retrain(workspace, "support", end=END, say=said.append)
    path.write_text(text)
    assert [line for line in said if "changes that are not committed (data/prompts/support.txt)" in line]


def test_an_attempt_that_somebody_else_pushed_first_is_theirs(
    workspace: Workspace, refused: jobs.Attempted, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, push, theirs = END + timedelta(hours=1), Clone._push, []

    def pushed_second(clone: Clone, tags: tuple[str, ...]) -> bool:
        if not theirs:
            theirs.append(refused.attempt.model_copy(update={"end": stamp(end)}))
            with workspace.clone("somebody") as other:
                ledger.append(other.root, "support", theirs[0])
                other.commit(["ledger/support.jsonl"], "theirs")
                assert push(other, ())
        return push(clone, tags)

    monkeypatch.setattr(Clone, "_push", pushed_second)
    made = watch.retrain(workspace, "support", end, say=lambda line: None)
    assert (made.attempt, made.fresh) == (theirs[0], False)
    assert [entry.end for entry in jobs.entries(workspace, "support")] == [stamp(END), stamp(end)]


def test_many_readers_of_the_ledger_do_not_disturb_one_another(workspace: Workspace, refused: jobs.Attempted) -> None:
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(lambda _: jobs.entries(workspace, "support")[0], range(24)))
    assert seen == [refused.attempt] * 24


def drawn(name: str) -> Example:
    return Example.of(f"question {name}", "refund_status", source="audit", origins=(Origin(request_id=name),))


def test_audited_rows_that_no_verdict_has_read_judge_the_next_attempt(tmp_path: Path, refused: jobs.Attempted) -> None:
    def written(at: str, names: str, *attempts: ledger.Attempt) -> dict[str, str]:
        asked = inputs.Asked("support", at, "improve", tuple(drawn(name) for name in names), ())
        inputs.write_audit(tmp_path, asked, attempts)
        return {
            path.stem: "".join(sorted(row.origins[0].request_id for row in read_examples(path)))
            for path in sorted(tmp_path.glob("*.jsonl"))
        }

    def tried(audit: str, status: str) -> ledger.Attempt:
        return refused.attempt.model_copy(update={"audit": audit, "status": status})

    assert written("1", "ab") == {"1": "ab"}
    untold = tried("1", "not_evaluated")
    assert written("2", "ab", untold) == {"1": "ab"}  # nothing new: the same file judges again
    assert written("2", "abc", untold) == {"2": "abc"}
    assert written("3", "abcd", untold, tried("2", "failed")) == {"2": "abc", "3": "d"}
    assert written("3", "abcde", untold, tried("2", "failed")) == {"2": "abc", "3": "d"}  # a second try of one end


def test_labels_are_admitted_once_and_comments_stay(workspace: Workspace) -> None:
    assert jobs.admit(workspace, "support", ["gift_card"], rows={"gift_card": 3}) == ["gift_card"]
    with pytest.raises(NothingToDo):
        jobs.admit(workspace, "support", ["gift_card"], rows={})
    text = jobs.remote_file(workspace, "params.yaml")
    assert "- gift_card" in text
    assert "# a guardrail may lose no more than this" in text


def log_rows(workspace: Workspace, name: str, rows: list[dict]) -> None:
    folder = workspace.root / "logs" / "support"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_collecting_twice_changes_nothing_and_never_goes_back(workspace: Workspace) -> None:
    with pytest.raises(DataError, match="logs/support"):
        collecting.collect(workspace, "support", END)
    time = "2026-03-01T10:00:00+00:00"
    asked = [row for row in simulate.read_traffic(story.HOME / "data/traffic/support.jsonl") if row["label"] == "refund_status"]
    rows = [
        {"request_id": f"r{i}", "timestamp": time, "prompt": row["text"], "response": "order_status", "user_id": f"u{i}",
         "feedback": -1, "correction": row["label"], "feedback_at": time}
        for i, row in enumerate(asked[:30])
    ]  # fmt: skip
    log_rows(workspace, "a.jsonl", rows)
    first = collecting.collect(workspace, "support", END)
    head = git(workspace.root, "ls-remote", "origin", "refs/heads/main")
    again = collecting.collect(workspace, "support", END)
    assert (again.rows, again.file) == (first.rows, first.file)
    assert 0 < first.rows < 30  # the drawn ones judge, they do not train
    assert git(workspace.root, "ls-remote", "origin", "refs/heads/main") == head
    with pytest.raises(ParamsError, match="never go back"):
        collecting.collect(workspace, "support", parse_time("2026-03-01T00:00:00Z"))
    with pytest.raises(NothingToDo):
        collecting.collect(workspace, "support", parse_time("2026-03-05T00:00:00Z"))


def test_labels_that_wait_are_listed_until_they_are_admitted(workspace: Workspace) -> None:
    time = "2026-03-01T11:00:00+00:00"
    rows = [
        {"request_id": f"n{i}", "timestamp": time, "prompt": f"points {i}", "response": "order_status", "user_id": f"u{i % 4}",
         "feedback": -1, "correction": "loyalty_points", "feedback_at": time}
        for i in range(30)
    ]  # fmt: skip
    log_rows(workspace, "b.jsonl", rows)
    waiting, users = collecting.new_labels(workspace, "support")["loyalty_points"]
    assert 0 < waiting < 30  # the drawn ones judge
    assert users <= 4
    jobs.admit(workspace, "support", ["loyalty_points"], rows={})
    assert "loyalty_points" not in collecting.new_labels(workspace, "support")
