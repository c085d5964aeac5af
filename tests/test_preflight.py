"""What cannot train is refused before anything does, with the file or key, what was found, and the fix: exit code 2."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from small import workspace

from retrain import jobs, preflight, recheck, story, synthesize, watch
from retrain import params as params_
from retrain.errors import DataError, NotEnoughData, ParamsError
from retrain.founding import init
from retrain.process import dvc, git, refusal, told
from retrain.records import Example, dumps, parse_time, read_json
from retrain.workspace import Workspace

ROOT = Path(__file__).parents[1]
END = parse_time("2026-03-02T00:00:00Z")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The inputs of this repository, to be spoiled."""
    for name in ("data/prompts", "data/seed", "data/suites", "data/failures", "champion"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def check(root: Path, adapter: str, *overrides: str) -> None:
    preflight.check(root, params_.load(root, overrides).of(adapter), adapter)


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(text)


def row(question: str, answer: str) -> str:
    return dumps(Example.of(question, answer, source="golden").as_dict()) + "\n"


def test_what_ships_passes(root: Path) -> None:
    assert [check(root, adapter) for adapter in params_.load(root).adapters] == [None, None]  # it refuses by raising


GOLDEN, SCHEMA = "data/suites/orders/golden.jsonl", "data/prompts/orders.schema.json"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "data/prompts/orders.txt").unlink(), "^prompt file data/prompts/orders.txt does not exist"),
        (write("data/prompts/orders.txt", " \n"), "data/prompts/orders.txt is blank"),
        (lambda root: (root / SCHEMA).unlink(), f"^output schema {SCHEMA} does not exist"),
        (write(SCHEMA, "{"), f"{SCHEMA} is not JSON"),
        (write(SCHEMA, "[]"), "is a JSON list, must be an object"),
        (write(SCHEMA, '{"type": "objekt"}'), r"is no JSON schema at \$.type: 'objekt'.*correct `output`"),
        (write("data/seed/orders.jsonl", ""), "^data/seed/orders.jsonl holds no rows: write examples"),
        (write("data/seed/orders.jsonl", "{"), "^data/seed/orders.jsonl:1 "),
        (lambda root: (root / GOLDEN).unlink(), f"^{GOLDEN} does not exist"),
        (write(GOLDEN, ""), f"^{GOLDEN} holds no rows"),
        (write(GOLDEN, row("two beers", '{"items": ')), f"^{GOLDEN}, row .*'two beers'.*is no JSON.*mend or remove"),
        (write(GOLDEN, row("two beers", "{}")), r"does not fit the output schema at \$: 'items' is a required property"),
    ],
)
def test_a_spoiled_input_is_named_with_its_fix(root: Path, spoil: Callable[[Path], object], words: str) -> None:
    spoil(root)
    with pytest.raises((ParamsError, DataError), match=words) as caught:
        check(root, "orders")
    assert caught.value.exit_code == 2


def test_a_golden_row_whose_label_is_not_listed_is_named(root: Path) -> None:
    with (root / "data/suites/support/golden.jsonl").open("a") as file:
        file.write(row("my gift card fails", "gift_card"))
    with pytest.raises(DataError, match="'my gift card fails'.*'gift_card' is not listed: add it to adapters.support.labels"):
        check(root, "support")


def test_a_renamed_adapter_is_told_which_files_to_move_and_which_to_make(root: Path) -> None:
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("  orders:", "  purchases:"))
    with pytest.raises(DataError, match="purchases of params.yaml has no data/seed/purchases.jsonl, data/suites") as caught:
        check(root, "purchases")
    assert "If it is `orders` renamed, move its files to data/seed/purchases.jsonl" in str(caught.value)
    state = str(caught.value).partition("champion/purchases.json as ")[2].partition("}")[0] + "}"
    assert json.loads(state)["adapter"] == "purchases"


def test_a_gpu_that_is_not_there_is_said_before_anything_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParamsError, match="no CUDA device"):
        check(root, "support", "train.device=cuda")


# --- the base


def local(root: Path, name: str, **changes: str) -> list[str]:
    given = {"source": "path", "name": name, "file": "null", "sha256": "null", **changes}
    return [f"bases.smollm2.{key}={value}" for key, value in given.items()]


def test_a_base_at_a_relative_path_is_refused_and_a_home_is_expanded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParamsError, match="relative path 'models/mine', must be absolute or begin with ~"):
        check(root, "support", *local(root, "models/mine"))
    monkeypatch.setenv("HOME", str(root))
    with pytest.raises(ParamsError, match="models/mine does not exist"):
        check(root, "support", *local(root, "~/models/mine"))
    (root / "models/mine").mkdir(parents=True)
    check(root, "support", *local(root, "~/models/mine"))


