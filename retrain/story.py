"""What a demo is told about: the shipped `support` text, or any labelled CSV pair, as files of a workspace."""

import csv
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrain import params
from retrain.copies import groups
from retrain.edits import edit
from retrain.errors import DataError, ParamsError
from retrain.overrides import apply
from retrain.records import Example, dumps, question_key, unit_hash
from retrain.simulate import read_traffic

HOME = Path(__file__).resolve().parent.parent  # the checkout: params.yaml, dvc.yaml, data/ and dags/ lie here
FIRST_AUDIT = "2026-02-28T00-00-00Z"
INITIAL, ARRIVING = 12, 4  # categories of a CSV pair, where it has so many
PER_INTENT, FEWEST = 25, 5  # rows that each intent learns, where enough are left to judge; never fewer
JUDGES = 200  # rows of golden, of the first audit and of the first retained, where the data has that many
PARTS = (5, 4)  # the rest of an intent: three parts judge, the others are traffic, or where that is too little one is


@dataclass(frozen=True)
class Story:
    """A demo's cast: `files` make the workspace, `traffic` is what users will ask, `test` is what nothing else reads."""

    adapter: str
    initial: tuple[str, ...]
    arriving: tuple[str, ...]
    files: dict[str, str]
    traffic: list[dict[str, str]]
    test: list[dict[str, str]]
    per_intent: int | None = None  # corrected rows that each arriving intent is to bring
    copies: float = 0.0  # share of what users ask of arriving intents that nearly copies another row, and so teaches nothing
    left_out: tuple[str, ...] = ()  # what of the data is not used, a sentence each


def files_of(names: Sequence[str]) -> dict[str, str]:
    return {name: (HOME / name).read_text("utf-8") for name in names}


def shipped() -> Story:
    """The `support` adapter on the text of this repository."""
    adapter = "support"
    names = [
        "dvc.yaml", f"data/prompts/{adapter}.txt", f"data/seed/{adapter}.jsonl", f"data/suites/{adapter}/golden.jsonl",
        f"data/suites/{adapter}/audit/{FIRST_AUDIT}.jsonl",
    ]  # fmt: skip
    traffic = read_traffic(HOME / "data" / "traffic" / f"{adapter}.jsonl")
    initial = tuple(sorted({Example.model_validate_json(line).answer for line in files_of(names)[names[2]].splitlines()}))
    arriving = tuple(sorted({row["label"] for row in traffic} - {*initial, "out_of_scope"}))
    files = {**files_of(names), "params.yaml": params_text(adapter, initial)}
    return Story(adapter, initial, arriving, files, traffic, [])


def from_csv(data: Path, *, initial: int | None, arriving: int | None, per_intent: int | None, seed: int) -> Story:
    """Any `train.csv` and `test.csv` with columns text,category: intents sorted, then shuffled by random.Random(seed).

    None is INITIAL and ARRIVING, or where there are fewer categories a quarter that arrives and the rest; and PER_INTENT,
    or as many as leave enough rows that judge. A category that is too rare to be both taught and judged is left out.
    """
    train, blank = read_csv(data / "train.csv")
    test, unread = read_csv(data / "test.csv")
    rules = params.load(HOME)
    train, copies = _once(train, rules.prepare.near)
    names, rare = _common(train)
    initial, arriving = _cast(len(names), initial, arriving, data / "train.csv", len(rare))
    random.Random(seed).shuffle(names)
    first, later = tuple(names[:initial]), tuple(names[initial : initial + arriving])
    adapter = "intents"
    tries = itertools.product([per_intent] if per_intent else range(PER_INTENT, FEWEST - 1, -5), PARTS)
    for each, parts in tries:
        seeds, golden, audit, traffic = _split(train, first, each, parts)
        if len(golden) >= rules.gates.min_rows:
            break
    else:
        raise DataError(
            f"{data}/train.csv leaves {len(golden)} rows that judge ({len(train)} rows that copy no other; {initial} intents "
            f"learn {each} each), the gate needs {rules.gates.min_rows}: give more rows an intent, or more --initial"
            + (", or a smaller --per-intent" if per_intent else "")
        )
    traffic += [row for row in train if row["label"] in later]
    asked_again = [row for row in copies if row["label"] in {*first, *later}]
    traffic += asked_again
    arrives = sum(row["label"] in later for row in traffic)
    twins = sum(row["label"] in later for row in asked_again) / arrives
    told = _not_used({"train.csv": blank, "test.csv": unread}, len(copies), rare)
    files = {
        **files_of(["dvc.yaml"]),
        "params.yaml": params_text(adapter, tuple(sorted(first)), floor={}),  # how hard this text is nobody knows yet
        f"data/prompts/{adapter}.txt": (HOME / "data/prompts/support.txt").read_text("utf-8"),
        f"data/seed/{adapter}.jsonl": _lines(seeds, "seed"),
        f"data/suites/{adapter}/golden.jsonl": _lines(golden, "golden"),
        f"data/suites/{adapter}/audit/{FIRST_AUDIT}.jsonl": _lines(audit, "audit"),
    }
    tested = [row for row in test if row["label"] in {*first, *later}]
    return Story(adapter, first, later, files, traffic, tested, each, twins, told)


