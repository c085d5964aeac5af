"""Stage `synthesize`: new examples that a model writes from the human rows that train, failures first, and what filters leave.

Off while `synthesize.rows` is 0: an empty result, in no time. Synthetic rows never judge and never count as human. Nothing of a
suite is shown to a generator. What a person approves is the recipe: generator, template, filters and base, not single rows.
"""

import random
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrain import params as params_
from retrain import prompts, synthetic_filters
from retrain.errors import DataError, EndpointError, ParamsError
from retrain.prepare import inputs, prepare
from retrain.records import Example, Message, dumps, text_digest, unit_hash, write_json, write_jsonl, write_text
from retrain.sections import Asked, Reverse
from retrain.synthetic_filters import Candidate, Sifted
from retrain.text import filled

TEMPLATES = Path(__file__).parent / "templates"
NEEDED = {"reverse": (), "endpoint": ("{{label}}", "{{examples}}", "{{nonce}}")}
SAMPLE, BAD = 30, 3  # rows of the sample, and rejected ones of each filter
BATCH = 32


def template_of(spec: Reverse | Asked) -> str:
    """The generator's prompt: the user's file, or the one that ships; ParamsError where it lacks a place."""
    path = Path(spec.template) if spec.template else TEMPLATES / f"synthesize-{spec.kind}.txt"
    text = prompts.read_prompt(path)
    missing = [place for place in NEEDED[spec.kind] if place not in text]
    if missing:
        raise ParamsError(f"synthesize.generator.template: {path} lacks {', '.join(missing)}: see {TEMPLATES}")
    return text


def recipe(params: params_.Params, adapter: str) -> str:
    """What a person approves, as 16 hex digits: the rows wanted, the labels and how long an endpoint is waited for may change,
    how the rows are made may not."""
    generator = params.synthesize.generator
    waits = {"key_env", "timeout", "retries", "concurrency", "seconds"}
    settings = params.synthesize.model_dump(mode="json", exclude={"rows": True, "approval": True, "generator": waits})
    base = params.bases[params.adapter(adapter).base].model_dump(mode="json")
    if isinstance(generator, Reverse):
        made_by: Any = params.train.model_dump(mode="json", exclude={"epochs", "loraplus", "checkpoint_steps", "device"})
    else:
        made_by = prompts.read_prompt(Path(params.adapter(adapter).prompt))
    told = dumps([settings, base, made_by, template_of(generator)], sort_keys=True)
    return text_digest(told)[:16]


def reversed_rows(rows: Sequence[Example]) -> list[Example]:
    """Label -> text: what the base is taught in reverse."""
    return [Example.of(told(row.answer), row.question, source=row.source) for row in rows]


def told(label: str) -> str:
    """A label as words, for a model that reads words: `order_status` is `order status`."""
    return label.replace("_", " ")


def write_reverse(
    rows: Sequence[Example], wanted: Sequence[str], adapter: str, params: params_.Params, base: Path, scratch: Path
) -> list[Candidate]:
    """Teach the base in reverse on rows (through the code of `train`), then sample a text for each wanted label."""
    from retrain import train
    from retrain.generate import Model

    spec = params.synthesize.generator
    assert isinstance(spec, Reverse)
    system = template_of(spec)
    scratch.mkdir(parents=True, exist_ok=True)
    write_text(scratch / "prompt.txt", system)
    own = params.adapter(adapter).model_copy(update={"prompt": str(scratch / "prompt.txt"), "labels": (), "task": "generation"})
    taught = params.model_copy(
        update={
            "adapters": {**params.adapters, adapter: own},
            "train": params.train.model_copy(update={"epochs": spec.epochs, "loraplus": 1.0}),  # as the docs measured it
        }
    )
    train.train(reversed_rows(rows), adapter, taught, base, scratch / "adapter", scratch / "log.jsonl", home=scratch)
    model = Model(base, device=params.train.device, adapter=scratch / "adapter")
    questions = [(Message(role="user", content=told(label)),) for label in wanted]
    found = model.samples(
        questions,
        template=model.template(system, params.train.max_length),
        temperature=spec.temperature,
        top_p=spec.top_p,
        max_new_tokens=spec.max_new_tokens,
        batch=BATCH,
        seed=params.seed,
    )
    return [Candidate(answer.text, label, answer.cut) for answer, label in zip(found, wanted, strict=True)]


