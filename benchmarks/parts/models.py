"""The base that ships, and adapters on it that benchmarks share: each is made once, under out/base and .retrain/bench."""

import contextlib
import sys
import tempfile
from pathlib import Path

from parts import texts
from retrain import base, train
from retrain import params as params_
from retrain.records import dumps, rows_digest, text_digest

ROOT = Path(__file__).resolve().parents[2]


def smollm2() -> Path:
    """The unpacked base of the workspace."""
    folder = ROOT / "out/base/smollm2"
    if not folder.exists():
        base.make("smollm2", params_.load(ROOT).bases["smollm2"], folder)
    return folder


def adapter_of(text: texts.Text, params: params_.Params, folder: Path) -> Path:
    """An adapter on these rows, trained where it is not there yet."""
    key = text_digest(dumps([params.train.model_dump(mode="json"), rows_digest(text.rows), base.digest(folder)]))[:12]
    target = ROOT / ".retrain" / "bench" / f"{text.adapter}-{key}"
    if not target.exists():
        with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):  # stdout is for the figures
            train.train(text.rows, text.adapter, params, folder, target, Path(scratch) / "log.jsonl", home=Path(scratch))
    return target
