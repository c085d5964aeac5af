"""What stands between corrections and the dataset: the rules of poisoning.py with what a workspace knows already."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from retrain import ledger, quarantine
from retrain.params import Params, load
from retrain.poisoning import Case, Taken, suspects
from retrain.records import Example, Quarantined, content_id, read_examples
from retrain.workspace import Clone

REASONS = 3  # for which corrections are not believed that are told in full


@dataclass(frozen=True)
class Door:
    """Called with corrections it says which are suspected, and why; what a person has released is suspected no more."""

    params: Params
    labels: tuple[str, ...]
    seed: list[Example]
    earlier: list[Example]  # of collections before this one
    released: frozenset[str]  # ids of examples
    held: dict[str, str]  # id of an example in quarantine -> why
    suspected: frozenset[str]  # requests in quarantine that nobody has released

    @classmethod
    def of(cls, clone: Clone, adapter: str, *, before: str) -> "Door":
        """As the remote has it: its rules, its whole seed, and the collections with a stamp below `before`."""
        params = load(clone.root).of(adapter)
        needed = [f"data/seed/{adapter}.jsonl.dvc", f"data/failures/{adapter}.dvc"]
        clone.pull([*needed, *quarantine.pointer(clone, adapter)])
        seed = read_examples(clone.root / "data" / "seed" / f"{adapter}.jsonl")
        files = sorted((clone.root / "data" / "failures" / adapter).glob("*.jsonl"))
        earlier = [row for path in files if path.stem < before for row in read_examples(path)]
        released = frozenset(ledger.released(ledger.read(clone.root, adapter)))
        doubted = [row for row in reversed(quarantine.pull(clone, adapter)) if row.kind == "poisoning"]
        held = {row.id: row.reason for row in doubted}
        suspected = frozenset(request for row in doubted if row.id not in released for request in _requests(row))
        return cls(params, params.adapter(adapter).labels, seed, earlier, released, held, suspected)

    @property
    def source(self) -> str | None:
        """The field of the metadata that tells where a request came from."""
        return self.params.failures.poisoning.source

    def __call__(self, cases: Sequence[Case]) -> dict[str, str]:
        rules, hours = self.params.failures.poisoning, self.params.window.hours
        ids = {case.request_id: content_id([("user", case.question), ("assistant", case.answer)]) for case in cases}
        held = {request: self.held[row] for request, row in ids.items() if row in self.held}
        found = suspects(
            cases, human=[*self.seed, *self.earlier], labels=self.labels, rules=rules, window_hours=hours,
            taken=Taken.of(self.earlier, set(ids)), held=held,
        )  # fmt: skip
        return {request: why for request, why in found.items() if ids[request] not in self.released}

    def let_through(self, earlier: Sequence[Quarantined]) -> set[str]:
        """Ids in quarantine that a person released, and while the door is off all that were only suspected."""
        off = not self.params.failures.poisoning.door
        return {*self.released, *(row.id for row in earlier if off and row.kind == "poisoning")}


def _requests(row: Quarantined) -> set[str]:
    return {row.request_id, *(origin.request_id for origin in (row.example.origins if row.example else ()))}


def why_not_believed(quarantined: Sequence[Quarantined]) -> list[str]:
    """The commonest reasons for which corrections were not believed, with their rows."""
    rows = Counter[str]()
    for row in (row for row in quarantined if row.kind == "poisoning"):
        rows[row.reason] += len(row.example.origins) if row.example else 1
    lines = [f"not believed, {_rows(n)}: {why}" for why, n in rows.most_common(REASONS)]
    more = sum(n for _, n in rows.most_common()[REASONS:])
    return [*lines, *([f"not believed, {_rows(more)}: for {len(rows) - REASONS} more reasons"] if more else [])]


def _rows(n: int) -> str:
    return "1 row" if n == 1 else f"{n} rows"
