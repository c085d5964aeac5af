"""A person's no in Airflow: the operator skips what follows, and its answer is there all the same."""

import json

from test_environment import fresh

from retrain.permission import from_airflow

CODE = """
import json, sys
from datetime import datetime
sys.path.insert(0, "dags")
from types import SimpleNamespace
from airflow.sdk import DAG
from airflow.providers.standard.operators.empty import EmptyOperator
from retrain_adapter import Approval

class Skipped(Exception):
    pass

def skip(self, **about):
    raise Skipped  # as Airflow ends the task: nothing that it returns is kept

Approval.skip = skip
with DAG("d", schedule=None) as dag:
    task = Approval(task_id="approve", subject="s", body="b", defaults="Reject")
    task >> EmptyOperator(task_id="after")
for told in json.loads(EVENTS):
    kept = {}
    context = {"ti": SimpleNamespace(xcom_push=lambda key, value: kept.update({key: value})), "task": task}
    try:
        task.execute_complete(context, {"params_input": {}, "responded_at": datetime.now(), **told})
    except Skipped:
        kept["skipped"] = True
    print("KEPT " + json.dumps(kept))
"""
ANN = {"id": "ann", "name": "Ann"}


def test_what_a_person_said_is_kept_whether_what_follows_is_skipped_or_not() -> None:
    said = [
        {"chosen_options": [option], "responded_by_user": who}
        for option, who in (("Approve", ANN), ("Reject", ANN), ("Reject", None))
    ]
    printed = fresh(CODE.replace("EVENTS", repr(json.dumps(said))))
    kept = [json.loads(line.removeprefix("KEPT ")) for line in printed.splitlines() if line.startswith("KEPT ")]
    assert [one.get("skipped", False) for one in kept] == [False, True, True]
    answers = [from_airflow(one["answer"]) for one in kept]
    assert [(one.approved, one.by) for one in answers if one] == [(True, "Ann"), (False, "Ann"), (False, None)]
