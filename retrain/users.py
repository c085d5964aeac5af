"""Simulated users in front of the champion that really serves: one window of messages, its answers, its log file."""

import random
from collections.abc import Sequence
from pathlib import Path

from monitoring.windows import Window
from retrain import simulate
from retrain.answers import schema_of
from retrain.generate import Model
from retrain.registry import load_champion
from retrain.registry.champion import length_at
from retrain.scoring import Judge
from retrain.unpacked import base_of
from retrain.workspace import Workspace


class Users:
    """Messages of `initial` and `arriving` labels, dealt from `rows` ({"text", "label", "answer"?, "style"?})."""

    def __init__(
        self, workspace: Workspace, adapter: str, rows: Sequence[dict[str, str]], initial: Sequence[str],
        arriving: Sequence[str], rng: random.Random,
    ) -> None:  # fmt: skip
        self.workspace, self.adapter, self.rng = workspace, adapter, rng
        self.initial, self.arriving = tuple(initial), tuple(arriving)
        self.decks = simulate.Decks(rows, rng)
        self.model: tuple[int, Model] | None = None
        self.poisoned: set[str] = set()  # requests with a correction that phase.poison made

    def send(self, phase: simulate.Phase, window: Window) -> Path:
        """Ask the champion one window of messages and write the log; returns its path. NothingToDo without a champion."""
        from tqdm import tqdm

        champion = load_champion(self.adapter, self.workspace)
        serving, folder = champion.promotion, champion.folder
        params = self.workspace.params.of(self.adapter)
        if self.model is None or self.model[0] != serving.version:
            base = base_of(self.workspace, serving.commit, folder)
            self.model = (serving.version, Model(base, device=params.train.device, adapter=folder))
        messages = simulate.window(phase, decks=self.decks, initial=self.initial, arriving=self.arriving, rng=self.rng)
        most = length_at(self.workspace, serving)
        with tqdm(total=len(messages), desc="traffic", unit="row", disable=None) as bar:
            answers = simulate.ask(self.model[1], messages, batch=params.evaluate.batch, max_new_tokens=most, tick=bar.update)
        rows = simulate.logs(
            messages, answers, phase, at=window, adapter=self.adapter, version=serving.tag,
            audit_rate=params.failures.audit_rate, judge=judge_of(self.workspace, self.adapter), rng=self.rng,
        )  # fmt: skip
        told = zip(messages, rows, strict=True)
        self.poisoned |= {row["request_id"] for message, row in told if message["label"] in phase.poison}
        return simulate.write(self.workspace.root, self.adapter, window, rows)


def judge_of(workspace: Workspace, adapter: str) -> Judge:
    """What says whether an answer of this adapter is right, with the schema as it lies in the workspace."""
    spec = workspace.params.adapter(adapter)
    return Judge(spec.task, schema_of(workspace.root, spec))