def test_a_sha256_that_nobody_would_check_is_refused(root: Path) -> None:
    with pytest.raises(ParamsError, match="is a folder, and sha256 is checked of a single file only"):
        check(root, "support", *local(root, str(root / "data"), sha256="ab" * 32))
    hub = ["bases.smollm2.source=hub", "bases.smollm2.name=a/b", "bases.smollm2.revision=abc"]
    with pytest.raises(ParamsError, match="from the hub is pinned by its revision"):
        check(root, "support", *hub)


# --- contradictions in params.yaml

BOTH = "base: smollm2, task: classification, prompt: data/prompts/x.txt, labels: [a, b], output: data/prompts/x.json"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["evaluate.base_rows=50"], "support: evaluate.base_rows is 50, gates.min_rows is 100: .*raise evaluate.base_rows"),
        (["adapters.orders.override.gates.min_rows=31"], "adapter orders: evaluate.base_rows is 30, gates.min_rows is 31"),
        (["adapters.orders.output=contracts/orders.json"], "must lie in data/prompts/: dvc.yaml watches that folder"),
        ([f"adapters.support={{{BOTH}}}"], "task classification has no output"),
    ],
)
def test_parameters_that_contradict_are_refused(settings: list[str], words: str) -> None:
    with pytest.raises(ParamsError, match=words):
        params_.load(ROOT, settings)


def test_two_adapters_that_would_be_one_dag_are_refused(root: Path) -> None:
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("  support:", "  my-own:").replace("  orders:", "  my_own:"))
    with pytest.raises(ParamsError, match="adapters my-own and my_own would both be the DAG retrain_my_own: rename one"):
        params_.load(root)


# --- through DVC


def test_what_a_stage_tells_is_found_again_with_its_class_and_all_its_lines() -> None:
    error = NotEnoughData("only 3 rows:\nwrite 97 more")
    lines = ["Running stage 'prepare@support':", *told(error).split("\n"), "ERROR: failed to reproduce 'prepare@support'"]
    found = refusal(lines)
    assert type(found) is NotEnoughData
    assert str(found) == str(error)
    assert refusal(["error[KeyboardInterrupt]: no", "Traceback (most recent call last):"]) is None


@pytest.fixture(scope="module")
def space(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return workspace(tmp_path_factory.mktemp("preflight"), tiny)


def repro(space: Workspace, *settings: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "retrain.cli", "repro", "support", "-w", str(space.root)]
    options = [word for setting in settings for word in ("--set", setting)]
    return subprocess.run([*command, *options], capture_output=True, text=True)


def test_what_preflight_refuses_ends_repro_with_2_before_a_stage_runs(space: Workspace) -> None:
    done = repro(space, "evaluate.base_rows=10")
    assert done.returncode == 2, done.stderr
    assert "evaluate.base_rows is 10" in done.stderr
    assert "Running stage" not in done.stdout


@pytest.mark.slow
def test_what_a_stage_refuses_comes_out_of_repro_as_the_stage_said_it(space: Workspace) -> None:
    done = repro(space, "train.targets=[nothing]")
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: train.targets ['nothing'] do not fit this base")
    assert jobs.entries(space, "support") == []


def test_an_adapter_renamed_in_the_workspace_is_told_so_before_data_is_fetched(space: Workspace) -> None:
    with space.clone("rename") as clone:
        path = clone.root / "params.yaml"
        path.write_text(path.read_text().replace("  support:", "  helpdesk:"))
        clone.commit(["params.yaml"], "renamed")
        clone.publish(lambda clone: None, tries=1)
    git(space.root, "pull", "--quiet")
    with pytest.raises(DataError, match="If it is `support` renamed"):
        watch.retrain(Workspace.open(space.root), "helpdesk", END, say=lambda line: None)


def test_another_output_schema_is_what_the_suites_are_judged_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["dvc.yaml", "data/prompts/orders.txt", SCHEMA, "data/seed/orders.jsonl", GOLDEN]
    made = init(tmp_path / "ws", files={**story.files_of(names), "params.yaml": story.params_with(["orders"])})
    frozen = made.root / "out/orders/suites/schema.json"
    monkeypatch.chdir(made.root)
    recheck.main("orders")  # there is no champion: no base is needed
    synthesize.main("orders")
    dvc(made.root, "repro", "--single-item", "prepare@orders")
    first = read_json(frozen)
    assert first == read_json(made.root / SCHEMA)
    (made.root / SCHEMA).write_text(json.dumps({**first, "title": "another"}))
    dvc(made.root, "repro", "--single-item", "prepare@orders")
    assert read_json(frozen)["title"] == "another"
    assert "out/${key}/suites" in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["evaluate"]["do"]["deps"]
