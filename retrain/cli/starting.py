"""Verbs that make something to look at: init, demo, simulate."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from retrain.cli.shared import HERE, Json, Name, Root, Set, open_workspace, out, say, window_of
from retrain.errors import ParamsError


def init(
    directory: Path,
    adapter: Annotated[list[str] | None, typer.Option(help="a shipped adapter to start from; default: all")] = None,
    empty: Annotated[str | None, typer.Option(help="for your own data instead: the name of its adapter")] = None,
    label: Annotated[list[str] | None, typer.Option(help="--empty: a label it chooses among; none: it writes answers")] = None,
    override: Set = None,
) -> None:
    """Make a workspace: params.yaml, dvc.yaml, git, DVC and its stores.

    Example: retrain init ~/fresh --empty tickets --label hardware --label software
    """
    from retrain import founding

    if empty is None and (label or override):
        raise ParamsError("--label and --set are for --empty NAME: a shipped adapter comes with its own")
    if empty is not None and adapter:
        raise ParamsError(f"--empty {empty} and --adapter {adapter[0]}: give one of them")
    files = _shipped(adapter or []) if empty is None else _own(empty, label or [], override or [])
    made = founding.init(directory, files=files)
    first = "edit params.yaml and data/" if empty is None else f"`cd {directory} && retrain import openai FILE...`"
    print(f"workspace: {made.root}\nnext: {first}, then `cd {directory} && retrain repro {empty or 'ADAPTER'}`")
    if made.params.promotion.approval == "airflow":
        print("a candidate that passes waits for a person, in Airflow (`retrain up`, the task approve); promotion.approval in")
        print("params.yaml: mlflow (a tag in its UI) or auto (the gate alone)")


def _shipped(adapters: list[str]) -> dict[str, str]:
    from retrain import params as params_
    from retrain.story import HOME, files_of, params_with

    params = params_.load(HOME)
    chosen = adapters or list(params.adapters)
    names = ["dvc.yaml", *(["data/router/nobody.jsonl"] if len(chosen) > 1 else [])]
    for name in chosen:
        spec = params.adapter(name)
        names += [spec.prompt, *([spec.output] if spec.output else []), f"data/seed/{name}.jsonl"]
        names += sorted(str(path.relative_to(HOME)) for path in (HOME / "data/suites" / name).rglob("*.jsonl"))
    return {**files_of(names), "params.yaml": params_with(chosen)}


def _own(adapter: str, labels: list[str], overrides: list[str]) -> dict[str, str]:
    from retrain import params as params_
    from retrain.story import own_files

    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", adapter):  # it becomes part of file names below
        raise ParamsError(f"--empty {adapter!r}: a name has small letters, digits, _ and -, at most 40")
    files = own_files(adapter, labels, overrides)
    params_.parse(files["params.yaml"], "the new params.yaml")
    return files


def demo(
    data: Annotated[Path | None, typer.Option(help="a folder with train.csv and test.csv (text,category)")] = None,
    initial: Annotated[int | None, typer.Option(min=2, help="--data: intents that v1 is taught (12, or what there is)")] = None,
    arriving: Annotated[int | None, typer.Option(min=1, help="--data: intents that arrive later (4, or a quarter)")] = None,
    per_intent: Annotated[int | None, typer.Option(min=1, help="--data: rows an intent that train (25, or fewer)")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    corrected: Annotated[float, typer.Option(min=0.0, max=1.0, help="share of failures that a user corrects")] = 1.0,
    poison: Annotated[bool, typer.Option(help="run the step with poisoned corrections")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the demo's JSON here")] = None,
    directory: Annotated[Path, typer.Option(help="the demo's workspace, made anew")] = Path("demo"),
) -> None:
    """The whole loop on a real LLM, on a CPU.

    Example: retrain demo --json demo.json
    """
    from retrain import demo as demo_
    from retrain import story as story_
    from retrain.records import write_json

    if data is None:
        story = story_.shipped()
    else:
        story = story_.from_csv(data, initial=initial, arriving=arriving, per_intent=per_intent, seed=seed)
        say(f"taught first, {story.per_intent} rows each: {', '.join(story.initial)}")
        say(f"arriving later: {', '.join(story.arriving)}")
        for line in story.left_out:
            say(line)
    folder = directory.absolute()
    result = demo_.run(folder, story, seed=seed, corrected=corrected, say=say, poisoned=poison)
    print("\n".join(demo_.table(result)))
    write_json(json_file or folder / ".retrain" / "demo.json", result)
    print(f"\nlook further: retrain history {story.adapter} -w {directory} | retrain status -w {directory}")
    print(f"the numbers: {json_file or folder / '.retrain' / 'demo.json'}; reports: {folder}/.retrain/reports/{story.adapter}/")
    print(f"MLflow: mlflow ui --backend-store-uri sqlite:///{folder}/.retrain/mlflow/mlflow.db --host 127.0.0.1")


def simulate(
    adapter: Name,
    start: Annotated[str, typer.Option(help="ISO 8601, with a zone")],
    end: Annotated[str, typer.Option(help="ISO 8601, with a zone")],
    traffic: Annotated[Path, typer.Option(help="JSONL of text and label, or text and answer (and kind)")],
    rows: Annotated[int, typer.Option(min=1)] = 320,
    arriving_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="share of rows whose label the adapter does not list")
    ] = 0.0,
    arriving: Annotated[list[str] | None, typer.Option(help="without labels: a kind of rows that is new")] = None,
    corrected: Annotated[float, typer.Option(min=0.0, max=1.0)] = 1.0,
    poison: Annotated[list[str] | None, typer.Option(help="TRUE=WRONG: corrections given for a label")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Send labelled traffic to a `retrain serve` of its own, in event time, which writes its log.

    Example: retrain simulate support --start 2026-03-02T00:00:00Z --end 2026-03-03T00:00:00Z --traffic traffic.jsonl
    """
    import random

    from retrain import simulate as simulate_
    from retrain.users import Users

    space = open_workspace(workspace, adapter)
    window = window_of(space, start, end)
    labels = space.params.adapter(adapter).labels
    if not labels and poison:
        raise ParamsError(f"--poison swaps labels, and {adapter} answers in free text: leave it out")
    messages, known, new = (_of_labels if labels else _of_answers)(space, adapter, traffic, arriving or [])
    if arriving_share and not new:
        what = f"a label that {adapter} does not list" if labels else "a kind that --arriving names"
        raise ParamsError(f"--arriving-share {arriving_share:g}: no row of {traffic} has {what}")
    wrong = [pair for pair in poison or [] if "=" not in pair]
    if wrong:
        raise ParamsError(f"--poison {wrong[0]!r} must be TRUE=WRONG")
    poisons = dict(pair.split("=", 1) for pair in poison or [])
    phase = simulate_.Phase(rows, arriving_share=arriving_share, corrected=corrected, poison=poisons)
    with Users(space, adapter, messages, known, new, random.Random(seed)) as users:
        log = users.send(phase, window)
    data = {"schema": 1, "adapter": adapter, "start": window.start.isoformat(), "end": window.end.isoformat()}
    out({**data, "rows": rows, "log": log}, as_json, [f"wrote {log}"])


