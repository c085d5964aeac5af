"""The verdict in plain words, and the picture of the scores."""

import re
from pathlib import Path
from typing import Any

import pytest
from tables import Rows, good, judge, right, suite

from retrain.bars import plot
from retrain.card import card, one_line, plain_lines
from retrain.markdown import escape, linked, spaced, unmarked
from retrain.redact import Traces
from retrain.registry.versions import shortened
from retrain.verdict import Verdict


def forgetful_rows() -> Rows:
    """Better on audit; on golden it lost 18 of 25 rows of refund_status."""
    ours = [i % 8 != 0 or i >= 144 for i in range(200)]
    return good(golden=suite("golden", ours, right(200)))


def forgetful() -> Verdict:
    return judge(forgetful_rows())


def scores(candidate: float, regression: float) -> dict[str, Any]:
    def arm(share: float, n: int = 200) -> dict[str, Any]:
        return {"n": n, "right": share, "parsed": 1.0, "measured": 1.0}

    arms = {
        "candidate": arm(candidate),
        "champion": arm(0.7),
        "base": arm(0.3, 150),
        "prompted": arm(0.4),
        "regression": arm(regression),
    }
    return {"schema": 1, "adapter": "support", "suites": {name: {"n": 200, "arms": arms} for name in ("audit", "golden")}}


def test_a_refusal_says_what_was_gained_and_names_what_was_forgotten() -> None:
    assert one_line(forgetful()) == (
        "Not promoted: it answers the new questions better (audit gained 25.0 points), "
        "but forgot refund_status (golden lost 9.0 points, 4.5 allowed)."
    )


def test_a_pass_says_the_gain() -> None:
    line = one_line(judge(good()))
    assert line.startswith("Passed: it answers the new questions better (audit gained 25.0 points)")


def test_not_told_says_how_many_rows_to_label() -> None:
    rows = [row for row in good() if row["suite"] != "audit" or int(row["id"]) < 74]
    assert one_line(judge(rows)) == "Could not tell: only 74 unread audited rows, 100 are needed: label 26 more."


@pytest.mark.parametrize(
    ("rows", "purpose", "words"),
    [
        (
            good(audit=suite("audit", right(120, 10), right(120, 10))),
            "improve",
            "no better on what users ask now (audit no change)",
        ),
        (good(audit=suite("audit", right(120, 9), right(120, 11))), "improve", "not shown to be better"),
        (
            good(golden=suite("golden", right(200, 60), right(200, 60))),
            "improve",
            "but it is not good enough on golden (70.0 %, at",
        ),
        (
            good(golden=suite("golden", right(200, 40), right(200))),
            "improve",
            "but forgot a little of many things (golden lost",
        ),
        (
            good(golden=suite("golden", right(100) + [False] * 99, [False] * 99 + right(100))),
            "improve",
            "changed too many answers",
        ),
        (good(audit=suite("audit", right(120, 40), right(120))), "replace", "got worse at a little of many things (audit lost"),
    ],
)
def test_each_kind_of_refusal_has_its_words(rows: Rows, purpose: str, words: str) -> None:
    line = one_line(judge(rows, purpose=purpose))
    assert line.startswith("Not promoted: ") and words in line


def test_the_card_begins_with_plain_words_and_goes_on_to_every_number() -> None:
    text = card(forgetful(), scores(0.9, 0.8), forgetful_rows())
    assert re.match(r"[A-Z][a-z]+ [a-z]+: ", text) and not set("#*`|<[") & set(text.splitlines()[0])
    assert 7 <= text.split("## Checks")[0].count("\n- **") <= 10
    for check in forgetful().checks:
        assert f"| {check.name} | {check.role} |" in text
    checks = text.split("## Checks")[1].splitlines()[4:6]
    assert [line.split(" | ")[:2] for line in checks] == [["| FAILED", "non_inferior"], ["| FAILED", "slices"]]
    assert "| superior | audit | 120 | 95.8 % | 70.8 % | 0.0 % | 30 | 0 | +25.0 | 18.1 to 33.4 |" in text
    assert "| audit | logistic regression | 80.0 % | 100.0 % | 100.0 % | 200 |" in text
    assert "| golden | refund_status | 18 | 0 | 25 |" in text and "| golden | question 0 | yes | no | yes |" in text


def test_the_card_says_honestly_when_something_simpler_is_better() -> None:
    better = plain_lines(judge(good()), scores(0.9, 0.95))
    assert any(
        "Perhaps: the logistic regression is 5.0 points better than the candidate; for a closed set" in line for line in better
    )
    worse = plain_lines(judge(good()), scores(0.9, 0.2))
    assert any("No: the best of what is simpler, the prompted base, is 50.0 points behind" in line for line in worse)
    silent = plain_lines(judge(good()), {"suites": {"audit": {"n": 9, "arms": {"candidate": {"n": 9, "right": 0.9}}}}})
    assert any("Nothing simpler was scored" in line for line in silent)


def test_the_card_counts_what_was_left_out_and_what_could_not_be_scored() -> None:
    rows = good()
    rows[0]["excluded"] = "exact copy"
    rows[130]["arms"]["champion"]["right"] = None
    text = "\n".join(plain_lines(judge(rows), scores(0.9, 0.8)))
    assert "What is missing: 1 row could not be scored" in text and "1 row left out for every arm (1 exact copy)" in text


