"""A workspace with both shipped specialists, few rows of each, and a router; nothing is trained in it."""

from pathlib import Path

from doors import promote

from retrain import story
from retrain.edits import set_values
from retrain.founding import init
from retrain.workspace import Workspace

ADAPTERS = ("support", "orders")
ASKS = {
    "support": "My card was declined at the checkout, although there is money on it",
    "orders": "Please send 12 crates of lemons and 4 trays of lasagne to 19 Quay Street on 6 February",
    None: "Tell me a riddle about the moon",
}


def two(folder: Path, *settings: str) -> Workspace:
    """`retrain init` of it in folder/ws; support-v7 and orders-v2 serve, no router does."""
    folder.mkdir(parents=True, exist_ok=True)
    params = folder / "params.yaml"
    params.write_text(story.params_with(ADAPTERS))
    quick = ("serve.follow_seconds=0.1", "serve.timeout=5", "router.auto.min_rows=10")
    set_values(params, [*quick, *settings])
    names = ["dvc.yaml", "data/router/nobody.jsonl", "data/prompts/orders.schema.json"]
    names += [f"data/prompts/{name}.txt" for name in ADAPTERS]
    files = {**story.files_of(names), "params.yaml": params.read_text()}
    for name in ADAPTERS:
        files[f"data/seed/{name}.jsonl"] = head(f"data/seed/{name}.jsonl", 160)
        files[f"data/suites/{name}/golden.jsonl"] = head(f"data/suites/{name}/golden.jsonl", 40)
    space = init(folder / "ws", files=files)
    promote(space, 7)
    promote(space, 2, adapter="orders")
    return space


def head(name: str, rows: int) -> str:
    return "".join(f"{line}\n" for line in (story.HOME / name).read_text("utf-8").splitlines()[:rows])


def push(space: Workspace, path: str, text: str) -> None:
    """A file of the workspace, in git, pushed."""
    with space.clone("test") as clone:
        (clone.root / path).write_text(text, "utf-8")
        clone.commit([path], "test")
        clone.publish(lambda c: None, tries=1)
