"""One DAG an adapter: what to do comes from the recorded state, an asset event only wakes it.

    collect -> retrain (child process: dvc repro, live log in MLflow) -> promote (register, ledger, alias)

A rejection is a value: `promote` then records nothing and says why; the refused attempt is in the ledger and in MLflow.
"""

import os
from pathlib import Path

import yaml
from airflow.sdk import Asset, Param, dag, task
from airflow.sdk.exceptions import AirflowSkipException

WORKSPACE = Path(os.environ.get("RETRAIN_WORKSPACE", Path(__file__).resolve().parent.parent))
PARAMS = yaml.safe_load((WORKSPACE / "params.yaml").read_text("utf-8"))


def build(adapter):
    """The retraining DAG of one adapter; its runs are serial."""

    @dag(
        dag_id=f"retrain_{adapter.replace('-', '_')}",
        schedule=Asset(f"fired-{adapter}", f"retrain://fired/{adapter}"),
        catchup=False,
        max_active_runs=1,
        params={"end": Param(None, type=["null", "string"])},
        tags=["retrain"],
        doc_md=__doc__,
    )
    def retrain_adapter():
        @task
        def collect(*, params=None):
            from retrain import collecting, watch
            from retrain.errors import NothingToDo
            from retrain.records import stamp
            from retrain.workspace import Workspace

            workspace = Workspace.open(WORKSPACE)
            try:
                end = watch.due(workspace, adapter, params["end"])
            except NothingToDo as nothing:  # woken by an event that an earlier run has dealt with
                raise AirflowSkipException(str(nothing)) from nothing
            print(collecting.collect_what_there_is(workspace, adapter, end))
            return stamp(end)

        @task
        def retrain(end):
            from retrain import watch
            from retrain.records import from_stamp
            from retrain.workspace import Workspace

            made = watch.retrain(Workspace.open(WORKSPACE), adapter, from_stamp(end), say=print)
            return made.attempt.as_dict()

        @task
        def promote(attempt):
            from retrain import projections, release
            from retrain.workspace import Workspace

            workspace, promoted = Workspace.open(WORKSPACE), None
            if attempt["promote"]:
                promoted = release.promote(workspace, adapter).promotion.as_dict()
            else:
                print(f"not promoted: {attempt['why']}")
            projections.refresh(workspace, adapter, panels=False, say=print)
            return promoted

        promote(retrain(collect()))

    return retrain_adapter()


for name in PARAMS["adapters"]:
    globals()[f"retrain_{name.replace('-', '_')}"] = build(name)
