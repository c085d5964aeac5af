"""What enters a training, held to its expectations before it trains, and the Data Docs that show it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from retrain import expectations
from retrain.errors import DataError
from retrain.params import Params
from retrain.records import read_examples, write_text
from retrain.workspace import Workspace

KEPT = 5  # attempts whose Data Docs stay, 4 MB each


@dataclass(frozen=True)
class Docs:
    """Data Docs of an attempt, below `reports`, the folder in which the story pages lie."""

    page: Path
    rules: int
    reports: Path

    def on_card(self, card: Path) -> Path:
        """A copy of the card beside the page, with a link to it that works from the story page."""
        link = self.page.relative_to(self.reports).as_posix()
        copy = self.page.parent / card.name
        line = f"Great Expectations: {self.rules} rules met by what trained and what judged ([Data Docs]({link}))."
        write_text(copy, f"{card.read_text('utf-8').rstrip()}\n\n{line}\n")
        return copy


def check(workspace: Workspace, root: Path, params: Params, adapter: str, at: str) -> Docs:
    """Check what `prepare` made under root, rows that train and each suite, for the attempt at `at`.

    DataError with the rules that are not met; nothing has trained then.
    """
    made = root / "out" / adapter
    reports = workspace.local / "reports"
    page = reports / adapter / "training" / at / "index.html"
    shutil.rmtree(page.parent, ignore_errors=True)
    found = expectations.check_training(
        {path.stem: read_examples(path) for path in sorted((made / "suites").glob("*.jsonl"))},
        train=read_examples(made / "data" / "train.jsonl"),
        labels=params.adapter(adapter).labels,
        docs=page.parent,
    )
    for old in sorted(page.parents[1].iterdir())[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    if not found.passed:
        raise DataError(f"what would train {adapter} does not pass its expectations, see {page}: {'; '.join(found.failures)}")
    return Docs(page, found.evaluated, reports)