Cast = tuple[list[dict[str, str]], tuple[str, ...], tuple[str, ...]]  # rows, what is known, what is new


def _of_labels(space: Any, adapter: str, traffic: Path, arriving: list[str]) -> Cast:
    """New is what the adapter does not list."""
    from retrain import simulate as simulate_

    if arriving:
        raise ParamsError(f"--arriving {arriving[0]}: {adapter} has labels, those that it does not list are the new ones")
    messages = simulate_.read_traffic(traffic)
    listed = space.params.adapter(adapter).labels
    present = sorted({row["label"] for row in messages})
    known = tuple(label for label in present if label in listed)
    if not known:
        raise ParamsError(f"{traffic} has no label of {adapter}, which lists {', '.join(listed)}")
    return messages, known, tuple(label for label in present if label not in listed)


def _of_answers(space: Any, adapter: str, traffic: Path, arriving: list[str]) -> Cast:
    """New are the kinds that the option names."""
    from retrain import simulate as simulate_
    from retrain.users import judge_of

    messages = simulate_.read_answers(traffic, judge_of(space, adapter))
    kinds = {row["label"] for row in messages}
    known = tuple(sorted(kinds - set(arriving)))
    if not set(arriving) <= kinds or not known:
        raise ParamsError(f"--arriving must name some of the kinds in {traffic}, not all: {', '.join(sorted(kinds))}")
    return messages, known, tuple(arriving)
