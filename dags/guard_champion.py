"""Ledger, MLflow's aliases, bytes and verdict of every champion agree, or the last good one is put back; its monitor runs;
and a challenger beside it goes on, stays or is rolled back (promotion.rollout).

guard, rollout, monitored (each mapped over the adapters): none stops another

What the guard changed stands in its log, in the tag `guard` of the versions in MLflow, and people are told (notify.events:
restored). It fails where no version is left that may serve.
"""

import os
from pathlib import Path

import yaml
from airflow.sdk import dag, task

WORKSPACE = Path(os.environ.get("RETRAIN_WORKSPACE", Path(__file__).resolve().parent.parent))
PARAMS = yaml.safe_load((WORKSPACE / "params.yaml").read_text("utf-8"))


@dag(schedule="*/5 * * * *", catchup=False, max_active_runs=1, tags=["retrain"], doc_md=__doc__)
def guard_champion():
    @task
    def guard(adapter):
        from retrain import guard, notify
        from retrain.workspace import Workspace

        workspace = Workspace.open(WORKSPACE)
        found = guard.reconcile(workspace, adapter)
        for line in (*found.changes, *found.notes):
            print(line)
        if found.changes:
            notify.restored(workspace, adapter, what=f"put right: {found.told()}", changes=found.changes)
        return found.told()

    @task
    def rollout(adapter):
        from retrain import notify, projections, rollout
        from retrain.workspace import Workspace

        workspace = Workspace.open(WORKSPACE)
        found = rollout.look(workspace, adapter)
        if found.wrote:
            projections.refresh(workspace, adapter, panels=False, say=print)
        if found.judged and (found.judged.outcome == "failure" or found.judged.expired):
            notify.restored(workspace, adapter, what="the challenger was taken back", changes=found.told())
        return "\n".join(found.told())

    @task
    def monitored(adapter, *, data_interval_end=None):
        import datetime

        from retrain import notify
        from retrain.workspace import Workspace

        now = data_interval_end or datetime.datetime.now(datetime.UTC)  # a run by hand without a date has none
        return notify.guard_monitor(Workspace.open(WORKSPACE), adapter, now)

    guard.expand(adapter=sorted(PARAMS["adapters"]))
    rollout.expand(adapter=sorted(PARAMS["adapters"]))
    monitored.expand(adapter=sorted(PARAMS["adapters"]))


DAG = guard_champion()
