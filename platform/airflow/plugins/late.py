"""An alert for a DAG's run that has not ended in time. Airflow calls it; Alertmanager, which has all other alerts, is told."""

import json
import urllib.request


def ring(alertmanager: str, context: dict, **_) -> None:
    "Tell Alertmanager of a late run; an error here stands in the callback's log and in Airflow's page."
    run = context["dag_run"]
    run = run if isinstance(run, dict) else run.model_dump()
    labels = {"alertname": "DagLate", "dag": run["dag_id"], "severity": "ticket"}
    notes = {"summary": f"the run {run['dag_run_id'] if 'dag_run_id' in run else run['run_id']} of {run['dag_id']} has not ended in time"}
    body = json.dumps([{"labels": labels, "annotations": notes}]).encode()
    request = urllib.request.Request(f"{alertmanager}/api/v2/alerts", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=10).close()
