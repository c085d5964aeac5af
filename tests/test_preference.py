"""An LLM judge as a second success metric of generated answers, behind a real HTTP endpoint."""

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import talking
import yaml
from judging import expected, rows, settings, swayed
from tables import GATES, Rows, judge

from retrain import evaluate, judging, params, preflight
from retrain.card import card, one_line, plain_lines
from retrain.errors import ParamsError
from retrain.evaluate import summary
from retrain.gating import Gates
from retrain.preference import Asker, Duel, mark
from retrain.verdict import Verdict

ROOT = Path(__file__).parents[1]


def better(suite: str, i: int) -> str:
    return f"bad {i}" if suite == "audit" and i % 10 == 0 else expected(i)


def worse(suite: str, i: int) -> str:
    return f"bad {i}" if suite == "audit" and i % 3 == 0 else expected(i)


def marked(model: talking.Model, folder: Path, table: Rows, **given: Any) -> Rows:
    mark(table, Asker(settings(model, **given), "Answer the question.", folder / "cache"), "right")
    return table


def judged(model: talking.Model, table: Rows, **changes: Any) -> Verdict:
    return judge(table, task="generation", judge=settings(model), **changes)


def test_a_judge_that_agrees_with_people_and_prefers_the_candidate_lets_the_verdict_pass(
    model: talking.Model, tmp_path: Path
) -> None:
    model.answer = swayed
    table = marked(model, tmp_path, rows(better, worse))
    verdict = judged(model, table)
    agreed, preferred = verdict.check("agreement"), verdict.check("preferred", "audit")
    assert verdict.promote and agreed and preferred
    assert (agreed.n, agreed.candidate, preferred.n, preferred.won, preferred.lost) == (40, 1.0, 120, 36, 8)
    assert agreed.interval and agreed.interval[0] > 0.9
    told = " ".join(plain_lines(verdict, {"suites": summary(table)}))
    assert "An LLM judge is believed: prefers the answer of a person to a wrong one in 40 of 40 cases" in told
    assert "judge prefers" in card(verdict, {"suites": summary(table)}, table)


def test_a_candidate_that_is_better_but_not_preferred_is_refused(model: talking.Model, tmp_path: Path) -> None:
    def contrary(body: talking.Body) -> str:  # of the arms it prefers none; people's answers to wrong ones it does
        text = body["messages"][-1]["content"]
        return swayed(body) if "bad base" in text else '{"verdict": "tie"}'

    model.answer = contrary
    table = marked(model, tmp_path, rows(better, worse, audit=120))
    for row in table:  # so that the base's answers calibrate
        row["calibration"] = {"arm": "base", "human": 1.0}
    verdict = judged(model, table)
    assert (verdict.status, verdict.promote) == ("failed", False)
    superior, preferred = verdict.check("superior"), verdict.check("preferred")
    assert superior and superior.passed and preferred and preferred.passed is False
    assert "but an LLM judge that agrees with people does not prefer it" in one_line(verdict)


@pytest.mark.parametrize("habit", ["first", "second", "tie"])
def test_a_judge_that_goes_by_the_order_says_tie_and_is_not_believed(model: talking.Model, tmp_path: Path, habit: str) -> None:
    model.answer = lambda body: json.dumps({"verdict": habit})
    table = marked(model, tmp_path, rows(better, worse))
    scores = {
        row["arms"][arm]["scores"]["judge"] for row in table for arm in ("candidate", "champion") if row["suite"] == "audit"
    }
    assert scores == {0.5}
    verdict = judged(model, table)
    agreed = verdict.check("agreement")
    assert verdict.status == "not_evaluated" and agreed and agreed.passed is None
    assert "in 0 of 40 cases" in agreed.why and "take another judge" in one_line(verdict)
    assert verdict.check("preferred") is None  # nothing for or against


def test_a_judge_that_prefers_what_people_find_wrong_is_not_believed(model: talking.Model, tmp_path: Path) -> None:
    def long_winded(body: talking.Body) -> str:
        return {"first": "second", "second": "first", "tie": "tie"}[json.loads(swayed(body))["verdict"]]

    model.answer = long_winded
    verdict = judged(model, marked(model, tmp_path, rows(worse, better)))  # it would prefer this candidate
    assert verdict.check("preferred") is None and not verdict.promote


def test_a_judgement_that_cannot_be_read_is_a_row_not_measured_and_too_many_tell_nothing(
    model: talking.Model, tmp_path: Path
) -> None:
    calls = itertools.count()

    def stammering(body: talking.Body, lines: tuple[str, ...]) -> str:
        next(calls)
        text = body["messages"][-1]["content"]
        return "hard to say" if any(f"question {line}\n" in text for line in lines) else swayed(body)

    model.answer = lambda body: stammering(body, ("3",))
    table = marked(model, tmp_path, rows(better, worse))
    (row,) = [row for row in table if row["id"] == "audit0003"]
    assert row["arms"]["candidate"]["scores"]["judge"] is None and row["arms"]["candidate"]["right"] is True
    assert row["arms"]["candidate"]["why"] == "the judge: its reply was no verdict"
    preferred = judged(model, table).check("preferred")
    assert preferred and (preferred.won, preferred.lost, preferred.passed) == (35, 9, True)  # lost, not left out
    model.answer = lambda body: stammering(body, ("3", "9", "12"))
    verdict = judged(model, marked(model, tmp_path / "2", rows(better, worse)))
    assert verdict.status == "not_evaluated" and "3 of 120 rows of audit could not be scored by judge" in one_line(verdict)


