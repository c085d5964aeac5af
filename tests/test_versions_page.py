"""The page of a version in MLflow, on a real server, as a browser draws it."""

from pathlib import Path

import browser
import pytest
import servers
from tables import good, judge
from test_card import scores
from test_registry import adapter_folder

from retrain.bars import plot
from retrain.card import card
from retrain.params import Mlflow
from retrain.registry import Registry

pytestmark = pytest.mark.slow


def test_it_shows_verdict_and_picture_and_its_links_work(mlflow_server: servers.Server, tmp_path: Path) -> None:
    registry = Registry.open(Mlflow(uri=mlflow_server.uri, timeout=10), tmp_path)
    folder, digest = adapter_folder(tmp_path / "adapter", "weights")
    (tmp_path / "card.md").write_text(card(judge(good()), scores(0.9, 0.8), good()))
    plot(scores(0.9, 0.8), tmp_path / "scores.png")
    run = registry.start_training("shown", {"digest": digest})
    registry.finish(run, "FINISHED", {}, {}, [tmp_path / "card.md", tmp_path / "scores.png"])
    number = registry.register(
        "shown", folder, digest=digest, tags={"verdict": "passed"}, description=(tmp_path / "card.md").read_text(), run_id=run,
        taken={},
    )  # fmt: skip
    with browser.page() as page:
        page.open(f"{mlflow_server.uri}/#/models/shown/versions/{number}")
        page.reads("Passed: it answers the new questions better (audit gained 25.0 points)")
        page.shows_a_card()
        links = page.links("body")
        assert {"the run", "the whole card"} <= links.keys()
        for words, there in (("the run", "Finished"), ("the whole card", "What was tried")):
            page.open("about:blank")  # else only what follows # changes
            page.open(links[words])
            page.reads(there)


def test_a_run_that_has_no_card_gets_it(mlflow_server: servers.Server, tmp_path: Path) -> None:
    registry = Registry.open(Mlflow(uri=mlflow_server.uri, timeout=10), tmp_path)
    folder, digest = adapter_folder(tmp_path / "adapter", "others")
    run = registry.start_training("lost", {"digest": digest})
    registry.register("lost", folder, digest=digest, tags={}, description="Passed: it is.\n\n## Checks\n", run_id=run, taken={})
    found = registry.addresses(run)
    assert registry.client.get_model_version("lost", "1").description.endswith(
        f"[the whole card]({found['card']})\n\n## Checks\n"
    )
    assert registry.artifact(run, "card.md") == b"Passed: it is.\n\n## Checks\n"
    assert "picture" not in found