def ask_endpoint(
    rows: Sequence[Example], wanted: Sequence[str], adapter: str, params: params_.Params
) -> tuple[list[Candidate], list[str]]:
    """(one text for each wanted label that was answered, what went wrong with the others).

    Each request shows `shots` human rows of its label, failures before seed, drawn anew; raises EndpointError if all failed.
    """
    from retrain.endpoint import Endpoint

    spec = params.synthesize.generator
    assert isinstance(spec, Asked)
    template, task = template_of(spec), prompts.read_prompt(Path(params.adapter(adapter).prompt))
    rng = random.Random(params.seed)
    asked = []
    for label in wanted:
        known = sorted((row for row in rows if row.answer == label), key=lambda row: (row.source != "failure", rng.random()))
        shown = "\n".join("- " + " ".join(row.question.split()) for row in known[: spec.shots])
        places = {"task": task, "label": label, "examples": shown, "nonce": secrets.token_hex(8)}
        asked.append([{"role": "user", "content": filled(template, places)}])
    replies = Endpoint(spec, where="synthesize.generator").ask_all(asked, seconds=spec.seconds)
    failed = [str(reply) for reply in replies if isinstance(reply, EndpointError)]
    if wanted and len(failed) == len(replies):
        raise EndpointError(f"{failed[0]}; no text was written: mend that, or set synthesize.rows to 0")
    made = [
        Candidate(reply.text.strip().removeprefix("- ").strip('"'), label, reply.finish == "length")
        for reply, label in zip(replies, wanted, strict=True)
        if not isinstance(reply, EndpointError)
    ]
    return made, failed


def wanted_of(rows: Sequence[Example], labels: Sequence[str], each: int) -> list[str]:
    """Labels that human rows know, so often each, in turn."""
    known = {row.answer for row in rows}
    return [label for _ in range(each) for label in labels if label in known]


def sample(made: Sifted, adapter: str, name: str) -> str:
    """A page for the person who approves: kept rows by hash, and a few that each filter rejected."""
    shown = sorted(made.kept, key=lambda row: unit_hash(row.id, "sample"))[:SAMPLE]
    lines = [f"# {adapter}: synthetic rows, recipe {name}", "", f"{len(shown)} of {len(made.kept)} rows that would train:", ""]
    lines += [f"- {row.answer}: {_quoted(row.question)}" for row in sorted(shown, key=lambda row: row.answer)]
    for reason, gone in made.rejected.items():
        if gone:
            lines += ["", f"{reason}: {len(gone)} rejected, for {synthetic_filters.WHY[reason]}; such as:", ""]
            lines += [f"- {one.label}: {_quoted(one.text)}" for one in gone[:BAD]]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """On one line, not too long, and without what no file can hold."""
    return dumps(text[:300]).encode("utf-8", "replace").decode()


def write(out: Path, kept: Sequence[Example], report: dict[str, Any], page: str) -> None:
    write_jsonl(out / "rows.jsonl", kept)
    write_text(out / "sample.md", page)
    write_json(out / "report.json", {"schema": 1, **report})


def main(adapter: str) -> None:
    params = params_.load().of(adapter)
    spec, rules, out = params.adapter(adapter), params.synthesize, Path("out") / adapter / "synthetic"
    off = (
        "synthesize.rows is 0" if not rules.rows else "" if spec.labels else "its answers are no closed set of labels: nothing"
    )
    if off:
        off += "" if not rules.rows else " independent could say whether a text fits its answer"
        write(out, [], {"rows": 0, "off": off}, f"# {adapter}: no synthetic rows\n\n{off}\n")
        print(f"{adapter}: no synthetic rows: {off}")
        return
    human = prepare(**inputs(adapter, params))
    if not human.train:
        raise DataError(f"no human row of {adapter} trains: there is nothing to write others from ({human.left_out})")
    suites = [row for rows in human.suites.values() for row in rows]
    judged = {row.key for row in suites}
    shown = [row for row in human.train if row.key not in judged]  # a copy of a judging row may train, but is not shown
    wanted = wanted_of(shown, spec.labels, round(rules.rows * rules.tries))
    failed: list[str] = []
    if isinstance(rules.generator, Reverse):
        scratch = Path(".retrain") / "synthesize" / adapter
        made = write_reverse(shown, wanted, adapter, params, Path("out/base") / spec.base, scratch)
    else:
        made, failed = ask_endpoint(shown, wanted, adapter, params)
    sifted = synthetic_filters.sift(
        made, human=human.train, suites=suites, labels=spec.labels, rules=rules, rows=rules.rows, seed=params.seed
    )
    name, words = recipe(params, adapter), list(synthetic_filters.lines(sifted, len(made)))
    report = {
        "rows": len(sifted.kept),
        "recipe": name,
        "generator": rules.generator.kind,
        "human": len(human.train),
        "asked": len(wanted),
        "written": len(made),
        "failed": len(failed),
        "rejected": {reason: len(gone) for reason, gone in sifted.rejected.items()},
        "variety": {label: {"synthetic": mine, "human": theirs} for label, (mine, theirs) in sifted.variety.items()},
        "words": [*words, *failed[:1]],
    }
    write(out, sifted.kept, report, sample(sifted, adapter, name))
    print(f"{adapter}: {len(sifted.kept)} synthetic rows of {len(made)} written, rejected {report['rejected']}")


if __name__ == "__main__":
    from retrain.stage import run

    run(main)
