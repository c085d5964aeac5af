"""The router in a workspace: what makes one serve, later fits, and the door that asks it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from doors import AT, Stub, other, running, until
from routers import ADAPTERS, ASKS, push, two

from monitoring.windows import of_interval
from retrain import cleaning, jobs, objects, route_explain, router, routes, routing
from retrain.cli import main
from retrain.errors import IntegrityError
from retrain.process import text_at
from retrain.records import read_jsonl
from retrain.serving.door import Door
from retrain.store import Store
from retrain.userids import open_logs
from retrain.workspace import Clone, Workspace

# --- a fit, by push


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, routes.Fitted]:
    """Two specialists serve; the first router is fitted after a promotion, as a promotion does it."""
    space = two(tmp_path_factory.mktemp("router"))
    first = routes.follow(space)
    assert first is not None
    return space, first


@pytest.fixture(scope="module")
def space(made: tuple[Workspace, routes.Fitted]) -> Workspace:
    return made[0]


@pytest.fixture(scope="module")
def judges(space: Workspace) -> Iterator[Clone]:
    """A clone that holds the rows that judge."""
    with space.clone("test") as clone:
        clone.pull([f"data/suites/{name}.dvc" for name in ADAPTERS])
        yield clone


def lines(space: Workspace) -> list[routes.Fitted]:
    return routes.lines_at(space, space.remote_head())


def test_the_first_router_serves_with_the_bytes_of_its_commit(made: tuple[Workspace, routes.Fitted]) -> None:
    space, first = made
    assert (first.accepted, first.why, lines(space)) == (True, "the first router", [first])
    assert first.figures["accuracy"] > 0.9 and first.figures["recall"] > 0.5
    found = routes.fetch(space, first)
    assert {name: found.route(text).specialist for name, text in ASKS.items()} == {name: name for name in ASKS}
    metrics = json.loads(text_at(space.root, first.commit, "out/router/metrics.json") or "")
    assert metrics["accuracy"] == first.figures["accuracy"]


def test_a_damaged_copy_is_fetched_again_and_a_router_that_nobody_has_is_named(made: tuple[Workspace, routes.Fitted]) -> None:
    space, first = made
    routes.fetch(space, first)
    kept = space.local / "serving" / first.tag / routing.ARRAYS
    kept.write_bytes(b"half")
    assert routes.fetch(space, first).specialists == ("support", "orders")
    assert kept.stat().st_size > 4
    with pytest.raises(IntegrityError, match="not the one with sha256 ffff"):
        routes.fetch(space, first.model_copy(update={"digest": "f" * 64}))
    parent = space.remote_head() + "~3"
    with pytest.raises(IntegrityError, match="it is no commit of a router"):
        routes.fetch(space, first.model_copy(update={"digest": "e" * 64, "commit": parent}))


def test_cleaning_keeps_every_router_that_served(made: tuple[Workspace, routes.Fitted]) -> None:
    space, first = made
    store = Store(space)
    refused = first.model_copy(update={"accepted": False})
    (folder,) = (md5 for md5 in cleaning._routers(store, [first]) if md5.endswith(".dir"))
    assert set(objects.listing(store.places, folder)) == {routing.FILE, routing.ARRAYS}
    assert cleaning._routers(store, [refused]) == set()


def test_a_ledger_line_that_is_none_is_named() -> None:
    with pytest.raises(IntegrityError, match=r"ledger/router.jsonl:1 is no line of a router .*restore it"):
        routes.parse('{"at": "2026-03-01T00:00:00Z"}')


def test_explain_tells_probabilities_threshold_and_the_nearest_rows(
    made: tuple[Workspace, routes.Fitted], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    space, first = made
    monkeypatch.setattr("sys.argv", ["retrain", "route", "explain", ASKS["orders"], "-w", str(space.root), "--json"])
    with pytest.raises(SystemExit):
        main()
    told = json.loads(capsys.readouterr().out)
    assert (told["route"], told["answers"], told["digest"]) == ("orders", "orders", first.digest)
    assert sum(told["probabilities"].values()) + told["nobody"] == pytest.approx(1, abs=1e-3)
    assert len(told["nearest"]) == 5 and told["nearest"][0]["specialist"] == "orders"
    assert told["nearest"][0]["cosine"] >= told["nearest"][-1]["cosine"]
    riddle = route_explain.explain(space, str(ASKS[None]), nearest=1)
    assert riddle.nearest[0]["specialist"] is None and riddle.as_dict()["answers"] is None


def test_small_losses_do_not_add_up_unless_a_person_wants_it(made: tuple[Workspace, routes.Fitted], judges: Clone) -> None:
    space, first = made
    good = routes.fetch(space, first)

    def judged(threshold: float, lines: list[routes.Fitted]) -> routes.Fitted:
        files = routing.packed(replace(good, threshold=threshold))
        routes._keep(files, space.local / "serving" / f"router-{routing.digest_of(files)[:12]}")
        return routes.judged(space, judges, space.params, files, lines, first.at)

    probabilities = [
        route.probability
        for name, rows in router.rows_of(judges.root, space.params).judged.items()
        for route in good.routes([row.question for row in rows])
        if route.specialist == name
    ]
    once, twice, thrice = sorted(probabilities)[:3]  # each row is 1.25 points of 40 and 40
    little = judged((once + twice) / 2, [first])
    more = judged((twice + thrice) / 2, [first, little])
    assert little.accepted and 0 < lost(first, little) < 0.02
    assert 0 < lost(little, more) < 0.02 < lost(first, more)
    assert not more.accepted and f"({first.tag})" in more.why and f"({little.tag})" not in more.why
    forced = more.model_copy(update={"accepted": True, "why": f"{routes.FORCED}a reason; {more.why}"})
    assert judged((twice + thrice) / 2 + 1e-6, [first, little, forced]).why == "no worse than the one before"
    assert judged((twice + thrice) / 2, [little, first, little]).accepted  # a person went back from the first


def lost(before: routes.Fitted, after: routes.Fitted) -> float:
    return float(before.figures["accuracy"] - after.figures["accuracy"])


# --- the door


def ask(address: str, text: str, **more: Any) -> httpx.Response:
    messages = more.pop("messages", [{"role": "user", "content": text}])
    return httpx.post(f"{address}/v1/chat/completions", json={"model": "auto", "messages": messages, **more}, timeout=30)


def routed(door: Door) -> None:
    until(lambda: door.auto.serves)
    until(lambda: len(door.versions.names()) == 5)  # auto, two aliases, two versions


def test_auto_is_answered_by_the_specialist_and_the_row_says_how(
    open_door: tuple[Door, str], made: tuple[Workspace, routes.Fitted]
) -> None:
    door, address = open_door
    space, first = made
    routed(door)
    for name, version in (("support", "support-v7"), ("orders", "orders-v2")):
        answer = ask(address, ASKS[name], user="u1", metadata={"tenant": "a"})
        assert (answer.status_code, answer.json()["model"]) == (200, version)
        assert (answer.headers["x-retrain-route"], answer.headers["x-retrain-arm"]) == ("auto", "champion")
        request = answer.json()["id"]
        until(lambda name=name, request=request: row_of(space, name, request))
        row = row_of(space, name, request) or {}
        told = row["metadata"]["retrain"]
        assert (row["adapter"], row["model_version"], row["metadata"]["tenant"]) == (name, version, "a")
        assert (told["route"], told["router"]) == ("auto", first.digest[:12]) and told["probability"] > 0.5
        assert float(answer.headers["x-retrain-route-probability"]) == told["probability"]
        rated = httpx.post(
            f"{address}/v1/feedback", json={"request_id": request, "name": "thumbs", "value": True, "source": "user"}
        ).json()
        assert rated["status"] == "recorded", rated
    assert 'retrain_serve_routed_total{adapter="orders",route="auto"} 1.0' in httpx.get(f"{address}/metrics").text


def row_of(space: Workspace, name: str, request: str) -> dict[str, Any] | None:
    rows = [row for path in (space.root / "logs" / name).glob("*.jsonl") for row in read_jsonl(path)]
    return next((row for row in rows if row["request_id"] == request), None)


def test_the_monitor_reads_the_log_with_what_was_routed(open_door: tuple[Door, str], space: Workspace) -> None:
    door, address = open_door
    routed(door)
    request = ask(address, ASKS["support"]).json()["id"]
    until(lambda: row_of(space, "support", request))
    logs = open_logs(space, space.params.of("support"), "support")
    table = logs.rows(of_interval("2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z")).frame().set_index("request_id")
    assert json.loads(table.metadata[request])["retrain"]["route"] == "auto"


def test_a_stream_names_the_version_and_a_conversation_goes_by_its_last_message(
    open_door: tuple[Door, str], stub: Stub
) -> None:
    door, address = open_door
    routed(door)
    stub.text = lambda version, messages: f"{version.adapter}| {len(messages)}"
    talk = [
        {"role": "user", "content": ASKS["support"]},
        {"role": "assistant", "content": "payment_failed"},
        {"role": "user", "content": ASKS["orders"]},
    ]
    answer = ask(address, "", messages=talk, stream=True)
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == "orders 3"
    assert {event["model"] for event in events} == {"orders-v2"} and answer.headers["x-retrain-route"] == "auto"


def test_what_is_for_nobody_is_refused_and_the_specialists_are_named(open_door: tuple[Door, str]) -> None:
    door, address = open_door
    routed(door)
    answer = ask(address, str(ASKS[None]))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (422, "no_specialist", "invalid_request_error")
    assert "none of the specialists here (support, orders)" in error["message"]
    assert 'route="refused"} 1.0' in httpx.get(f"{address}/metrics").text


def test_a_fallback_answers_what_is_for_nobody(space: Workspace, stub: Stub) -> None:
    with running(other(space, "router.auto.fallback=orders"), stub) as (door, address):
        routed(door)
        answer = ask(address, str(ASKS[None]))
        assert (answer.json()["model"], answer.headers["x-retrain-route"]) == ("orders-v2", "fallback")


def test_models_health_and_metrics_tell_of_the_router(
    open_door: tuple[Door, str], made: tuple[Workspace, routes.Fitted]
) -> None:
    door, address = open_door
    routed(door)
    first = made[1]
    listed = httpx.get(f"{address}/v1/models").json()["data"]
    assert (listed[0]["id"], listed[0]["root"]) == ("auto", first.tag)
    assert httpx.get(f"{address}/v1/models/auto").json()["id"] == "auto"
    health = httpx.get(f"{address}/healthz").json()
    assert health["status"] == "ok" and health["router"]["digest"] == first.digest and health["router"]["why"] is None
    metrics = httpx.get(f"{address}/metrics").text
    assert f'retrain_serve_router_info{{digest="{first.digest[:12]}"}} 1.0' in metrics
    assert "retrain_serve_router_behind 0.0" in metrics


def test_without_a_router_auto_does_not_exist(space: Workspace, stub: Stub) -> None:
    with running(other(space, "router={}"), stub) as (door, address):
        until(lambda: len(door.versions.names()) == 4)
        answer = ask(address, ASKS["support"])
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        assert "there are support, orders" in answer.json()["error"]["message"]
        assert httpx.get(f"{address}/healthz").json()["router"] is None
        assert "auto" not in [one["id"] for one in httpx.get(f"{address}/v1/models").json()["data"]]


def test_a_router_that_names_an_adapter_which_is_gone_is_not_used(space: Workspace, stub: Stub) -> None:
    left = {name: spec for name, spec in space.params.adapters.items() if name != "orders"}
    with running(replace(space, params=space.params.model_copy(update={"adapters": left})), stub) as (door, address):
        until(lambda: door.auto.why)
        answer = ask(address, ASKS["support"])
        assert answer.status_code == 503 and "routes to orders, which params.yaml here does not name" in answer.text
        health = httpx.get(f"{address}/healthz").json()
        assert (health["status"], health["router"]["serves"]) == ("degraded", None)


def test_trial_a_damaged_router_changes_nothing_and_an_empty_ledger_ends_routing(
    made: tuple[Workspace, routes.Fitted], stub: Stub
) -> None:
    space, first = made
    before = "".join(f"{json.dumps(line.as_dict())}\n" for line in lines(space))
    broken = first.model_copy(update={"digest": "a" * 64})
    with running(space, stub) as (door, address):
        routed(door)
        push(space, "ledger/router.jsonl", before + json.dumps(broken.as_dict()) + "\n")
        try:
            until(lambda: door.auto.why)
            health = httpx.get(f"{address}/healthz").json()
            assert (health["status"], health["router"]["serves"]) == ("degraded", first.tag)
            assert "router-aaaaaaaaaaaa should route" in health["router"]["why"]
            assert ask(address, ASKS["orders"]).json()["model"] == "orders-v2"
            assert "retrain_serve_router_behind 1.0" in httpx.get(f"{address}/metrics").text
            push(space, "ledger/router.jsonl", "")
            until(lambda: door.auto.serves is None)
            assert ask(address, ASKS["orders"]).json()["error"]["code"] == "model_not_found"
        finally:
            push(space, "ledger/router.jsonl", before)
        until(lambda: door.auto.serves)


# --- later fits


def test_a_promotion_after_the_last_look_at_the_data_is_due(made: tuple[Workspace, routes.Fitted]) -> None:
    space, first = made
    ledgers = {name: jobs.entries(space, name) for name in space.params.adapters}
    assert routes.due(space.params, ledgers, [first]) is None
    early = first.model_copy(update={"at": AT})
    assert "support-v7 serves since" in (routes.due(space.params, ledgers, [early]) or "")
    assert routes.due(space.params, ledgers, []) is not None
    assert routes.due(space.params, {name: [] for name in ledgers}, []) is None


def test_a_worse_router_is_refused_with_the_figures_of_both(made: tuple[Workspace, routes.Fitted], judges: Clone) -> None:
    space, first = made
    good = routes.fetch(space, first)

    def judged(one: routing.Router) -> routes.Fitted:
        return routes.judged(space, judges, space.params, routing.packed(one), [first], first.at)

    same, worse = judged(good), judged(replace(good, threshold=0.9))
    other_one = judged(replace(good, threshold=good.threshold + 0.001))
    assert (same.accepted, same.digest, same.why) == (True, first.digest, "fitted again to the same bytes")
    assert (other_one.accepted, other_one.why) == (True, "no worse than the one before")
    assert not worse.accepted and worse.why.startswith("routed right: ") and worse.against == first.digest
    assert worse.served is not None and worse.served["accuracy"] > worse.figures["accuracy"]
    assert routes.serving([first, worse]) == first
