"""`retrain <verb>`: thin. Exit codes: 0 done, 1 fault, 2 bad usage, 3 rejected, 4 nothing to do, 5 busy, 6 stale."""

import os
import sys

import typer

from retrain.cli import looking, releasing, starting, watching
from retrain.errors import RetrainError

VERBS = {
    "Start": (starting.init, starting.demo, starting.simulate),
    "Watch": (watching.monitor, watching.why, watching.trigger, watching.collect),
    "Release": (releasing.repro, releasing.register, releasing.promote, releasing.rollback),
    "Look": (looking.status, looking.history, looking.pages, looking.up, looking.doctor),
}

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
labels_app = typer.Typer(no_args_is_help=True, help="Labels that users need and the adapter does not list yet.")
for panel, verbs in VERBS.items():
    for verb in verbs:
        app.command(rich_help_panel=panel)(verb)
labels_app.command("list")(watching.labels_list)
labels_app.command("admit")(watching.labels_admit)
app.add_typer(labels_app, name="labels", rich_help_panel="Watch")


def main() -> None:
    os.environ.update(DO_NOT_TRACK="true", MLFLOW_DISABLE_TELEMETRY="true", GX_ANALYTICS_ENABLED="false")
    os.environ.setdefault("DVC_NO_ANALYTICS", "true")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        app()
    except RetrainError as error:
        print(f"error: {error}" if error.exit_code != 4 else str(error), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
