"""Stage `router`: human rows of all specialists, and rows that are for none of them -> the router and its measure.

Files only, and no torch: it depends on the data that people made, never on what an adapter answers (`routes` adds that).
"""

from pathlib import Path

from retrain import overlay, route_figures, routing
from retrain import params as params_
from retrain.errors import DataError
from retrain.records import Example, read_examples, read_folder, read_jsonl, write_json, write_text

OUT = Path("out/router")
MODEL = OUT / "model"
NOBODY = Path("data/router/nobody.jsonl")


def rows_of(root: Path, params: params_.Params) -> routing.Rows:
    """The rows of a folder: seed and failures fit; golden and audited rows, as they judge now, judge."""
    human, judged = {}, {}
    for name in params.adapters:
        suites = root / "data" / "suites" / name
        changes, golden = overlay.read(suites), suites / "golden.jsonl"
        human[name] = [*_read(root / "data" / "seed" / f"{name}.jsonl"), *read_folder(root / "data" / "failures" / name)]
        judged[name] = [*overlay.golden(_read(golden), changes), *overlay.applied(read_folder(suites / "audit"), changes)]
    labels = {name: spec.labels for name, spec in params.adapters.items()}
    return routing.Rows(human, judged, read_nobody(root / NOBODY), labels).clean()


def _read(path: Path) -> list[Example]:
    return read_examples(path) if path.exists() else []


def read_nobody(path: Path) -> list[str]:
    """Texts of a file of {"text": ...}; DataError names the line that is none."""
    rows = read_jsonl(path)
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("text"), str) or not row["text"].strip():
            raise DataError(f'{path}, row {number}, has no text: a row is {{"text": "what none of the specialists answers"}}')
    return [str(row["text"]) for row in rows]


def main(name: str) -> None:
    params = params_.load()
    rules = params.router.get("auto")
    if rules is None or name != routing.NAME:
        raise DataError(f"router.{name} is not in params.yaml: there is no router to fit")
    rows = rows_of(Path(), params)
    files = routing.packed(routing.fit(rows, rules, seed=params.seed))
    router = routing.unpacked(files, None)  # what is written is what is measured
    _, nobody = rows.halves(rules.nobody_judges)
    figures = route_figures.measure(router, rows, nobody)
    MODEL.mkdir(parents=True, exist_ok=True)
    for path in MODEL.iterdir():
        path.unlink()
    (MODEL / routing.ARRAYS).write_bytes(files[routing.ARRAYS])
    write_text(MODEL / routing.FILE, files[routing.FILE].decode())
    about = {"schema": 1, "threshold": round(router.threshold, 4), "fitted": router.fitted}
    write_json(OUT / "metrics.json", {**about, **figures.as_dict()})
    left = "".join(f"; {one} has {n} rows and is not routed to" for one, n in router.fitted["left_out"].items())
    print(
        f"router: {figures.accuracy:.1%} routed right, {figures.recall:.1%} of {figures.nobody} out-of-scope rows refused{left}"
    )


if __name__ == "__main__":
    from retrain.stage import run

    run(main)
