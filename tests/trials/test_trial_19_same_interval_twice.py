"""Trial 19: the same interval twice, and a backfill: one dataset hash, and what is newest never goes back."""

import re
from pathlib import Path

import pytest
from small import TELLS, workspace

from monitoring.windows import of_interval
from retrain import collecting, watch
from retrain.errors import NothingToDo, ParamsError
from retrain.process import git
from retrain.records import parse_time, write_jsonl
from retrain.registry import Registry
from retrain.workspace import Workspace

pytestmark = pytest.mark.slow  # half a minute
DAYS = [f"2026-03-0{day}T00:00:00Z" for day in range(1, 5)]


@pytest.fixture(scope="module")
def space(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Three days of traffic, 40 corrections each."""
    made = workspace(tmp_path_factory.mktemp("trial19"), tiny)
    label = sorted(TELLS.values())[0]
    for day in DAYS[:3]:
        time = day.replace("T00", "T09")
        rows = [
            {"request_id": f"{day}-{i}", "timestamp": time, "prompt": f"question {i} of {day}", "response": "other",
             "feedback": -1, "correction": label, "feedback_at": time}
            for i in range(150)
        ]  # fmt: skip
        write_jsonl(made.root / "logs" / "support" / f"{day[:10]}.jsonl", rows)
    return made


def dataset(space: Workspace) -> str:
    git(space.root, "fetch", "--quiet", "origin", "main")
    found = re.search(r"md5: (\S+)", git(space.root, "show", f"{space.remote_head()}:data/failures/support.dvc"))
    assert found
    return found[1]


def test_the_same_collection_twice_is_one_dataset_and_an_older_one_is_refused(space: Workspace) -> None:
    first = collecting.collect(space, "support", parse_time(DAYS[1]))
    one = dataset(space)
    assert collecting.collect(space, "support", parse_time(DAYS[1])).rows == first.rows
    assert dataset(space) == one
    collecting.collect(space, "support", parse_time(DAYS[3]))
    both = dataset(space)
    assert both != one
    with pytest.raises(ParamsError, match="collections never go back"):
        collecting.collect(space, "support", parse_time(DAYS[2]))
    with pytest.raises(NothingToDo):
        collecting.collect(space, "support", parse_time("2026-03-09T00:00:00Z"))
    assert dataset(space) == both


def test_a_window_measured_again_or_backfilled_leaves_the_newest_window_newest(space: Workspace) -> None:
    def newest() -> str:
        return str(Registry.open(space.params.mlflow, space.root).windows("support", 10)[-1]["end"])

    last = of_interval(DAYS[2], DAYS[3])
    first = watch.monitor(space, "support", last).record
    again = watch.monitor(space, "support", last).record
    assert again.model_copy(update={"facts": first.facts}) == first  # the facts hold when it was decided
    assert len(Registry.open(space.params.mlflow, space.root).windows("support", 10)) == 1
    watch.monitor(space, "support", of_interval(DAYS[0], DAYS[1]))
    assert newest() == first.end
    assert [row["end"][:10] for row in Registry.open(space.params.mlflow, space.root).windows("support", 10)] == [
        "2026-03-02",
        "2026-03-04",
    ]
