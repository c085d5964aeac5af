"""Every adapter's window, measured and decided; an adapter that fires rings its retraining.

    adapters -> monitor (mapped: one bad adapter does not stop the others) --fired--> asset of that adapter
             -> after_promotion (mapped): a new champion against its predecessor --harmed: rolled back--> asset of that adapter

Windows that were missed since the last recorded one (a pause, a dead scheduler) are measured first, each once. A backfill
measures its own window, which never trains unless a person says so: with `ask` the run's own window may, where a policy is
`manual` too.

The workspace is RETRAIN_WORKSPACE; all that is read at parse time are the adapters' names and the schedule.
"""

import os
from pathlib import Path

import yaml
from airflow.sdk import Asset, AssetAlias, CronDataIntervalTimetable, Param, dag, task

WORKSPACE = Path(os.environ.get("RETRAIN_WORKSPACE", Path(__file__).resolve().parent.parent))
PARAMS = yaml.safe_load((WORKSPACE / "params.yaml").read_text("utf-8"))
FIRED = AssetAlias("adapter-fired")


@dag(
    schedule=CronDataIntervalTimetable(PARAMS["window"]["schedule"], timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    params={
        "start": Param(None, type=["null", "string"]),
        "end": Param(None, type=["null", "string"]),
        "ask": Param(False, type="boolean"),
    },
    tags=["retrain"],
    doc_md=__doc__,
)
def monitor_adapters():
    @task(outlets=[FIRED], max_active_tis_per_dagrun=1)
    def monitor(adapter, *, params=None, dag_run=None, data_interval_start=None, data_interval_end=None, outlet_events=None):
        from monitoring.windows import last_full, of_interval
        from retrain import watch
        from retrain.workspace import Workspace

        workspace = Workspace.open(WORKSPACE)
        if params["start"] or params["end"]:
            window = of_interval(params["start"] or "", params["end"] or "")
        elif data_interval_start is not None:
            window = of_interval(data_interval_start, data_interval_end)
        else:  # started by hand without a date
            import datetime

            window = last_full(datetime.datetime.now(datetime.UTC), workspace.params.window.hours)
        backfill = dag_run is not None and getattr(dag_run.run_type, "value", dag_run.run_type) == "backfill"
        alone = backfill or params["start"] or params["end"]
        for one in [window] if alone else watch.pending(workspace, adapter, window):
            seen = watch.monitor(workspace, adapter, one, backfill=backfill, asked=params["ask"] and one == window)
            if seen.decision.fire:
                asset = Asset(f"fired-{adapter}", f"retrain://fired/{adapter}")
                outlet_events[FIRED].add(asset, extra={"end": seen.record.end})
        return seen.record.as_dict()

    @task(outlets=[FIRED], max_active_tis_per_dagrun=1)
    def after_promotion(adapter, *, data_interval_end=None, params=None, outlet_events=None):
        import datetime

        from retrain import jobs, ledger, notify, probation, watch
        from retrain.records import parse_time
        from retrain.workspace import Workspace

        end = params["end"] or data_interval_end or datetime.datetime.now(datetime.UTC)
        workspace = Workspace.open(WORKSPACE)
        found = probation.look(workspace, adapter, parse_time(end))
        for line in watch.harmed(jobs.entries(workspace, adapter))[-1:]:  # until an attempt: whoever wrote it may have died
            notify.restored(workspace, adapter, what="the new champion is shown to be worse", changes=[line.told()])
            asset = Asset(f"fired-{adapter}", f"retrain://fired/{adapter}")
            outlet_events[FIRED].add(asset, extra={"end": line.end})
        told = found.told() if isinstance(found, ledger.Watch) else found
        return told or "nothing is watched"

    monitor.expand(adapter=sorted(PARAMS["adapters"]))
    after_promotion.expand(adapter=sorted(PARAMS["adapters"]))


DAG = monitor_adapters()
