"""User ids as keyed hashes: whoever holds the key finds a user's rows again, nobody else learns who he was.

The key is that of the tombstones, so that an erased user is recognised by his hash too. A workspace whose remote lies inside it
(one machine) makes a random one; elsewhere, without RETRAIN_USER_KEY, ids are not kept at all: two machines with keys of their
own would tell one user twice, and a hash without a key is found by trying.
"""

import functools
import sys
from typing import TYPE_CHECKING, Any

from retrain import tombstones
from retrain.params import Params
from retrain.scrub import Scrubber
from retrain.workspace import ORIGIN, Workspace

if TYPE_CHECKING:
    from monitoring.sources import LogTable

LACKING = (
    "no key for ids of users and conversations: they are not kept, so no limit for each user holds, and a conversation may "
    f"both train and judge. Set {tombstones.VARIABLE} (at least {tombstones.LEAST} characters, the same on every machine)"
)


class UserIds:
    """Called with a user id of the log store it gives what may be kept of it."""

    def __init__(self, key: bytes | None) -> None:
        self.key = key

    @classmethod
    def of(cls, workspace: Workspace) -> "UserIds":
        """Errors of `tombstones.key`."""
        found = tombstones.key(workspace.root, make=workspace.params.workspace.remote == ORIGIN)
        if found is None:
            _warn()
        return cls(found)

    def __call__(self, user: Any) -> str | None:
        """64 hex digits of HMAC-SHA256; None without a key, or without a user."""
        if self.key is None or not isinstance(user, str) or not user:
            return None
        return tombstones.keyed(self.key, user)


@functools.cache
def _warn() -> None:
    """Once a process, to stderr: stdout may be a verb's JSON."""
    print(f"warning: {LACKING}", file=sys.stderr, flush=True)


def open_logs(workspace: Workspace, params: Params, adapter: str) -> "LogTable":
    """The log table of an adapter, of which rows hold what may be kept of them: user ids as hashes, and placeholders for
    personal data and secrets; `params`: those of this adapter."""
    from monitoring import sources

    privacy = sources.Privacy(UserIds.of(workspace), Scrubber(params.scrub))
    return sources.open_logs(params.logs, root=workspace.root, adapter=adapter, privacy=privacy)
