"""The router in params.yaml, and what is told where there is none."""

import pytest
from calling import call

from retrain import params, story
from retrain.errors import ParamsError
from retrain.workspace import Workspace

SHIPPED = (story.HOME / "params.yaml").read_text("utf-8")


def test_an_adapter_cannot_have_the_routers_names() -> None:
    for name in ("auto", "router"):
        with pytest.raises(ParamsError, match=f"adapters.{name}: the name belongs to the router"):
            params.parse(SHIPPED.replace("\n  orders:\n", f"\n  {name}:\n"), "params.yaml")


def test_a_fallback_must_be_an_adapter() -> None:
    with pytest.raises(ParamsError, match=r"router.auto.fallback is 'suport', must be an adapter \(support, orders\)"):
        params.parse(SHIPPED.replace("    fallback: ", "    fallback: suport "), "params.yaml")


def test_no_router_is_an_empty_mapping_and_null_is_told_so() -> None:
    head = SHIPPED[: SHIPPED.index("\nrouter:")]
    assert params.parse(f"{head}\nrouter: {{}}\n", "params.yaml").router == {}
    with pytest.raises(ParamsError, match=r"router is null, must be \{\}"):
        params.parse(f"{head}\nrouter:\n", "params.yaml")
    with pytest.raises(ParamsError, match="router.other"):
        params.parse(SHIPPED.replace("\n  auto:\n", "\n  other:\n"), "params.yaml")


def test_a_workspace_of_one_adapter_has_no_router_and_one_of_two_has_it() -> None:
    assert params.parse(story.params_text("support", ["a", "b"]), "p").router == {}
    assert params.parse(story.params_with(["orders"]), "p").router == {}
    assert params.parse(story.own_files("mine", [], [])["params.yaml"], "p").router == {}
    assert "auto" in params.parse(story.params_with(["support", "orders"]), "p").router


@pytest.mark.parametrize("words", [("status",), ("fit",), ("explain", "hello")])
def test_where_params_have_no_router_nobody_is_told_to_fit_one(released: Workspace, words: tuple[str, ...]) -> None:
    told = call("route", *words, "-w", released.root)
    assert (told.code, "router is {} in params.yaml" in told.err) == (4, True), told
