"""The story page, its index, the Evidently panels and the Prometheus file of an adapter that lived for four weeks."""

import json
import re
import shutil
from html import unescape
from pathlib import Path

import browser
import history
import pytest
import timeline
from typer.testing import CliRunner

from monitoring import chronicle, evidently_ui, pages
from retrain import ledger, projections
from retrain.cli import app
from retrain.process import git
from retrain.records import parse_time
from retrain.workspace import Workspace

LIMIT = 1_000_000  # bytes of a page that is sent by mail


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = history.workspace(tmp_path_factory.mktemp("pages"))
    projections.write(made, "support", panels=True)
    return made


@pytest.fixture(scope="module")
def html(space: Workspace) -> str:
    return projections.page_of(space, "support").read_text("utf-8")


def test_a_page_is_one_small_file_that_asks_for_nothing_and_runs_nothing(html: str) -> None:
    assert len(html.encode()) < LIMIT / 2
    assert not re.search(r"<(script|link|iframe|object)\b|<img (?!src=\"data:image/png;base64,)", html)
    assert not re.search(r"@import|url\((?!#)", html)
    assert "default-src 'none'" in html


def test_ninety_windows_of_twelve_columns_stay_below_a_megabyte() -> None:
    windows = []
    for day in range(90):
        record = history.record(day, version=1, accuracy=0.9, satisfaction=0.7, drift={})
        record["columns"] += [{**column, "column": f"more_{column['column']}"} for column in record["columns"][:5]]
        windows.append(chronicle.seen(record, None, {}))
    assert len(pages.story_page(timeline.told(windows, []), cards={}, commits={}).encode()) < LIMIT


def test_what_users_wrote_is_text_on_the_page_in_the_card_too(html: str) -> None:
    assert html.count("<script") == 0
    assert unescape(html).count('<script>alert("x")</script>') >= 3  # an example of a window, and two cards
    assert "onerror=alert(1)>" not in html


def test_the_picture_of_the_scores_stands_in_each_card(html: str) -> None:
    assert html.count('<img src="data:image/png;base64,iVBOR') == html.count("<summary>card</summary>") >= 2


def test_every_window_attempt_move_label_and_dataset_is_in_the_story(space: Workspace, html: str) -> None:
    for window in history.local(space.root).windows("support", 90):
        assert f'id="w-{window["end"]}"' in html
        assert f'href="#w-{window["end"]}"' in html
    for words in (
        "support-v1 serves", "support-v2 serves", "A candidate was refused", "A candidate passed the gate",
        "Back from v2 to v1",
        "Forward again from v1 to v2", "3 labels admitted", "gift_card (94 rows", "239 failure cases collected",
        "Fire: a retraining",
        "new in the traffic: gift card codes, 0% -&gt; 11% of traffic", "label 59 more",
    ):  # fmt: skip
        assert words in html, words


def test_every_link_of_the_page_leads_somewhere(space: Workspace, html: str) -> None:
    folder = projections.reports(space)
    links = set(re.findall(r'href="([^"]+)"', html))
    assert sum(link.startswith("support/") for link in links) == 26
    runs = {link.rpartition("/")[2] for link in links if link.startswith("mlflow/")}
    assert {run.id for run in history.local(space.root).window_runs("support", 90)} < runs
    for link in links:
        file, _, fragment = link.partition("#")
        assert not file or (folder / file).exists(), link
        assert file or f'id="{fragment}"' in html, link
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_a_commit_is_shown_as_git_says_it(space: Workspace, html: str) -> None:
    promoted = [entry for entry in ledger.parse(_ledger(space), "support") if isinstance(entry, ledger.Promotion)]
    for entry in promoted:
        subject = git(space.root, "show", "-s", "--format=%s", entry.commit)
        assert f"commit {entry.commit[:10]}" in html
        assert subject in unescape(html)


def _ledger(space: Workspace) -> str:
    git(space.root, "fetch", "--quiet", space.remote, "main")
    return git(space.root, "show", f"{space.remote_head()}:ledger/support.jsonl")


def test_deleted_pages_come_back_as_they_were(space: Workspace) -> None:
    folders = [space.local / name for name in ("reports", "metrics", "evidently")]

    def content() -> dict[str, bytes]:
        return {
            str(path): path.read_bytes() if "snapshots" not in path.parts else b""
            for folder in folders
            for path in folder.rglob("*")
            if path.is_file()
        }

    before, figures = content(), _series(space)
    assert len(before) > 50
    for folder in folders:
        shutil.rmtree(folder)
    assert CliRunner().invoke(app, ["pages", "-w", str(space.root)]).exit_code == 0
    assert content() == before
    assert _series(space) == figures


def test_pages_says_in_json_where_they_lie(space: Workspace) -> None:
    done = CliRunner().invoke(app, ["pages", "support", "-w", str(space.root), "--json"])
    said = json.loads(done.stdout)
    assert Path(said["index"]).exists()
    assert said["adapters"][0]["headline"].startswith("support is doing well: it gets 91% of the checked messages right")
    assert Path(said["adapters"][0]["page"]).exists()
    assert CliRunner().invoke(app, ["pages", "nobody", "-w", str(space.root)]).exit_code != 0