def test_a_users_text_stays_text_in_the_tables() -> None:
    rows = good(golden=suite("golden", right(200, 40), right(200)))
    for row in rows:
        row["question"] = "a | b\n<script>alert(1)</script> [x](http://y) `z` **bold**"
    text = card(judge(rows), scores(0.9, 0.8), rows)
    assert "<script>" not in text
    assert r"| golden | a \| b &lt;script&gt;alert(1)&lt;/script&gt; \[x\](http://y) \`z\` \*\*bold\*\* | yes |" in text


def test_the_card_shows_what_was_won_the_worst_kinds_and_what_is_confused_otherwise() -> None:
    text = card(forgetful(), scores(0.9, 0.8), forgetful_rows())
    worst = text.split("## Kinds of question, the worst first")[1].splitlines()[4]
    assert worst == "| refund_status | 66 | 71.2 % | 90.9 % | -19.7 | 5 | 18 |"
    won = text.split("## What was won")[1].split("##")[0]
    assert won.count("| audit |") == 5 and "| yes | yes | no |" in won
    confused = text.split("## What is confused more, or less")[1].split("##")[0]
    assert "| yes | no | 55 | 36 |" in confused


def test_the_card_says_which_gain_so_many_rows_can_show() -> None:
    (line,) = [line for line in plain_lines(judge(good()), scores(0.9, 0.8)) if "small a gain" in line]
    assert "With 120 audited rows one below 13.3 points is missed in more than 1 of 5 cases" in line
    assert line.endswith("; label 200 more, and 8.1 points would be seen.")


def test_scores_of_generated_answers_stand_beside_right_and_wrong() -> None:
    found = scores(0.9, 0.8)
    found["suites"]["audit"]["arms"]["candidate"] |= {"fields": 0.97, "chrf": 0.5}
    assert "| suite | arm | right | fields right | chrF | parsed | measured | rows |" in card(
        forgetful(), found, forgetful_rows()
    )


def test_a_card_is_written_even_where_nothing_was_measured() -> None:
    text = card(judge([]), {}, [])
    assert text.startswith("Could not tell: ") and "## Scores" in text
    holes = {"suites": {"audit": {"n": 0, "arms": {"candidate": {"n": 0, "right": None}, "base": {"right": float("nan")}}}}}
    assert "nan" not in card(judge(good()), holes, good())


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_picture_has_the_same_bytes_each_time(tmp_path: Path, ending: str) -> None:
    paths = [tmp_path / f"{name}.{ending}" for name in "ab"]
    for path in paths:
        plot(scores(0.9, 0.95), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    plot(scores(0.5, 0.95), paths[1])
    assert paths[0].read_bytes() != paths[1].read_bytes()


def test_the_picture_of_nothing_measured_is_drawn_too(tmp_path: Path) -> None:
    for number, metrics in enumerate([{}, {"suites": {"audit": {"n": 0, "arms": {"candidate": {"right": None}}}}}]):
        plot(metrics, tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").stat().st_size > 1000


def test_the_card_says_when_people_accepted_losses_and_what_they_changed() -> None:
    text = card(
        judge(good()), {}, good(), ["2 rows retired (typos)"], ["2026-11-27T18:00:00Z REBASELINED: from v3 on: a form now"]
    )
    assert "\n- **The suites were changed since the champion was judged:** 2 rows retired (typos).\n" in text
    assert "\n- **Losses were accepted:** 2026-11-27T18:00:00Z REBASELINED: from v3 on: a form now.\n\n## Checks" in text


def test_links_and_the_picture_stand_before_the_first_table() -> None:
    text = card(forgetful(), scores(0.9, 0.8), forgetful_rows())
    shown = linked(text, [("the run", "#/runs/1"), ("the story", "http://h/support.html")], "get-artifact?path=scores.png")
    before, _, after = shown.partition("\n\n## Checks\n")
    assert before.endswith(
        "![right answers by suite](get-artifact?path=scores.png)\n\n[the run](#/runs/1) · [the story](http://h/support.html)"
    )
    assert shown.splitlines()[0] == text.splitlines()[0] and text.endswith(after)
    assert linked(text, [], None) == text and linked("", [("the run", "#/runs/1")], None) == ""


def test_tables_stand_apart_in_mlflow_and_what_is_erased_leaves_them() -> None:
    row = "| audit | hi | refund |"
    assert spaced(f"It is | so\n{row}").startswith("It is | so\n| audit\u2003\u200b | hi\u2003\u200b | refund |")
    assert Traces(texts={"hi", "refund"}).redacted(spaced(row)) == spaced("| audit | [erased] | [erased] |")


def test_a_line_of_the_card_is_plain_in_a_terminal() -> None:
    told = "What users ask now: 1 < 2 | *a* _b_ [c] `d` & e\\f"
    assert unmarked(f"**{escape(told)}**") == told


def test_a_card_that_is_longer_than_mlflows_column_is_cut_at_a_line_and_says_where_the_rest_is() -> None:
    text = card(forgetful(), scores(0.9, 0.8), forgetful_rows())
    short = shortened(text)
    assert len(text) > 5_000 >= len(short) and text.startswith(short.rpartition("\n\n")[0])
    assert short.endswith("The rest is in card.md, an artifact of this version's run.")
    assert shortened(short) == short
