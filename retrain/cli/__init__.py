"""`retrain <verb>`: thin. Exit codes: 0 done, 1 fault, 2 bad usage, 3 rejected, 4 nothing to do, 5 busy, 6 stale."""

import errno
import os
import sys

import typer

from retrain.cli import (
    data,
    explaining,
    exporting,
    guarding,
    importing,
    looking,
    quarantining,
    releasing,
    reviewing,
    rolling,
    routing,
    serving,
    starting,
    suite,
    synthesis,
    watching,
)
from retrain.errors import RetrainError
from retrain.process import collect_seldom

VERBS = {
    "Start": (starting.init, starting.demo, starting.simulate),
    "Watch": (watching.monitor, watching.why, watching.trigger, watching.collect),
    "Release": (
        *(releasing.repro, releasing.register, releasing.promote, releasing.rollback),
        *(guarding.reconcile, guarding.pause, guarding.resume, guarding.rebaseline, releasing.rebase, explaining.prune),
    ),
    "Serve": (serving.serve, serving.sync),
    "Look": (
        *(looking.status, looking.history, explaining.explain, explaining.compare),
        *(looking.pages, looking.up, looking.doctor),
    ),
}
FIXES = {
    errno.EACCES: "check its owner and its mode",
    errno.EPERM: "check its owner and its mode",
    errno.EROFS: "give a folder that can be written",
    errno.ENOSPC: "free some space, such as with `retrain data clean`",
    errno.EDQUOT: "free some space, such as with `retrain data clean`",
    errno.ENOTDIR: "a file is where a folder must be: move it away",
    errno.EISDIR: "a folder is where a file must be: move it away",
}

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
labels_app = typer.Typer(no_args_is_help=True, help="Labels that users need and the adapter does not list yet.")
quarantine_app = typer.Typer(no_args_is_help=True, help="Rows that were kept out of training, and why.")
for panel, verbs in VERBS.items():
    for verb in verbs:
        app.command(rich_help_panel=panel)(verb)
labels_app.command("list")(watching.labels_list)
labels_app.command("admit")(watching.labels_admit)
app.add_typer(labels_app, name="labels", rich_help_panel="Watch")
quarantine_app.command("list")(quarantining.quarantine_list)
quarantine_app.command("release")(quarantining.quarantine_release)
app.add_typer(quarantine_app, name="quarantine", rich_help_panel="Watch")
review_app = typer.Typer(no_args_is_help=True, help="Failure cases that wait for an answer by a person.")
review_app.command("export")(reviewing.review_export)
review_app.command("import")(reviewing.review_import)
app.add_typer(review_app, name="review", rich_help_panel="Watch")
feedback_app = typer.Typer(no_args_is_help=True, help="What people and programs said of answers.")
feedback_app.command("export")(exporting.feedback_export)
app.add_typer(feedback_app, name="feedback", rich_help_panel="Serve")
data_app = typer.Typer(no_args_is_help=True, help="Dataset versions, and which adapter learned what.")
for looks in (data.log, data.show, data.diff, data.rows, data.row, data.of_user, data.erase, data.clean):
    data_app.command()(looks)
app.add_typer(data_app, name="data", rich_help_panel="Data")
suite_app = typer.Typer(no_args_is_help=True, help="What judges, changed by a person, with a reason.")
for changes in (suite.add, suite.relabel, suite.retire):
    suite_app.command()(changes)
import_app = typer.Typer(no_args_is_help=True, help="Rows that a team already has, in other formats.")
import_app.command()(importing.openai)
app.add_typer(import_app, name="import", rich_help_panel="Data")
app.add_typer(suite_app, name="suite", rich_help_panel="Data")
synthetic_app = typer.Typer(no_args_is_help=True, help="Rows that a model wrote, before they train.")
for look in (synthesis.show, synthesis.approve):
    synthetic_app.command()(look)
app.add_typer(synthetic_app, name="synthetic", rich_help_panel="Data")
rollout_app = typer.Typer(no_args_is_help=True, help="A challenger beside the champion, step by step.")
for act in (rolling.status, rolling.look, rolling.pause, rolling.resume, rolling.promote, rolling.rollback):
    rollout_app.command()(act)
app.add_typer(rollout_app, name="rollout", rich_help_panel="Release")
route_app = typer.Typer(no_args_is_help=True, help='Which specialist a message goes to (`model: "auto"`).')
for tell in (routing.explain, routing.fit, routing.status):
    route_app.command()(tell)
app.add_typer(route_app, name="route", rich_help_panel="Serve")


def main() -> None:
    collect_seldom()
    os.environ.update(DO_NOT_TRACK="true", MLFLOW_DISABLE_TELEMETRY="true", GX_ANALYTICS_ENABLED="false")
    os.environ.setdefault("DVC_NO_ANALYTICS", "true")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # a reader that has left is noticed here, and not while the interpreter ends
    except RetrainError as error:
        print(str(error) if error.exit_code in (3, 4) else f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `retrain history support | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        print(f"error: {_told(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _told(error: OSError) -> str:
    """What the system refused, in one line: where, what, and the fix where there is one."""
    where = f"{error.filename}: " if error.filename is not None else ""
    fix = FIXES.get(error.errno or 0)
    return f"{where}{error.strerror or error}" + (f": {fix}" if fix else "")