def test_status_shows_the_last_window_its_decision_and_its_page(space: Workspace) -> None:
    said = CliRunner().invoke(app, ["status", "-w", str(space.root)]).stdout
    assert "window 2026-10-26T00-00-00Z: 347 rows, no drift, hold: the newest window does not violate" in said
    assert f"page {projections.page_of(space, 'support')}" in said


def test_pages_that_cannot_be_written_are_a_warning(tmp_path: Path, space: Workspace) -> None:
    said: list[str] = []
    elsewhere = Workspace(tmp_path / "nowhere", space.params)
    projections.refresh(elsewhere, "support", panels=False, say=said.append)
    assert "run `retrain pages support`" in said[0]


def test_a_password_in_a_remote_never_becomes_a_link() -> None:
    assert projections.web_address("https://me:secret@git.example.org/team/loop.git") == "https://git.example.org/team/loop"
    assert projections.web_address("git@git.example.org:team/loop.git") == "https://git.example.org/team/loop"
    assert projections.web_address("/srv/git/loop.git") is None
    assert projections.web_address(".retrain/origin.git") is None


# --- how it looks


def _variables(css: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", css))


def _contrast(one: str, other: str) -> float:
    """WCAG 2: relative luminance of each, lighter by darker."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_can_be_read_in_light_and_dark(html: str, scheme: int) -> None:
    colours = _variables(re.findall(r":root \{(.*?)\}", html, re.DOTALL)[scheme])
    for name in ("ink", "muted", "accent", "second", "bad", "good", "warn"):
        for ground in ("card", "page"):
            assert _contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    assert _contrast(colours["ink"], colours["soft"]) >= 4.5


def test_no_colour_of_the_drawing_is_fixed(html: str) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "var(--accent)" in drawings
    assert not re.search(r"(?<!href=\")(?<!url\()#[0-9a-f]{6}", drawings)


@pytest.mark.slow
def test_a_phone_shows_it_without_sideways_scrolling(tmp_path: Path, html: str) -> None:
    (tmp_path / "page.html").write_text(html)
    with browser.page() as page:
        page.sized(390, 900)
        page.open((tmp_path / "page.html").as_uri())
        page.wait("document.querySelectorAll('details').length && innerWidth == 390")
        page.js("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.js("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


# --- Prometheus


def test_the_figures_are_valid_openmetrics_and_node_exporters_collector_reads_them(space: Workspace) -> None:
    from prometheus_client import parser
    from prometheus_client.openmetrics import parser as openmetrics

    text = (space.local / "metrics" / "support.prom").read_text("utf-8")
    strict = {sample.name: sample for family in openmetrics.text_string_to_metric_families(text) for sample in family.samples}
    plain = {sample.name: sample for family in parser.text_string_to_metric_families(text) for sample in family.samples}
    assert strict.keys() == plain.keys()
    assert strict["retrain_window_rows"].value == 347
    assert strict["retrain_last_window_timestamp_seconds"].value == parse_time("2026-10-26T00:00:00Z").timestamp()
    assert strict["retrain_champion_info"].labels == {"adapter": "support", "version": "2"}
    counts = {
        sample.labels["result"]: sample.value
        for family in openmetrics.text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "retrain_promotions_total"
    }
    assert counts == {"passed": 2, "failed": 1, "not_evaluated": 0, "promoted": 2, "rolled_back": 2}
    assert not re.search(r"^# TYPE .* (info|unknown|stateset)$", text, re.MULTILINE)


def test_what_is_not_known_is_absent_and_never_zero() -> None:
    from monitoring.openmetrics import text

    said = text(
        timeline.told([timeline.seen(1, accuracy=None, satisfaction=None)], [timeline.attempt(0), timeline.promotion(0)])
    )
    assert "retrain_window_accuracy_ratio" not in said
    assert "retrain_window_rows{" in said
    assert "retrain_window_rows{" not in text(timeline.told([], []))


# --- Evidently


def _series(space: Workspace) -> list[tuple[str, str, dict[str, float]]]:
    """Time, name and figures of every run in the adapter's project, as Evidently reads them."""
    from evidently.ui.workspace import Workspace as Panels

    panels = Panels.create(str(projections.panels_of(space)))
    assert [str(project.id) for project in panels.list_projects()] == [evidently_ui.project_id("support")]
    found = []
    for run in panels.list_runs(evidently_ui.project_id("support")):
        snapshot = panels.get_run(evidently_ui.project_id("support"), run)
        assert snapshot is not None
        assert snapshot.timestamp.tzinfo is not None  # one naive time among aware ones breaks every series
        figures = {result.display_name: result.value for result in snapshot.metric_results.values()}
        found.append((snapshot.timestamp.isoformat(), str(snapshot.name), figures))
    return sorted(found, key=lambda row: row[0])


def test_evidently_holds_one_run_a_window_and_writing_again_adds_none(space: Workspace) -> None:
    runs = _series(space)
    assert len(runs) == 26
    assert runs[-1][0].startswith("2026-10-26T00:00:00")
    windows = projections._windows(space, history.local(space.root), "support")
    assert evidently_ui.add_to_workspace(projections.panels_of(space), "support", windows) == 0
    assert _series(space) == runs
