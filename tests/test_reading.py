"""New questions go through the model in one line, each as if it were alone; where that cannot be, padded."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import training

from retrain import base, packing, reading, train
from retrain.generate import Model
from retrain.records import Message
from retrain.serving import engine as engine_
from retrain.serving.engine import Engine, Row, Specialist

ONE, OTHER = [3, 4, 5, 6], [7, 8]  # what the questions of two specialists begin with


def an_engine(tiny: Path) -> Engine:
    return Engine(tiny, device="cpu", lies=base.Residency(True, "fp32", "a test"), batch=8, queue=8)


@pytest.fixture
def engine(tiny: Path) -> Iterator[Engine]:
    made = an_engine(tiny)
    yield made
    made.close()


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("labels")
    training.run(tiny, made, "train.base_residency=fp32")
    return made / "adapter"


def specialists(engine: Engine, folder: Path) -> list[Specialist]:
    """Two with LoRA and beginnings that were computed, and one with neither."""
    of = engine.specialist(folder, train.verify(folder), 4)
    made = [Specialist(of.weights, of.template, {}, 4, prefix) for prefix in (ONE, OTHER)]
    bare = Specialist(engine_.Weights("", {}), of.template, {}, 4)
    return [*(engine._in_turn(lambda one=one: engine._ready(one)) for one in made), bare]


def rows(of: list[Specialist], most: int = 9) -> list[Row]:
    """Ten, some of which do not begin as their specialist's questions do."""
    rng = random.Random(1)
    ends = [[rng.randrange(3, 12) for _ in range(rng.randrange(1, most))] for _ in range(10)]
    one, other, bare = of
    asked = [(one, ONE), (one, ONE), (one, []), (one, ONE), (other, OTHER), (other, OTHER), (other, []), *[(bare, [])] * 3]
    return [Row(which, [*begin, *end], None, None) for (which, begin), end in zip(asked, ends, strict=True)]


def test_questions_in_one_line_are_answered_and_remembered_as_padded_ones(engine: Engine, folder: Path) -> None:
    import torch

    asked = rows(specialists(engine, folder))
    stay = [0, 2, 3, 6, 9]
    with torch.inference_mode():
        (one, layers, line), (other, wanted, lines) = (engine.running.read(asked, in_line=way) for way in (True, False))
        assert line.ids.shape[0] == 1
        assert lines.ids.shape[0] == len(asked)
        assert (one - other).abs().max() < 1e-4
        mask, kept = line.kept(stay, layers)
        padded, theirs = lines.kept(stay, wanted)
    assert mask.sum(1).tolist() == padded.sum(1).tolist() == [len(asked[i].ids) for i in stay]
    for ours, others in zip(kept, theirs, strict=True):
        for found, expected in zip(ours, others, strict=True):
            for row in range(len(stay)):
                assert (found[row][:, mask[row] == 1] - expected[row][:, padded[row] == 1]).abs().max() < 1e-4


def test_a_line_is_filled_to_sizes_that_come_again_and_holds_no_other_filler(engine: Engine, folder: Path) -> None:
    import torch

    asked = rows(specialists(engine, folder))
    with torch.inference_mode():
        _, _, line = engine.running.read(asked, in_line=True)
    begins = [ONE, ONE, [], ONE, OTHER, OTHER, [], [], [], []]
    assert line.ids.shape[1] == packing.filled(sum(len(row.ids) - len(b) for row, b in zip(asked, begins, strict=True)))
    assert line.ids.shape[1] % packing.UNIT == 0


def test_long_questions_are_padded(engine: Engine, folder: Path) -> None:
    import torch

    asked = rows(specialists(engine, folder), most=200)
    assert sum(len(row.ids) for row in asked) > packing.MOST
    with torch.inference_mode():
        _, _, how = engine.running.read(asked, in_line=True)
    assert how.ids.shape[0] == len(asked)


def test_a_question_that_is_its_beginning_is_read_whole(engine: Engine, folder: Path) -> None:
    import torch

    one, _, bare = specialists(engine, folder)
    rows = [Row(one, ONE, None, None), Row(bare, OTHER, None, None)]
    with torch.inference_mode():
        found, wanted = (engine.running.read(rows, in_line=way)[0] for way in (True, False))
    assert (found - wanted).abs().max() < 1e-4


def causal(mask: Any) -> Any:
    """Each token sees all before it, those of other questions too."""
    return mask.clone().fill_(0).masked_fill(mask.new_ones(mask.shape[-2:]).triu(1 + mask.shape[-1] - mask.shape[-2]) > 0, -1e9)


def refused(mask: Any) -> Any:
    raise ValueError("a mask of two dimensions, please")


@pytest.mark.parametrize("masks", [causal, refused, "window", "no words"])
def test_a_base_that_does_not_keep_a_line_apart_reads_padded(tiny: Path, monkeypatch: pytest.MonkeyPatch, masks: Any) -> None:
    load = base.load
    monkeypatch.setattr(reading, "PROBE", ("where is my", "refund order please", "lost card"))

    def careless(*args: Any) -> Any:
        model, tokenizer = load(*args)
        decoder = base.parts(model)[0]
        real = decoder.forward
        if masks == "window":
            model.config.sliding_window = 8
            return model, tokenizer

        def forward(attention_mask: Any, **others: Any) -> Any:
            return real(attention_mask=attention_mask if attention_mask.dim() == 2 else masks(attention_mask), **others)

        if callable(masks):
            decoder.forward = forward
        else:
            monkeypatch.setattr(reading, "PROBE", ("where is my", "", "lost card"))
        return model, tokenizer

    good = an_engine(tiny)
    assert good.in_line
    good.close()
    monkeypatch.setattr(base, "load", careless)
    bad = an_engine(tiny)
    assert not bad.in_line
    bad.close()


def test_the_evaluation_reads_short_questions_in_line_and_long_ones_many_at_once(
    tiny: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    real = reading.of

    def told(rows: Any, **how: Any) -> reading.Reading:
        made = real(rows, **how)
        seen.append((len(rows), made.ids.shape[0]))
        return made

    model = Model(tiny, device="cpu", adapter=folder)
    asked = [(Message(role="user", content=" ".join(training.WORDS[:1] * n)),) for n in (*[3] * 6, *[reading.SHORT + 40] * 4)]
    run = model.run or {}
    settings: Any = {"labels": run["labels"], "max_new_tokens": 4, "batch": 8}
    assert model.in_line
    monkeypatch.setattr(reading, "of", told)
    found = model.answers(asked, template=model.template(run["prompt"], 600), **settings)
    assert seen == [(6, 1), (4, 4)]
    model.in_line = False
    assert [one.text for one in found] == [
        one.text for one in model.answers(asked, template=model.template(run["prompt"], 600), **settings)
    ]
