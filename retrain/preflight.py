"""What a retraining needs, looked at before anything trains: device, base, prompt, output schema, seed, golden.

Every refusal is a ParamsError or a DataError, so that `retrain repro` exits 2 in a second and not 1 after minutes.
"""

from pathlib import Path

from retrain import base, launch, leftovers, overlay, preference, prompts
from retrain import params as params_
from retrain.answers import Schema, misfit, schema_of
from retrain.endpoint import Endpoint
from retrain.errors import DataError, RetrainError
from retrain.founding import first_state
from retrain.records import Example, dumps, read_examples
from retrain.sections import Launch


def check(root: Path, params: params_.Params, adapter: str) -> None:
    """Refuse what would fail later; params are those of the adapter (`Params.of`), its data is in place under root."""
    files(root, params, adapter)
    spec = params.adapter(adapter)
    try:
        if params.train.device == "cuda":  # else torch need not be loaded
            _has_gpu(params.launch)
        launch.check(params.launch)
        base.check(params.bases[spec.base])
        if params.gates.judge:
            Endpoint(params.gates.judge, where=preference.WHERE)  # its key is here
        prompts.read_prompt(root / spec.prompt)
        schema = schema_of(root, spec)
        _rows(root / "data" / "seed" / f"{adapter}.jsonl", "write examples, a JSON object a line")
        path = root / "data" / "suites" / adapter / "golden.jsonl"
        golden = _rows(path, "write questions with the right answers, of which none trains")
        _judges(path, overlay.golden(golden, overlay.read(path.parent)), adapter, spec, schema)
    except RetrainError as error:  # a clone is gone by the time that a person reads this
        raise type(error)(str(error).replace(f"{root.absolute()}/", "")) from error


def _has_gpu(elsewhere: Launch | None) -> None:
    """An evaluation asks for the device that params name, wherever its adapter was trained."""
    try:
        base.choose_device("cuda")
    except params_.ParamsError as error:
        if elsewhere is None or elsewhere.command is None:
            raise
        raise params_.ParamsError(
            "train.device is 'cuda', and what is trained elsewhere is evaluated here, where no CUDA device is visible: set "
            "train.device to auto, and launch.device to cuda"
        ) from error


def files(root: Path, params: params_.Params, adapter: str) -> None:
    """DataError where an adapter of params.yaml lacks its own files: it was renamed there, or is new."""
    folders = [f"data/suites/{adapter}", f"data/failures/{adapter}", f"champion/{adapter}"]
    needed = [f"data/seed/{adapter}.jsonl", *folders, f"champion/{adapter}.json"]
    missing = [name for name in needed if not (root / name).exists() and not (root / f"{name}.dvc").exists()]
    if not missing:
        leftovers.check_lock(root)
        return
    seeds = {path.name.partition(".")[0] for path in (root / "data" / "seed").glob("*.jsonl*")}
    old = "`, `".join(sorted(seeds - set(params.adapters)))
    moved = f"data/seed/{adapter}.jsonl, data/suites/{adapter}, data/failures/{adapter} (`dvc move`, or `git mv`)"
    renamed = f" If it is `{old}` renamed, move its files to {moved}." if old else ""
    raise DataError(
        f"adapter {adapter} of params.yaml has no {', '.join(missing)} here.{renamed} Make what is missing "
        f"(folders empty but for data/suites/{adapter}/golden.jsonl; `dvc add` them and the seed), champion/{adapter}.json as "
        f"{dumps(first_state(adapter))}, commit and push: it starts without a champion"
    )


def _rows(path: Path, fix: str) -> list[Example]:
    if not path.exists():
        raise DataError(f"{path} does not exist: {fix}")
    rows = read_examples(path)
    if not rows:
        raise DataError(f"{path} holds no rows: {fix}")
    return rows


def _judges(path: Path, golden: list[Example], adapter: str, spec: params_.Adapter, schema: Schema | None) -> None:
    """A row of golden that no candidate can answer rightly is a person's slip: it is named, never left out."""
    for row in golden:
        why = misfit(row.answer, schema)
        if why is None and spec.labels and row.answer not in spec.labels:
            why = f"its label {row.answer!r} is not listed: add it to adapters.{adapter}.labels in params.yaml, or correct it"
        if why:
            raise DataError(f"{path}, row {row.id} ({row.question[:60]!r}): {why}; mend or remove the row")
