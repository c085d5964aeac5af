"""A door whose challenger is tried, and the traffic that a trial replays through it."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from doors import until

from monitoring.failures import drawn
from retrain import jobs, looks, rollout
from retrain.records import read_jsonl
from retrain.rollout import Looked
from retrain.workspace import Workspace

QUICK = (  # few requests are enough, where a trial does not say otherwise
    "promotion.rollout.min_requests=20", "promotion.rollout.min_labels=0", "promotion.rollout.expire_hours=48",
    "serve.timeout=60",
    'promotion.rollout.steps=[{"weight": 0, "hours": 1}, {"weight": 50, "hours": 1}]',
)  # fmt: skip


def ask(
    address: str, *, user: str, text: str = "where is my parcel", model: str = "support", client: Any = httpx, **more: Any
) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "user": user, **more}
    answer: httpx.Response = client.post(address + "/v1/chat/completions", json=body, timeout=30)
    return answer


def traffic(address: str, users: Iterable[int]) -> list[httpx.Response]:
    """One question of each user, one after the other."""
    alone = httpx.Limits(max_keepalive_connections=0)  # after a 500 the server closes the connection
    with httpx.Client(limits=alone) as client:
        return [ask(address, user=f"user {n}", text=f"question {n}", client=client) for n in users]


def arms(answers: Iterable[httpx.Response]) -> list[str]:
    return [answer.headers["x-retrain-arm"] for answer in answers]


def rows(space: Workspace, kind: str = "") -> list[dict[str, Any]]:
    """What the door wrote: served rows, or those of .shadow, .uncounted, .feedback."""
    folder = space.root / "logs" / kind / "support" if kind else space.root / "logs" / "support"
    return [row for path in sorted(folder.glob("*.jsonl")) for row in read_jsonl(path)]


def written(space: Workspace, n: int, kind: str = "") -> None:
    """Wait until the door has written so many rows."""
    until(lambda: len(rows(space, kind)) >= n)


def tries(address: str, challenger: str | None) -> None:
    """Wait until the door tries this challenger, or none."""

    def now() -> str | None:
        told = httpx.get(address + "/healthz").json()["adapters"]["support"]["tries"]
        return told["challenger"] if told else None

    until(lambda: now() == challenger)


def look(space: Workspace, *, hours: float = 0.0) -> Looked:
    """A look so many hours from now."""
    return rollout.look(space, "support", datetime.now(UTC) + timedelta(hours=hours, seconds=2))


def running(space: Workspace) -> str | None:
    line = looks.running(jobs.entries(space, "support"))
    return line.action if line else None


def label(address: str, request: str, answer: str) -> int:
    """What a reviewer says of a request; its HTTP status."""
    body = {"request_id": request, "name": "thumbs", "value": False, "correction": answer, "source": "reviewer"}
    return httpx.post(address + "/v1/feedback", json=body, timeout=30).status_code


def drawn_ids(space: Workspace, answers: Iterable[httpx.Response]) -> list[str]:
    return [a.json()["id"] for a in answers if drawn(a.json()["id"], space.params.failures.audit_rate)]
