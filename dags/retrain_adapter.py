"""One DAG an adapter: what to do comes from the recorded state, an asset event only wakes it.

    collect -> retrain (child process: dvc repro, live log in MLflow) -> challenge (register) -> asks
            -> approve (only where promotion.approval is airflow) -> wait (for an answer in MLflow, pauses and hours)
            -> promote (looks at verdict and answer again; ledger, alias; or begins the rollout that promotion.rollout asks for,
               at whose end `guard_champion` promotes)

A rejection is a value, the gate's and a person's: `promote` says why, and a person's is a line of the ledger. All that is
read at parse time are the adapters' names, `promotion` and the pool.
"""

import os
from datetime import timedelta
from pathlib import Path

import yaml
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Asset, Param, dag, task
from airflow.sdk.exceptions import AirflowSkipException

WORKSPACE = Path(os.environ.get("RETRAIN_WORKSPACE", Path(__file__).resolve().parent.parent))
PARAMS = yaml.safe_load((WORKSPACE / "params.yaml").read_text("utf-8"))


class Approval(ApprovalOperator):
    """Its answer is kept before it skips what follows: a rejection leaves no return value behind."""

    def execute_complete(self, context, event):
        if "error" not in event:
            answer = {name: event[name] for name in ("chosen_options", "responded_by_user")}
            context["ti"].xcom_push(key="answer", value=answer)
        return super().execute_complete(context, event)


def build(adapter):
    """The retraining DAG of one adapter; its runs are serial."""
    rules = {**PARAMS["promotion"], **PARAMS["adapters"][adapter].get("override", {}).get("promotion", {})}

    launch = PARAMS.get("launch")
    pool = {"pool": launch["pool"], "pool_slots": launch["slots"]} if launch else {}

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

        @task(**pool)
        def retrain(end):
            from retrain import watch
            from retrain.records import from_stamp
            from retrain.workspace import Workspace

            made = watch.retrain(Workspace.open(WORKSPACE), adapter, from_stamp(end), say=print)
            return made.attempt.as_dict()

        @task
        def challenge(attempt):
            from retrain import notify, release
            from retrain.workspace import Workspace

            if not attempt["promote"]:
                print(f"not promoted: {attempt['why']}")
                return {"asks": "nobody", "subject": "", "card": ""}
            workspace = Workspace.open(WORKSPACE)
            challenged = release.challenge(workspace, adapter)
            if challenged.asks != "auto":
                notify.waiting(workspace, adapter, asks=challenged.asks, subject=challenged.subject)
            return vars(challenged)

        @task.branch
        def asks(challenged):
            return "approve" if challenged["asks"] == "airflow" else "wait"

        @task.sensor(poke_interval=60, timeout=90 * 86400, mode="reschedule", trigger_rule="none_failed_min_one_success")
        def wait():
            from retrain import release
            from retrain.workspace import Workspace

            why = release.waits(Workspace.open(WORKSPACE), adapter)
            if why:
                print(why)
            return why is None

        @task(trigger_rule="none_failed")  # after a rejection, too: the run stays green, so we record it
        def promote(attempt, *, ti=None):
            from retrain import permission, projections, rollout
            from retrain.workspace import Workspace

            if attempt is None:
                raise AirflowSkipException("nothing was retrained")
            workspace, concluded = Workspace.open(WORKSPACE), None
            if attempt["promote"]:
                answer = permission.from_airflow(ti.xcom_pull(task_ids="approve", key="answer"))
                concluded = rollout.conclude(workspace, adapter, answer, about=attempt["digest"])
                print(concluded.told())
            projections.refresh(workspace, adapter, panels=False, say=print)
            return concluded.as_dict() if concluded else None

        attempt = retrain(collect())
        challenged = challenge(attempt)
        approve = Approval(
            task_id="approve",
            subject="{{ ti.xcom_pull(task_ids='challenge')['subject'] }}",
            body="{{ ti.xcom_pull(task_ids='challenge')['card'] }}",
            defaults="Reject",
            response_timeout=timedelta(hours=rules["answer_hours"]),
            assigned_users=[{"id": user, "name": user} for user in rules["users"]] or None,
        )
        waited = wait()
        asks(challenged) >> [approve, waited]
        approve >> waited >> promote(attempt)

    return retrain_adapter()


for name in PARAMS["adapters"]:
    globals()[f"retrain_{name.replace('-', '_')}"] = build(name)
