"""A router that got worse is recorded and refused, a fit that is killed leaves nothing, and the door keeps what it has."""

import pytest
from doors import Stub, running, until
from routers import push, two

from retrain import routes
from retrain.errors import NothingToDo
from retrain.workspace import Clone


@pytest.mark.slow
def test_a_worse_router_is_refused_and_the_one_before_routes_on(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = two(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Clone, "publish", lambda *args, **more: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            routes.refit(space, say=print)
    assert routes.lines_at(space, space.remote_head()) == []
    first = routes.refit(space, say=print)
    with pytest.raises(NothingToDo, match="no specialist has changed since"):
        routes.refit(space, say=print)
    text = (space.root / "params.yaml").read_text()
    push(space, "params.yaml", text.replace("refused: 0.05", "refused: 0.45"))
    worse = routes.refit(space, say=print)
    assert not worse.accepted and worse.why.startswith("routed right: ")
    assert routes.lines_at(space, space.remote_head()) == [first, worse]
    with running(space, Stub()) as (door, _):
        until(lambda: door.auto.serves)
        assert door.auto.serves is not None and door.auto.serves.digest == first.digest
        assert door.auto.why is None
        forced = routes.refit(space, say=print, forced="certainty outweighs refusals")
        assert forced.accepted and forced.digest == worse.digest and forced.why.startswith("forced: certainty outweighs")
        until(lambda: door.auto.serves and door.auto.serves.digest == forced.digest)
