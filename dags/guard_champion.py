"""Ledger, alias and bytes of every champion agree, and its monitor runs, or the task fails and says what is wrong.

guard (mapped over the adapters), monitored (mapped likewise): neither stops the other
"""

import os
from pathlib import Path

import yaml
from airflow.sdk import dag, task

WORKSPACE = Path(os.environ.get("RETRAIN_WORKSPACE", Path(__file__).resolve().parent.parent))
PARAMS = yaml.safe_load((WORKSPACE / "params.yaml").read_text("utf-8"))


@dag(schedule="*/10 * * * *", catchup=False, max_active_runs=1, tags=["retrain"], doc_md=__doc__)
def guard_champion():
    @task
    def guard(adapter):
        from retrain import release
        from retrain.workspace import Workspace

        return release.guard(Workspace.open(WORKSPACE), adapter)

    @task
    def monitored(adapter, *, data_interval_end=None):
        import datetime

        from retrain import notify
        from retrain.workspace import Workspace

        now = data_interval_end or datetime.datetime.now(datetime.UTC)  # a run by hand without a date has none
        return notify.guard_monitor(Workspace.open(WORKSPACE), adapter, now)

    guard.expand(adapter=sorted(PARAMS["adapters"]))
    monitored.expand(adapter=sorted(PARAMS["adapters"]))


DAG = guard_champion()