def _common(train: Sequence[dict[str, str]]) -> tuple[list[str], list[str]]:
    """(categories with rows enough to be taught and judged, those that are too rare), sorted."""
    rows: dict[str, list[bool]] = {}
    for row in train:
        rows.setdefault(row["label"], []).append(_judges(row))
    rare = {label for label, judge in rows.items() if len(judge) < 2 * FEWEST or judge.count(False) < FEWEST}
    return sorted(set(rows) - rare), sorted(rare)


def _judges(row: dict[str, str]) -> bool:
    """Whether `prepare` would hold this row of the seed back to judge (prepare.retained_share: 0.5)."""
    return unit_hash(question_key(row["text"]), "retained") < 0.5


def _not_used(blank: dict[str, int], copies: int, rare: Sequence[str]) -> tuple[str, ...]:
    told = [f"{n} rows of {name} have no text or no category and were skipped" for name, n in blank.items() if n]
    if copies:
        told.append(f"{copies} rows of train.csv are near copies of another row of their category: users alone ask them")
    if rare:
        some = ", ".join(rare[:5]) + (", ..." if len(rare) > 5 else "")
        told.append(f"{len(rare)} categories are too rare to be taught and judged and were left out: {some}")
    return tuple(told)


def _cast(count: int, initial: int | None, arriving: int | None, path: Path, rare: int) -> tuple[int, int]:
    """How many of so many categories are taught first, and how many arrive."""
    later = arriving or min(ARRIVING, count - initial if initial else max(1, count // 4))
    first = initial or min(INITIAL, count - later)
    if first < 2 or later < 1 or first + later > count:
        asked = f"--initial {first} and --arriving {later} ask for {first + later}" if initial or arriving else "a demo needs 3"
        beside = f" (beside {rare} with fewer than {2 * FEWEST} rows that copy no other)" if rare else ""
        raise ParamsError(f"{asked}, {path} has {count} categories{beside}: name at least 2 and 1, together {count} or fewer")
    return first, later


def _split(
    train: list[dict[str, str]], initial: Sequence[str], per_intent: int, parts: int
) -> tuple[list[dict[str, str]], ...]:  # fmt: skip
    """(seed, golden, audit, traffic): per_intent rows of each intent train; the judges' rows come on top, traffic is the rest.

    An intent with few rows gives each of its three judges one of so many parts of the others, and never its training rows.
    """
    seeds, golden, audit, traffic = [], [], [], []
    each = max(1, round(JUDGES / len(initial)))
    for label in initial:
        rows = sorted((r for r in train if r["label"] == label), key=lambda r: unit_hash(question_key(r["text"]), "story"))
        held, free = [r for r in rows if _judges(r)], [r for r in rows if not _judges(r)]
        learn, free = free[:per_intent], free[per_intent:]
        spare = held + free
        few = min(each, max(1, (len(rows) - per_intent) // parts))
        seeds += learn + held[:few]
        rest = [r for r in spare if not any(r is h for h in held[:few])]
        rest.sort(key=lambda r: unit_hash(question_key(r["text"]), "judges"))
        golden += rest[:few]
        audit += rest[few : 2 * few]
        traffic += rest[2 * few :] or learn
    return seeds, golden, audit, traffic


def read_csv(path: Path) -> tuple[list[dict[str, str]], int]:
    """(rows as they stand there, how many more have no text or no category)."""
    if not path.exists():
        raise ParamsError(f"{path} does not exist: --data names a folder with train.csv and test.csv (columns text,category)")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if not {"text", "category"} <= set(reader.fieldnames or ()):
                raise DataError(f"{path} has columns {reader.fieldnames}, must have text and category")
            rows = [{"text": (r["text"] or "").strip(), "label": (r["category"] or "").strip()} for r in reader]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): save the file as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): it must be a file of CSV that you may read") from error
    except csv.Error as error:
        raise DataError(
            f"{path} is not CSV in the row that begins at line {reader.line_num + 1}: {error}; a quote within a field is "
            'written twice (""), in quotes'
        ) from error
    kept = [row for row in rows if row["text"] and row["label"]]
    return kept, len(rows) - len(kept)


def _once(rows: Sequence[dict[str, str]], near: float) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """(the first row of each question, but for near copies inside a category, and these).

    Near copies train as one row and judge as one (prepare.near): what is counted here is what the gate will count.
    """
    once = list(reversed({question_key(row["text"]): row for row in reversed(rows)}.values()))
    stands = groups([row["text"] for row in once], near, [row["label"] for row in once]).tolist()
    first = [stands[i] == i for i in range(len(once))]
    kept = [row for row, stood in zip(once, first, strict=True) if stood]
    return kept, [row for row, stood in zip(once, first, strict=True) if not stood]


def _lines(rows: Sequence[dict[str, str]], source: str) -> str:
    examples = [Example.of(row["text"], row["label"], source=source) for row in rows]
    return "".join(dumps(row.as_dict()) + "\n" for row in sorted(examples, key=lambda row: row.id))


def params_text(adapter: str, labels: Sequence[str], floor: dict[str, float] | None = None) -> str:
    """The shipped params.yaml with this one classification adapter, comments kept; floor: in place of gates.floor."""

    def change(data: Any) -> None:  # ruamel's own mapping
        spec = data["adapters"]["support"]
        spec["labels"] = list(labels)
        spec["prompt"] = f"data/prompts/{adapter}.txt"
        for name in list(data["adapters"]):
            del data["adapters"][name]
        data["adapters"][adapter] = spec
        data["router"] = {}  # there is nothing to choose among
        del data["drift"]["columns"]["latency_ms"]  # the door's own: how busy this machine is today is no story
        if floor is not None:
            data["gates"]["floor"] = floor

    return _changed(change)


def own_files(adapter: str, labels: Sequence[str], overrides: Sequence[str]) -> dict[str, str]:
    """Files of a workspace for one's own data: one adapter that chooses among labels, or without any writes its answer.

    Its floors are left out, for how hard its data is nobody knows yet; overrides are `key.path=value`.
    """
    spec: dict[str, Any] = {"base": next(iter(params.load(HOME).bases)), "prompt": f"data/prompts/{adapter}.txt"}
    spec |= {"task": "classification", "labels": list(labels)} if labels else {"task": "generation", "max_new_tokens": 160}

    def change(data: Any) -> None:
        data["adapters"].clear()
        data["adapters"][adapter] = spec
        data["gates"]["floor"] = {}
        data["router"] = {}
        data["promotion"]["approval"] = "airflow"
        apply(data, tuple(overrides))

    what = "Name the label that fits the message." if labels else "Answer the message."
    return {**files_of(["dvc.yaml"]), "params.yaml": _changed(change), spec["prompt"]: f"{what}\n"}


def params_with(adapters: Sequence[str]) -> str:
    """The shipped params.yaml with these of its adapters alone, comments kept; a person approves what they bring."""

    def change(data: Any) -> None:
        data["promotion"]["approval"] = "airflow"
        for name in set(data["adapters"]) - set(adapters):
            del data["adapters"][name]
        if len(data["adapters"]) < 2:
            data["router"] = {}

    return _changed(change)


def _changed(change: Callable[[Any], None]) -> str:
    import tempfile

    from ruamel.yaml import YAML

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        path.write_text((HOME / "params.yaml").read_text("utf-8"), "utf-8")
        edit(path, change, YAML())
        return path.read_text("utf-8")
