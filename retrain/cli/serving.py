"""The verb that answers users: serve."""

from dataclasses import replace

from retrain.cli.shared import HERE, Root, Set, open_workspace, say


def serve(workspace: Root = HERE, override: Set = None) -> None:
    """Answer users with the champions by OpenAI's protocol, follow the ledger, write the request log.

    Example: retrain serve --set serve.port=9000
    """
    from retrain import params
    from retrain.serving import server
    from retrain.serving.local import Local

    space = open_workspace(workspace)
    space = replace(space, params=params.load(space.root, tuple(override or ())))
    server.serve(space, Local(space), say)
