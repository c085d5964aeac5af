"""Trial 28: an adapter with a pickle in it, or with one byte flipped, is refused before anything of it is loaded."""

import os
import pickle
from pathlib import Path

import pytest
import training

from retrain.errors import IntegrityError
from retrain.generate import Model
from retrain.records import file_digest, read_json, write_json


class Marks:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("listed", [True, False])
def test_a_pickle_is_never_read(tiny: Path, tmp_path: Path, listed: bool) -> None:
    training.run(tiny, tmp_path)
    folder, marker = tmp_path / "adapter", tmp_path / "marker"
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Marks(marker)))
    if listed:  # by somebody who knows how manifests are made
        (folder / "adapter_model.safetensors").unlink()
        manifest = read_json(folder / "manifest.json")
        del manifest["files"]["adapter_model.safetensors"]
        manifest["files"]["adapter_model.bin"] = file_digest(folder / "adapter_model.bin")
        write_json(folder / "manifest.json", manifest)
    with pytest.raises(IntegrityError, match=r"adapter_model\.bin"):
        Model(tiny, device="cpu", adapter=folder)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "run.json"])
def test_one_flipped_byte_is_refused(tiny: Path, tmp_path: Path, name: str) -> None:
    training.run(tiny, tmp_path)
    path = tmp_path / "adapter" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="missing, added or changed"):
        Model(tiny, device="cpu", adapter=tmp_path / "adapter")
