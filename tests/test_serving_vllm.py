"""The door in front of vLLM: what is loaded is what it lists, names never change their bytes, and its errors are told."""

import asyncio
import shutil
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import training
import vllms
from calling import call

from retrain import params as params_
from retrain import train
from retrain.errors import EndpointError, IntegrityError, ParamsError
from retrain.prompts import Template
from retrain.records import Message, read_json
from retrain.sections import Vllm
from retrain.serving import server, vllm
from retrain.serving.versions import Version
from retrain.workspace import Workspace

HELLO = [Message(role="user", content="lost card")]


@pytest.fixture(scope="module")
def adapters(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, more in (("labels", ()), ("free", ("adapters.support.task=generation", "adapters.support.labels=[]"))):
        folder = tmp_path_factory.mktemp(name)
        training.run(tiny, folder, *more)
        made[name] = folder / "adapter"
    return made


@pytest.fixture
def stand_in() -> Iterator[vllms.VLLM]:
    with vllms.serve() as made:
        yield made


@pytest.fixture
def remote(stand_in: vllms.VLLM, bare: Path, tiny: Path, tmp_path: Path, monkeypatch: Any) -> vllm.Remote:
    monkeypatch.setattr(vllm, "base_of", lambda workspace, commit, folder: tiny)
    space = Workspace(bare, params_.load(bare, ["serve.drain_seconds=0"]))
    return vllm.Remote(space, Vllm(url=stand_in.url, folder=str(tmp_path / "served")))


def version(folder: Path, number: int = 7) -> Version:
    return Version("support", number, train.verify(folder), folder, 0, "0" * 40, 12)


def answer(remote: vllm.Remote, of: Version, told: Any = None) -> Any:
    return asyncio.run(remote.answer(of, HELLO, None, told))


def test_a_version_is_an_immutable_folder_that_vllm_lists_as_its_root(
    remote: vllm.Remote, stand_in: vllms.VLLM, adapters: dict[str, Path], tmp_path: Path
) -> None:
    one = version(adapters["labels"])
    remote.load(one)
    remote.load(one)  # again: nothing
    assert stand_in.adapters == {"support-v7": str(tmp_path / "served" / "support-v7")}
    assert stand_in.calls == ["load support-v7"]
    assert train.verify(tmp_path / "served" / "support-v7") == one.digest


def test_a_question_is_sent_as_it_was_judged(
    remote: vllm.Remote, stand_in: vllms.VLLM, adapters: dict[str, Path], tiny: Path
) -> None:
    from retrain import base

    one = version(adapters["labels"])
    remote.load(one)
    found = answer(remote, one)
    run, asked = read_json(adapters["labels"] / "run.json"), stand_in.asked[-1]
    assert asked["prompt"] == Template(base.tokenizer(tiny), run["prompt"], run["max_length"]).question(HELLO)
    assert (asked["model"], asked["temperature"], asked["structured_outputs"]) == ("support-v7", 0, {"choice": run["labels"]})
    assert (found.text, found.cut, found.prompt_tokens, found.confidence) == (
        run["labels"][0],
        False,
        len(asked["prompt"]),
        None,
    )


def test_words_are_streamed_as_they_come(remote: vllm.Remote, adapters: dict[str, Path]) -> None:
    one, pieces = version(adapters["free"]), list[str]()
    remote.load(one)
    assert answer(remote, one, pieces.append).text == "two words"
    assert pieces == ["two", " words"]


def test_questions_share_one_tls_context(
    remote: vllm.Remote, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, made = version(adapters["labels"]), list[Any]()
    remote.load(one)
    default = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda *a, **k: made.append(1) or default(*a, **k))
    for _ in range(20):
        answer(remote, one)
    assert made == []
    vllm.Remote(remote.workspace, remote.settings)
    assert made == [1]


def test_what_vllm_forgot_in_a_restart_is_loaded_again(
    remote: vllm.Remote, stand_in: vllms.VLLM, adapters: dict[str, Path]
) -> None:
    one = version(adapters["labels"])
    remote.load(one)
    stand_in.adapters.clear()
    assert answer(remote, one).text == training.LABELS[0]
    assert "support-v7" in stand_in.adapters


def test_a_name_that_has_other_bytes_is_never_answered_from(
    remote: vllm.Remote, stand_in: vllms.VLLM, adapters: dict[str, Path], tmp_path: Path
) -> None:
    stand_in.adapters["support-v7"] = "/somewhere/else"
    with pytest.raises(IntegrityError, match="has support-v7 from /somewhere/else"):
        remote.load(version(adapters["labels"]))
    shutil.rmtree(tmp_path / "served")
    shutil.copytree(adapters["free"], tmp_path / "served" / "support-v7")
    with pytest.raises(IntegrityError, match="is not the one with sha256"):
        remote.load(version(adapters["labels"]))


def test_another_base_and_a_server_without_runtime_lora_are_told_with_the_fix(
    remote: vllm.Remote, stand_in: vllms.VLLM, adapters: dict[str, Path]
) -> None:
    stand_in.runtime = False
    with pytest.raises(EndpointError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        remote.load(version(adapters["labels"]))
    stand_in.base = "llama"
    with pytest.raises(IntegrityError, match="--served-model-name smollm2"):
        remote.load(version(adapters["labels"]))


def test_an_answer_that_ends_early_is_no_answer(remote: vllm.Remote, stand_in: vllms.VLLM, adapters: dict[str, Path]) -> None:
    one = version(adapters["free"])
    remote.load(one)
    stand_in.breaks = True
    with pytest.raises(EndpointError, match="before its answer was whole"):
        answer(remote, one)


def test_old_versions_are_unloaded_and_what_is_not_ours_stays(
    remote: vllm.Remote, stand_in: vllms.VLLM, adapters: dict[str, Path]
) -> None:
    stand_in.adapters |= {"support-v3": "/left/by/an/earlier/server", "somebody-elses": "/x"}
    one = version(adapters["labels"])
    remote.load(one)
    remote.retain({one.digest})
    assert set(stand_in.adapters) == {"support-v7", "somebody-elses"}
    remote.retain(set())
    assert set(stand_in.adapters) == {"somebody-elses"}


def test_a_refused_unload_is_a_note_and_no_trouble(
    remote: vllm.Remote, stand_in: vllms.VLLM, adapters: dict[str, Path]
) -> None:
    one = version(adapters["labels"])
    remote.load(one)
    stand_in.odd["/v1/unload_lora_adapter"] = (500, vllms.error("engine core is busy", 500))
    remote.retain(set())
    assert (remote.trouble(), remote.note()) == (None, remote.note())
    assert "support-v7 is not needed and stays loaded: vLLM refuses" in (remote.note() or "")
    stand_in.odd["/v1/unload_lora_adapter"] = (404, vllms.error("The lora adapter 'support-v7' cannot be found.", 404))
    remote.retain(set())  # another door was first
    assert (remote.trouble(), remote.note()) == (None, None)


@pytest.mark.parametrize("odd", [b"<html>be right back</html>", {"object": "list"}, ["x"], {"data": ["x"]}])
def test_a_list_of_models_that_is_none_is_told_and_forgotten_with_the_next_one(
    remote: vllm.Remote, stand_in: vllms.VLLM, adapters: dict[str, Path], odd: Any
) -> None:
    one = version(adapters["labels"])
    stand_in.odd["/v1/models"] = (200, odd)
    with pytest.raises(EndpointError, match="is no list of models"):
        remote.load(one)
    remote.retain({one.digest})
    assert "is no list of models" in (remote.note() or "")
    stand_in.odd.clear()
    remote.load(one)
    remote.retain({one.digest})
    assert remote.note() is None


def test_a_load_that_hangs_holds_up_no_other(remote: vllm.Remote, stand_in: vllms.VLLM, adapters: dict[str, Path]) -> None:
    one, hangs = version(adapters["labels"]), version(adapters["free"], 8)
    remote.load(one)
    stand_in.stalls["support-v8"] = end = threading.Event()
    thread = threading.Thread(target=remote.load, args=(hangs,))
    thread.start()
    try:
        while "load support-v8" not in stand_in.calls:
            end.wait(0.01)
        rest = threading.Thread(target=lambda: (remote.retain({one.digest}), remote.load(version(adapters["labels"], 9))))
        rest.start()
        rest.join(20)
        assert not rest.is_alive()
        assert answer(remote, one).text == training.LABELS[0]
        assert set(stand_in.adapters) == {"support-v7", "support-v9"}
    finally:
        end.set()
        thread.join(20)
    assert "support-v8" in stand_in.adapters  # it ended after all


def test_a_server_that_is_down_is_told(remote: vllm.Remote, adapters: dict[str, Path]) -> None:
    down = vllm.Remote(remote.workspace, Vllm(url="http://127.0.0.1:9", folder=remote.settings.folder))
    with pytest.raises(EndpointError, match="does not answer"):
        down.load(version(adapters["labels"]))
    assert "does not answer" in (down.trouble() or "")


def test_sync_without_a_vllm_server_says_what_is_missing(bare: Path) -> None:
    with pytest.raises(ParamsError, match="serve.vllm is null"):
        server.sync(Workspace.open(bare))
    assert call("sync", "-w", bare).code == 2