@pytest.mark.parametrize("code", [500, 401])
def test_a_judge_that_is_down_is_never_a_pass(model: talking.Model, tmp_path: Path, code: int) -> None:
    model.act = lambda handler, body: talking.send(handler, b"no", code)
    verdict = judged(model, marked(model, tmp_path, rows(better, worse)))
    assert (verdict.status, verdict.promote) == ("not_evaluated", False)
    agreed = verdict.check("agreement")
    assert agreed and "40 brought no verdict" in agreed.why


def test_rows_that_were_never_judged_are_never_a_pass(model: talking.Model) -> None:
    verdict = judged(model, rows(better, worse))
    assert (verdict.status, verdict.promote) == ("not_evaluated", False)
    assert "about 0 answers of people" in one_line(verdict)


def test_what_was_read_is_asked_once_and_equal_answers_never(model: talking.Model, tmp_path: Path) -> None:
    model.answer = swayed
    asker = Asker(settings(model), "t", tmp_path / "cache")
    duels = [Duel("q", "good", "bad"), Duel("q", "same", "same"), Duel("q", "good", "bad"), Duel("q", "bad", "good")]
    assert [found.score for found in asker.compare(duels)] == [1.0, 0.5, 1.0, 0.0]
    assert len(model.heard) == 4  # two pairs, both orders
    assert [found.score for found in asker.compare(duels)] == [1.0, 0.5, 1.0, 0.0]
    assert len(model.heard) == 4
    model.answer = lambda body: "?"
    assert [found.score for found in Asker(settings(model), "another task", tmp_path / "cache").compare(duels)][:2] == [
        None,
        0.5,
    ]


def test_purpose_replace_asks_that_the_judge_finds_it_no_worse(model: talking.Model, tmp_path: Path) -> None:
    model.answer = swayed
    table = marked(model, tmp_path, rows(worse, worse))
    verdict = judged(model, table, purpose="replace")
    preferred = verdict.check("preferred")
    assert preferred and preferred.passed and preferred.difference == 0 and verdict.promote


def test_params_refuse_a_judge_as_the_only_metric_and_for_labels(bare: Path) -> None:
    with pytest.raises(ParamsError, match="a judge alone never passes a gate"):
        params.load(bare, ["gates.metric=judge"])
    with pytest.raises(ParamsError, match=r"gates\.metric: a judge alone"):
        params.load(bare, ['adapters.orders.override.gates={"metric": "judge"}'])
    given = (
        "{url: 'http://h/v1', model: m, calibration: 40, agreement: 0.7, seconds: 9, timeout: 3, retries: 0, concurrency: 1}"
    )
    with pytest.raises(ParamsError, match="adapter support: gates.judge compares generated answers"):
        params.load(bare, [f"gates.judge={given}"])
    assert params.load(bare, [f"adapters.orders.override.gates.judge={given}"]).of("orders").gates.judge
    with pytest.raises(ParamsError, match=r"agreement is 0.5"):
        params.load(bare, [f"gates.judge={given.replace('0.7', '0.5')}"])


def test_a_key_that_is_missing_is_said_before_anything_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    plain = params.load(ROOT).of("orders")
    monkeypatch.setattr(preflight.base, "check", lambda spec: None)
    preflight.check(ROOT, plain, "orders")
    spec = {"url": "http://h/v1", "model": "m", "timeout": 1, "retries": 0, "concurrency": 1, "seconds": 1}
    keyed = GATES.model_validate(
        plain.gates.model_dump() | {"judge": {**spec, "calibration": 40, "agreement": 0.7, "key_env": "NO_SUCH_KEY"}}
    )
    with pytest.raises(ParamsError, match=r"gates\.judge\.key_env: \$NO_SUCH_KEY is not in the environment"):
        preflight.check(ROOT, plain.model_copy(update={"gates": keyed}), "orders")


def shown() -> Gates:
    """The judge of docs/judge.md, in the gates of params.yaml."""
    block = re.findall(r"^```yaml\n(gates:.*?)^```", (ROOT / "docs" / "judge.md").read_text(), re.MULTILINE | re.DOTALL)
    return Gates.model_validate(GATES.model_dump() | yaml.safe_load(block[0])["gates"])


def test_the_judge_that_the_page_and_params_show_is_params() -> None:
    text = re.search(r"\(docs/judge.md\)\n  # (\{url:.*?)\n  #(.*?\})\n  judge:", (ROOT / "params.yaml").read_text(), re.DOTALL)
    assert (
        text and shown().judge == Gates.model_validate(GATES.model_dump() | {"judge": yaml.safe_load(text[1] + text[2])}).judge
    )


def test_the_evaluation_asks_with_the_adapters_instructions_and_its_schema(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "data" / "prompts", tmp_path / "data" / "prompts")
    (tmp_path / "suites").mkdir()
    shutil.copy(ROOT / "data" / "prompts" / "orders.schema.json", tmp_path / "suites" / "schema.json")
    plain = params.load(ROOT).of("orders")
    assert evaluate._asker(plain, plain.adapter("orders"), tmp_path) is None
    with pytest.raises(ParamsError, match="JUDGE_KEY is not in the environment"):
        evaluate._asker(plain.model_copy(update={"gates": shown()}), plain.adapter("orders"), tmp_path)
    monkeypatch.setenv("JUDGE_KEY", "k")
    asker = evaluate._asker(plain.model_copy(update={"gates": shown()}), plain.adapter("orders"), tmp_path)
    assert (
        asker
        and "JSON of this schema" in asker.task
        and asker.task.startswith((ROOT / "data/prompts/orders.txt").read_text()[:40])
    )
    text = judging.framed(asker.template, asker.task, {"question": "q", "first": "a", "second": "b"})[0]["content"]
    assert "{{" not in text and "\nq\n" in text
