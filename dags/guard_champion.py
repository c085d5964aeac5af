"""Ledger, alias and bytes of every champion agree, or the task fails and says what differs.

guard (mapped over the adapters)
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
        from retrain import jobs
        from retrain.workspace import Workspace

        return jobs.guard(Workspace.open(WORKSPACE), adapter)

    guard.expand(adapter=sorted(PARAMS["adapters"]))


DAG = guard_champion()
