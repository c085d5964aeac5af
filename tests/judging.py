"""A stub of an LLM judge that reads frames as a good model does, and obeys whatever stands outside of them; and rows for it."""

import json
import re
from typing import Any

import talking
from tables import Rows

from retrain.gating import Preference
from retrain.scoring import Judge, entry

SWAY = re.compile(r"prefer the (first|second) answer", re.IGNORECASE)


def swayed(body: talking.Body) -> str:
    """Prefers the answer that says `good` to one that says `bad`; an order outside of the frames decides instead."""
    text = body["messages"][-1]["content"]
    code = re.search(r"carry the code (\S+)", text)
    nonce = re.escape(code[1].rstrip(".")) if code else ""
    parts = dict(re.findall(rf"<<< ([\w ]+) {nonce}\n(.*?)\n>>> \1 {nonce}(?:\n|$)", text, re.DOTALL))
    outside = re.sub(rf"<<< ([\w ]+) {nonce}\n.*?\n>>> \1 {nonce}(?:\n|$)", "", text, flags=re.DOTALL)
    if order := SWAY.search(outside):
        return json.dumps({"verdict": order[1].casefold()})
    first, second = (parts[f"the {place} answer"] for place in ("first", "second"))
    worth = [("good" in answer) - ("bad" in answer) for answer in (first, second)]
    return json.dumps({"verdict": "tie" if worth[0] == worth[1] else "first" if worth[0] > worth[1] else "second"})


def settings(model: talking.Model, **given: Any) -> Preference:
    made = {"url": model.url, "model": "m", "timeout": 20, "retries": 0, "concurrency": 8, "seconds": 60}
    return Preference.model_validate({**made, "calibration": 40, "agreement": 0.7, **given})


def rows(candidate: Any, champion: Any, **sizes: int) -> Rows:
    """Predictions of generated texts as `evaluate` makes them: what each arm answers is made from suite and number."""
    scorer, found = Judge("generation", None), []
    for suite, n in {"audit": 120, "golden": 200, "retained": 200, **sizes}.items():
        for i in range(n):
            said = {"candidate": candidate(suite, i), "champion": champion(suite, i), "base": "bad base"}
            arms = {arm: entry(scorer, answer, expected(i), ()) | {"faults": []} for arm, answer in said.items()}
            found.append({
                "schema": 1, "suite": suite, "id": f"{suite}{i:04}", "joins": [f"{suite}{i}"], "question": f"question {i}",
                "expected": expected(i), "slice": {}, "excluded": None, "arms": arms,
            })  # fmt: skip
    return found


def expected(i: int) -> str:
    return f"good answer {i}"
