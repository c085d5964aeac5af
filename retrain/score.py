"""Candidates and the simpler alternatives on rows that nothing else reads: the last page of a demo on labelled CSVs."""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retrain import regression
from retrain.evaluate import Arms
from retrain.params import Params
from retrain.records import Example, read_examples, unit_hash
from retrain.workspace import Clone, Workspace

Scores = dict[str, dict[str, Any]]  # part -> {"exact": share in [0, 1], null without rows, "n": rows}


def candidates(
    workspace: Workspace, adapter: str, commits: Sequence[str], rows: Sequence[Example], parts: Mapping[str, Sequence[str]]
) -> list[Scores]:
    """Each attempt's adapter, by its commit, on all rows; parts: name -> labels."""
    found = []
    with workspace.clone("score") as clone, contextlib.chdir(clone.root):
        for commit in commits:
            params = at(clone, commit, [f"out/{adapter}/adapter"], adapter)
            arms = Arms(adapter, params, workspace.local / "answers")
            answers = arms.adapter_arm(Path("out") / adapter / "adapter", rows, f"test.csv {commit[:7]}")
            found.append(_by_part(rows, answers, parts))
    return found


def alternatives(
    workspace: Workspace, adapter: str, commit: str, rows: Sequence[Example], parts: Mapping[str, Sequence[str]]
) -> dict[str, Scores]:
    """base and prompted on at most evaluate.base_rows rows a part, regression on all; taught what that commit taught."""
    with workspace.clone("score") as clone, contextlib.chdir(clone.root):
        params = at(clone, commit, [f"out/{adapter}/data"], adapter)
        arms = Arms(adapter, params, workspace.local / "answers")
        taught = read_examples(Path("out") / adapter / "data" / "train.jsonl")
        few = [row for labels in parts.values() for row in _few(rows, labels, params.evaluate.base_rows)]
        fitted = regression.answers(taught, [row.question for row in rows], seed=params.seed)
        return {
            "base": _by_part(few, arms.base_arm(few), parts),
            "prompted": _by_part(few, arms.prompted_arm(few, taught), parts),
            "regression": _by_part(rows, fitted, parts),
        }


def taught(workspace: Workspace, adapter: str, commit: str) -> Counter[str]:
    """Rows that trained there, by answer."""
    with workspace.clone("score") as clone:
        at(clone, commit, [f"out/{adapter}/data"], adapter)
        return Counter(row.answer for row in read_examples(clone.root / "out" / adapter / "data" / "train.jsonl"))


def at(clone: Clone, commit: str, paths: Sequence[str], adapter: str) -> Params:
    """Check out that commit with these products and the base; the adapter's params of then."""
    clone.git("checkout", "--quiet", "--detach", commit)
    params = Workspace.open(clone.root).params.of(adapter)
    clone.dvc("pull", "--force", f"out/base/{params.adapter(adapter).base}", *paths)
    return params


def _few(rows: Sequence[Example], labels: Sequence[str], most: int) -> list[Example]:
    return sorted((row for row in rows if row.answer in labels), key=lambda row: unit_hash(row.key, "few"))[:most]


def _by_part(rows: Sequence[Example], answers: Sequence[str], parts: Mapping[str, Sequence[str]]) -> Scores:
    right = [(row.answer, answer == row.answer) for row, answer in zip(rows, answers, strict=True)]
    scores = {}
    for part, labels in parts.items():
        mine = [ok for label, ok in right if label in labels]
        scores[part] = {"exact": round(sum(mine) / len(mine), 4) if mine else None, "n": len(mine)}
    return scores
