"""A random two-layer base for every test where learning is beside the point, and a workspace that has no remote."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import calling
import doors
import forging
import pytest
import servers
import small
import talking
from canary import QUICK
from filelock import FileLock

from retrain import base, endpoint
from retrain import params as params_
from retrain.process import collect_seldom
from retrain.records import write_json
from retrain.workspace import Workspace

WORDS = (
    *("where", "is", "my", "parcel", "refund", "card", "lost", "cancel", "order", "please", "a", "b", "answer"),
    *("system", "user", "assistant", "account_login", "cancel_order", "change_address", "damaged_item", "order_status"),
    *("payment_failed", "refund_status", "return_item"),
)

LONGEST = (  # minutes and half minutes: they start first, so that no process of a run ends long after the others
    *("dags", "sources_engines", "serves", "release_faults", "jobs", "champion", "pages"),
    *("lineage", "launch", "review", "release", "probation", "quarantine", "rollout", "judge"),
)
collect_seldom()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    names = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: names.get(item.path.stem, len(names)))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unpacked base: random weights, a word tokenizer, no chat template."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<end>", "<unk>", "status", "<", "|", ">", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")
    fast.save_pretrained(folder / "raw")
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        pad_token_id=0, eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "raw")
    spec = params_.Base(source="path", name=str(folder / "raw"), file=None, revision=None, sha256=None)
    base.make("tiny", spec, folder / "base")
    return folder / "base"


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One workspace whose first version serves, for tests that bring their own candidates (`forging.another_candidate`)."""
    return forging.released(tmp_path_factory.mktemp("released"))


@pytest.fixture(scope="session")
def taught(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ws: a workspace whose first version has really learned and serves; said.json: what the command printed that trained it,
    with no terminal anywhere. All processes of a run share it."""
    shared = tmp_path_factory.getbasetemp()
    made = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "learned"
    with FileLock(f"{made}.lock"):
        if not (made / "said.json").exists():
            made.mkdir()
            space = small.workspace(made, tiny)
            trained, promoted = (
                calling.as_a_script(*words, "-w", space.root)
                for words in (("repro", "support", "--end", "2026-03-01T00:00:00Z"), ("promote", "support", "--json"))
            )
            assert (trained.returncode, promoted.returncode) == (0, 0), trained.stderr + promoted.stderr
            write_json(made / "said.json", {"out": trained.stdout, "err": trained.stderr, "promoted": promoted.stdout})
    return made


@pytest.fixture(scope="session")
def learned(taught: Path) -> Callable[[Path], Workspace]:
    """Copies of the workspace `taught`."""
    return lambda folder: small.moved(taught / "ws", folder / "ws")


@pytest.fixture(scope="session")
def _canary(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = doors.space_of(tmp_path_factory.mktemp("canary"), tiny, *QUICK)
    doors.promote(made, 7)
    return made.root


@pytest.fixture
def canary(_canary: Path, tmp_path: Path) -> Workspace:
    """A workspace where v7 serves, and whose rollouts are quick."""
    return Workspace.open(shutil.copytree(_canary, tmp_path / "ws", symlinks=True))


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A real MLflow server on PostgreSQL."""
    with servers.serve(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture(scope="session")
def contested(tmp_path_factory: pytest.TempPathFactory, mlflow_server: servers.Server) -> Workspace:
    """`released`, with that server in the place of MLflow."""
    named = (f"mlflow.uri={mlflow_server.uri}", "mlflow.timeout=3")
    return forging.released(tmp_path_factory.mktemp("contested"), *named)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder that holds the shipped params.yaml alone, which names no remote."""
    shutil.copy(Path(__file__).parents[1] / "params.yaml", tmp_path)
    return tmp_path


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[talking.Model]:
    """An endpoint on loopback; nobody waits between tries."""
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    with talking.serve() as made:
        yield made


@pytest.fixture
def stub() -> doors.Stub:
    return doors.Stub()


@pytest.fixture
def open_door(space: Workspace, stub: doors.Stub) -> Iterator[tuple["doors.Door", str]]:
    """A door before the backend that a test tells how to behave; each file has a `space` of its own."""
    with doors.running(space, stub) as made:
        yield made
