"""How a stage of dvc.yaml runs: one argument, errors of ours as one line and their exit code."""

import sys
from collections.abc import Callable

from retrain.errors import RetrainError
from retrain.process import collect_seldom, die_with_parent, told


def run(main: Callable[[str], None]) -> None:
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m retrain.{main.__module__.rpartition('.')[2]} NAME")
    collect_seldom()
    die_with_parent()  # or a killed `dvc repro` would leave a second writer behind
    try:
        main(sys.argv[1])
    except RetrainError as error:
        print(told(error), file=sys.stderr)
        sys.exit(error.exit_code)
