"""The engine answers as the evaluation does, whoever shares the batch, and a swap touches no answer that has begun."""

import itertools
import json
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import training

from retrain import base, layer, train
from retrain.errors import BusyError, IntegrityError
from retrain.generate import Answer, Model
from retrain.records import Message, file_digest, read_json, write_json
from retrain.serving.engine import Engine, Row

LIES = "train.base_residency=fp32"  # the same whatever the machine
FREE = (LIES, "adapters.support.task=generation", "adapters.support.labels=[]")
MOST = 12


@pytest.fixture(scope="module")
def folders(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Trained adapters of the tiny base: three that choose among labels (one beside few modules), and one that writes."""
    made = {}
    few = "train.targets=[k_proj,up_proj]"
    for name, more in (("labels", (LIES,)), ("others", (LIES, "seed=8", "train.r=4")), ("few", (LIES, few)), ("free", FREE)):
        folder = tmp_path_factory.mktemp(name)
        training.run(tiny, folder, *more)
        made[name] = folder / "adapter"
    return made


@pytest.fixture
def engine(tiny: Path) -> Iterator[Engine]:
    made = an_engine(tiny, batch=4, queue=100)
    yield made
    made.close()


def an_engine(tiny: Path, **limits: int) -> Engine:
    return Engine(tiny, device="cpu", lies=base.Residency(True, "fp32", "a test"), **limits)


def questions(n: int) -> list[str]:
    rng = random.Random(3)
    return [" ".join(rng.choice(training.WORDS) for _ in range(rng.randrange(1, 12))) for _ in range(n)]


def judged(tiny: Path, folder: Path, asked: list[str], *, fuse: bool = True) -> list[Answer]:
    """As the evaluation has it; fuse=False: through peft's own layers."""
    model = Model(tiny, device="cpu", adapter=folder, fuse=fuse)
    run = model.run or {}
    return model.answers(
        [(Message(role="user", content=text),) for text in asked], template=model.template(run["prompt"], run["max_length"]),
        labels=run["labels"], max_new_tokens=MOST, batch=8,
    )  # fmt: skip


def ask(engine: Engine, of: Any, text: str, told: Any = None) -> Row:
    ids, _ = engine.encode(of, [Message(role="user", content=text)])
    return engine.ask(of, ids, most=MOST, told=told)


def test_rows_of_four_adapters_in_one_batch_are_answered_as_they_were_judged(
    tiny: Path, folders: dict[str, Path], engine: Engine
) -> None:
    asked = questions(14)
    specialists = {name: engine.specialist(folder, train.verify(folder), MOST) for name, folder in folders.items()}
    order = [(name, i) for name in folders for i in range(len(asked))]
    random.Random(1).shuffle(order)
    rows = {(name, i): ask(engine, specialists[name], asked[i]) for name, i in order}
    for (name, folder), fuse in itertools.product(folders.items(), (True, False)):
        wanted = judged(tiny, folder, asked, fuse=fuse)
        found = [rows[name, i].future.result(20) for i in range(len(asked))]
        assert [(one.text, one.cut) for one in found] == [(one.text, one.cut) for one in wanted]
        assert [one.confidence for one in found] == pytest.approx([one.confidence for one in wanted], abs=2e-3)


def test_a_base_whose_layers_are_of_another_kind_answers_with_its_adapters_too(
    tiny: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer._Layer, "answers_alike", lambda self: False)
    engine, asked = an_engine(tiny, batch=4, queue=100), questions(6)
    of = engine.specialist(folders["free"], train.verify(folders["free"]), MOST)
    found = [ask(engine, of, text).future.result(20).text for text in asked]
    engine.close()
    assert found == [one.text for one in judged(tiny, folders["free"], asked, fuse=False)]


def test_streamed_pieces_are_the_text(folders: dict[str, Path], engine: Engine) -> None:
    of = engine.specialist(folders["free"], train.verify(folders["free"]), MOST)
    pieces: list[str] = []
    answered = ask(engine, of, "where is my parcel", pieces.append).future.result(20)
    assert "".join(pieces) == answered.text
    assert answered.completion_tokens <= MOST


def test_a_full_queue_is_told_and_a_row_that_is_no_longer_wanted_frees_its_place(folders: dict[str, Path], tiny: Path) -> None:
    engine = an_engine(tiny, batch=1, queue=1)
    of = engine.specialist(folders["labels"], train.verify(folders["labels"]), MOST)
    hold = threading.Event()
    threading.Thread(target=lambda: engine._in_turn(hold.wait)).start()
    first, second = ask(engine, of, "lost card"), ask(engine, of, "lost card")
    with pytest.raises(BusyError, match="serve.queue is 1"):
        ask(engine, of, "lost card")
    first.dropped = second.dropped = True
    third = ask(engine, of, "lost card")
    hold.set()
    assert third.future.result(20).text in training.LABELS
    assert not first.future.done()
    engine.close()


def test_an_answer_keeps_the_weights_that_it_began_with(folders: dict[str, Path], engine: Engine) -> None:
    of = engine.specialist(folders["free"], train.verify(folders["free"]), MOST)
    alone = ask(engine, of, "refund order please").future.result(20).text
    begun = threading.Event()
    row = ask(engine, of, "refund order please", lambda text: begun.set())
    begun.wait(5)
    engine.specialist(folders["others"], train.verify(folders["others"]), MOST)
    assert row.future.result(20).text == alone


def test_a_model_that_fails_fails_its_rows_and_not_the_next(folders: dict[str, Path], engine: Engine, monkeypatch: Any) -> None:
    of = engine.specialist(folders["labels"], train.verify(folders["labels"]), MOST)
    with monkeypatch.context() as broken:
        broken.setattr(type(engine.running), "join", lambda self, fresh: 1 / 0)
        with pytest.raises(Exception, match="the model failed: ZeroDivisionError"):
            ask(engine, of, "lost card").future.result(20)
    assert ask(engine, of, "lost card").future.result(20).text in training.LABELS


def changed(folder: Path, target: Path, **config: Any) -> Path:
    """A copy with another adapter_config, whole by its manifest."""
    shutil.copytree(folder, target)
    path = target / "adapter_config.json"
    path.write_text(json.dumps({**read_json(path), **config}))
    manifest = read_json(target / "manifest.json")
    manifest["files"][path.name] = file_digest(path)
    write_json(target / "manifest.json", manifest)
    return target


def test_what_is_no_plain_lora_is_refused(folders: dict[str, Path], engine: Engine, tmp_path: Path) -> None:
    folder = changed(folders["labels"], tmp_path / "dora", use_dora=True)
    with pytest.raises(IntegrityError, match="no plain LoRA .use_dora"):
        engine.specialist(folder, train.verify(folder), MOST)


def test_bytes_that_changed_after_they_were_verified_are_not_loaded(
    folders: dict[str, Path], engine: Engine, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["labels"], tmp_path / "copy"))
    digest = train.verify(folder)
    with (folder / "adapter_model.safetensors").open("rb+") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(IntegrityError, match="does not match the manifest"):
        engine.specialist(folder, digest, MOST)
