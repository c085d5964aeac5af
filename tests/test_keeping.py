"""A base that was rounded to NF4 and dequantised is kept, and what is read from there is what rounding gives."""

from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from retrain import base
from retrain.records import read_json, write_json

FP32, BF16 = base.Residency(True, "fp32", ""), base.Residency(True, "bf16", "")


@pytest.fixture
def rounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One entry for each time that a base is really rounded; what is kept lies in tmp_path/bases."""
    times: list[Any] = []
    real = base._dequantised
    monkeypatch.setenv("RETRAIN_CACHE", str(tmp_path))
    monkeypatch.setattr(base, "_dequantised", lambda *given: (times.append(given), real(*given))[1])
    return times


def weights(tiny: Path, lies: base.Residency) -> dict[str, Any]:
    """And what is not saved: the frequencies of positions."""
    model = base.load(tiny, "cpu", lies)[0]
    return {**dict(model.named_buffers()), **model.state_dict()}


@pytest.mark.parametrize("lies", [FP32, BF16])
def test_the_second_load_reads_what_the_first_rounded(tiny: Path, rounded: list[Any], lies: base.Residency) -> None:
    import torch

    first, second = weights(tiny, lies), weights(tiny, lies)
    assert len(rounded) == 1
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) and first[name].dtype == second[name].dtype for name in first)
    assert not torch.equal(first["model.layers.0.mlp.up_proj.weight"], weights(tiny, base.Residency(False, lies.kept, ""))[
        "model.layers.0.mlp.up_proj.weight"
    ])  # fmt: skip


def test_each_precision_is_kept_by_itself(tiny: Path, rounded: list[Any], tmp_path: Path) -> None:
    for lies in (FP32, BF16, FP32, BF16):
        weights(tiny, lies)
    assert len(rounded) == 2
    assert len(list((tmp_path / "bases").iterdir())) == 2


@pytest.mark.parametrize(
    "what", ["a byte of the weights", "the version of a library", "the list of files", "a file that is gone"]
)
def test_what_is_not_as_it_was_kept_is_rounded_again(tiny: Path, rounded: list[Any], tmp_path: Path, what: str) -> None:
    import torch

    first = weights(tiny, FP32)
    (folder,) = (tmp_path / "bases").iterdir()
    path, record = folder / "model.safetensors", read_json(folder / "kept.json")
    if what == "a byte of the weights":
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif what == "the version of a library":
        write_json(folder / "kept.json", {**record, "key": {**record["key"], "torch": "2.0"}})
    elif what == "the list of files":
        (folder / "kept.json").write_text("[]")
    else:
        path.unlink()
    again = weights(tiny, FP32)
    assert len(rounded) == 2
    assert all(torch.equal(first[name], again[name]) for name in first)
    weights(tiny, FP32)
    assert len(rounded) == 2


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_disk_that_is_full_costs_time_alone(
    error: Exception, tiny: Path, rounded: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from transformers import LlamaForCausalLM

    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", full)
    assert weights(tiny, FP32)
    assert "was not kept (No space left on device)" in capsys.readouterr().out
    assert not list((tmp_path / "bases").iterdir())


def test_what_a_killed_process_left_is_taken_away(tiny: Path, rounded: list[Any], tmp_path: Path) -> None:
    weights(tiny, FP32)
    (folder,) = (tmp_path / "bases").iterdir()
    (folder / "kept.json").unlink()
    killed, lives = folder.with_name(f".{folder.name}.999999999"), folder.with_name(f".{folder.name}.1")
    for left in (killed, lives):
        left.mkdir()
    weights(tiny, FP32)
    assert not killed.exists() and lives.exists()
    assert (folder / "kept.json").exists()


def test_a_gguf_file_that_several_ask_for_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import gguf

    read: list[str] = []
    monkeypatch.setattr(gguf, "GGUFReader", lambda path: read.append(path) or object())
    with base._read_once():
        assert gguf.GGUFReader("a") is gguf.GGUFReader("a") is not gguf.GGUFReader("b")
    assert read == ["a", "b"]
    assert gguf.GGUFReader("a") is not gguf.GGUFReader("a")


def test_bitsandbytes_brings_no_compiler(tiny: Path) -> None:
    """It takes as long to load as a stage of a small adapter."""
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from retrain import base\n"
        f"base.load(Path({str(tiny)!r}), 'cpu', base.Residency(True, 'nf4', ''))\n"
        "import peft; sys.exit('torch._inductor.compile_fx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
