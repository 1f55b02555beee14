"""The course's stages as DAGs. What they are stands in a plan that platform/run.sh writes (lesson 70); this file turns it into Airflow's
classes. Airflow reads it every few seconds, so it imports nothing of the course: a task is a command of the course's own environment.
"""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, CronDataIntervalTimetable, DeadlineAlert, DeadlineReference, SyncCallback

PLAN = json.loads(Path(os.environ["MLOPS_COURSE_PLAN"]).read_text(encoding="utf-8"))


def seconds(setting: str) -> timedelta:
    return timedelta(seconds=PLAN[setting])


LATE = DeadlineAlert(
    reference=DeadlineReference.DAGRUN_QUEUED_AT,
    interval=seconds("late_seconds"),
    callback=SyncCallback("late.ring", kwargs={"alertmanager": PLAN["alertmanager"]}),
)
TASK = {
    "cwd": PLAN["folder"],
    "append_env": True,
    "env": {
        "MLOPS_COURSE_RUN": "{{ run_id }}",
        "UNTIL": "{{ data_interval_end | default('') }}",
        "ORDER": "{{ (dag_run.conf or {}) | tojson }}",
    },
    "retries": PLAN["retries"],
    "retry_delay": seconds("retry_seconds"),
    "retry_exponential_backoff": 2,  # times as long before each further try; True would be 1
    "max_retry_delay": seconds("retry_most_seconds"),
    "execution_timeout": seconds("timeout_seconds"),
}

for name, planned in PLAN["dags"].items():
    with DAG(
        name,
        description=planned["about"],
        schedule=planned["schedule"] and CronDataIntervalTimetable(planned["schedule"], timezone="UTC"),
        start_date=datetime.fromisoformat(PLAN["start"]).astimezone(UTC),
        catchup=False,  # a night that was missed is not made up for by itself: see the backfill of lesson 70
        max_active_runs=planned["at_once"],
        deadline=LATE,
        default_args=TASK,
        tags=["mlops-course"],
    ):
        tasks = {
            task: BashOperator(task_id=task, bash_command=f"exec {command}", pool=planned["pool"])
            for task, command in planned["tasks"].items()
        }
        for task, before in planned["after"].items():
            tasks[task].set_upstream([tasks[other] for other in before])
