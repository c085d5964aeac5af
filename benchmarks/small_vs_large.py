"""A small adapted specialist beside a model that is only prompted: quality, latency and cost side by side.

    python benchmarks/small_vs_large.py [--data orders] [--adapter DIR] [--shots 0 5 20] [--base DIR]
        [--url URL --model NAME --key-env KEY --price-in P --price-out P] [--json]

The specialist is --adapter, or one that is trained here on --rows rows. The prompted model is any OpenAI-compatible endpoint
(--url), an unpacked base on this machine (--base, made by `python -m retrain.base NAME`), or by default the specialist's own
base. It gets the adapter's prompt and so many examples of the training rows. `seconds` is of one answer, asked alone; cost is
of 1,000 answers: tokens by --price-in and --price-out (for a million), or seconds by --hour (what this machine's hour costs).

Example: python benchmarks/small_vs_large.py --url http://127.0.0.1:8000/v1 --model NAME --price-in 0.15 --price-out 0.6
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parts import models, texts  # noqa: E402

from retrain import params as params_  # noqa: E402
from retrain import quiet, sections  # noqa: E402
from retrain.answers import right  # noqa: E402
from retrain.generate import Model  # noqa: E402
from retrain.records import Example, Message  # noqa: E402

Said = tuple[str, float, int, int]  # answer, seconds, tokens in, tokens out


def shown(system: str, rows: Sequence[Example], shots: int) -> str:
    """The prompt with so many examples behind it."""
    return system + "".join(f"\n\n{row.question}\n=> {row.answer}" for row in rows[:shots])


def local(model: Model, text: texts.Text, system: str, params: params_.Params, length: int) -> list[Said]:
    """Each held-out row asked alone."""
    template, found = model.template(system, length), []
    for row in text.held:
        began = time.perf_counter()
        answer = model.answers(
            [row.messages[:-1]], template=template, labels=text.labels,
            max_new_tokens=params.adapter(text.adapter).max_new_tokens, batch=1,
        )[0]  # fmt: skip
        took = time.perf_counter() - began
        found.append((answer.text, took, len(template.question(row.messages[:-1])), len(template.completion(answer.text))))
    return found


def remote(text: texts.Text, system: str, asked: argparse.Namespace, tokenizer: Any) -> list[Said]:
    """The same of an endpoint, one after another; tokens are counted by the base's tokenizer."""
    from retrain.endpoint import Endpoint

    spec = sections.Endpoint(
        url=asked.url, model=asked.model, key_env=asked.key_env, timeout=120, retries=2, concurrency=1, extra={"temperature": 0}
    )
    endpoint, found = Endpoint(spec, where="--url"), []
    for row in text.held:
        messages = [Message(role="system", content=system), *row.messages[:-1]]
        began = time.perf_counter()
        reply = endpoint.ask([{"role": m.role, "content": m.content} for m in messages])
        took = time.perf_counter() - began
        given = sum(len(tokenizer(m.content)["input_ids"]) for m in messages)
        found.append((reply.text.strip(), took, given, len(tokenizer(reply.text)["input_ids"])))
    return found


def told(said: Sequence[Said], text: texts.Text, asked: argparse.Namespace, *, priced: bool) -> dict[str, Any]:
    schema = None if text.labels else {"type": "object"}
    exact = sum(bool(right(answer, row.answer, schema)) for (answer, *_), row in zip(said, text.held, strict=True))
    seconds = sorted(took for _, took, _, _ in said)
    given, made = (sum(row[i] for row in said) / len(said) for i in (2, 3))
    cost = None
    if priced:
        cost = (given * asked.price_in + made * asked.price_out) / 1e6 * 1000
    elif asked.hour:
        cost = sum(seconds) / len(seconds) / 3600 * asked.hour * 1000
    return {
        "exact": round(exact / len(said), 4),
        "seconds_median": round(seconds[len(seconds) // 2], 3),
        "seconds_p95": round(seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))], 3),
        "tokens_in": round(given, 1),
        "tokens_out": round(made, 1),
        "cost_per_1000": None if cost is None else round(cost, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="orders")
    parser.add_argument("--adapter", help="an adapter's folder")
    parser.add_argument("--base", help="the unpacked base that is prompted")
    parser.add_argument("--shots", type=int, nargs="+", default=[0, 5, 20])
    parser.add_argument("--rows", type=int, default=100, help="that the specialist learns")
    parser.add_argument("--held", type=int, default=12, help="rows that are asked")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--url")
    parser.add_argument("--model")
    parser.add_argument("--key-env")
    parser.add_argument("--price-in", type=float, default=0.0)
    parser.add_argument("--price-out", type=float, default=0.0)
    parser.add_argument("--hour", type=float, default=0.0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if min(asked.rows, asked.held, asked.epochs) < 1 or min(asked.shots) < 0 or bool(asked.url) != bool(asked.model):
        parser.error("--rows, --held and --epochs are at least 1, --shots at least 0; --url and --model belong together")
    for name in ("adapter", "base", "data"):  # folders, as they are seen from where this was called
        if (given := getattr(asked, name)) and Path(given).is_dir():
            setattr(asked, name, str(Path(given).resolve()))
    os.chdir(ROOT)
    quiet.libraries()
    params, folder = params_.load(ROOT), models.smollm2()
    text = texts.read(asked.data, rows=asked.rows, held=asked.held, seed=1)
    params = params.of(text.adapter)
    params = params.model_copy(update={"train": params.train.model_copy(update={"epochs": asked.epochs})})
    adapter = Path(asked.adapter) if asked.adapter else models.adapter_of(text, params, folder)
    model = Model(folder, device=params.train.device, adapter=adapter)
    found = {"specialist": told(local(model, text, text.system, params, params.train.max_length), text, asked, priced=False)}
    if asked.base:
        model = Model(Path(asked.base), device=params.train.device)
    else:
        model.use(None)
    for shots in asked.shots:
        system = shown(text.system, text.rows, shots)
        said = (
            remote(text, system, asked, model.tokenizer) if asked.url else local(model, text, system, params, 8192)
        )  # fmt: skip
        found[f"prompted, {shots} examples"] = told(said, text, asked, priced=bool(asked.url))
    if asked.json:
        print(json.dumps({"schema": 1, "rows": len(text.held), **found}, indent=2))
        return
    print(f"{'':24}{'exact':>7}{'median s':>10}{'p95 s':>8}{'in':>7}{'out':>6}  cost of 1,000")
    for name, row in found.items():
        cost = "-" if row["cost_per_1000"] is None else f"{row['cost_per_1000']:.3f}"
        print(
            f"{name:24}{row['exact']:7.1%}{row['seconds_median']:10.2f}{row['seconds_p95']:8.2f}{row['tokens_in']:7.0f}"
            f"{row['tokens_out']:6.0f}  {cost}"
        )


if __name__ == "__main__":
    main()
