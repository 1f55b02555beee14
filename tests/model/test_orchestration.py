"""The plan that an orchestrator is given: made of pipeline.yaml, and of a section of the environment that is refused in words."""

import ast
import json
import re
import shlex
import string
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mlops_course import cli, contracts, executors, orchestration, project, stages
from mlops_course.orchestration import OrchestrationSettings, crontab, plan, stages_for

ENVIRONMENTS = sorted(path.name for path in project.root().glob("env*.yaml"))


@pytest.mark.parametrize("file", ENVIRONMENTS)
def test_each_task_comes_after_all_that_its_stage_reads_and_makers_of_other_raw_files_are_left_out(file):
    raw = contracts.read_project(project.environment(file).project).raw
    for dag in plan(file)["dags"].values():
        order = [*dag["after"]]
        assert [*dag["tasks"]] == order
        for task, before in dag["after"].items():
            assert all(order.index(other) < order.index(task) for other in before)
            reads = set(stages.upstream(task)) if task in stages.tasks() else set()
            assert reads - set(before) <= {"world", "capstone"} - {raw}


def test_a_plan_is_json_of_plain_commands_that_the_command_line_knows():
    planned = json.loads(json.dumps(plan("env.platform.yaml")))

    known = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    for dag in planned["dags"].values():
        for command in dag["tasks"].values():
            program, verb, *_ = shlex.split(command)
            assert program == "mlops-course" and verb in known
    assert {dag["pool"] for name, dag in planned["dags"].items() if name != "training"} == {"default_pool"}
    assert planned["dags"]["training"]["pool"] == orchestration.POOL


def test_the_name_of_an_environment_is_quoted_for_the_shell(tmp_path, monkeypatch):
    file = tmp_path / "env of $HOME's.yaml"
    file.write_text((project.root() / "env.yaml").read_text(encoding="utf-8"), encoding="utf-8")

    commands = [command for dag in plan(str(file))["dags"].values() for command in dag["tasks"].values()]

    assert all(shlex.split(command)[-1] == str(file) for command in commands)


def test_a_company_without_a_stage_that_makes_raw_files_begins_with_its_data():
    assert stages_for("features", None) == {"data": [], "features": ["data"]}


@pytest.mark.parametrize("good", ["@hourly", "@monthly", "30 2 * * *", "*/15 8-18 1,15 * 1-5", "0 0 31 12 7"])
def test_a_schedule_is_written_as_cron_does(good):
    assert OrchestrationSettings(training=good).training == good


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "hourly",
        "each hour",
        "60 * * * *",
        "* 24 * * *",
        "* * 32 * *",
        "* * * 13 *",
        "* * * *",
        "* * * * * *",
        "a b c d e",
        "*/0 * * * *",
        ",, * * * *",
        "5-1 * * * *",
        "* * 0 * *",
        "0 0 31 2 *",
    ],
)
def test_what_is_no_schedule_is_refused_in_words(bad):
    with pytest.raises(project.UserError, match="no schedule: write @hourly, @daily, or as cron does"):
        project.validated(OrchestrationSettings, {"training": bad}, "the section")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retries", -1),
        ("retries", 1.5),
        ("retry_seconds", 0),
        ("timeout_seconds", float("nan")),
        ("late_seconds", -1),
        ("start", "2026-01-01"),
        ("when", 1),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(name, value):
    with pytest.raises(project.UserError, match=name):
        project.validated(OrchestrationSettings, {name: value}, "the section")


def test_each_further_wait_is_twice_as_long_and_the_defaults_stand_the_night_of_the_lesson():
    text = (project.root() / "platform/airflow/dags/course.py").read_text(encoding="utf-8")
    [factor] = [
        value.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "retry_exponential_backoff"
    ]
    assert factor == 2 and not isinstance(factor, bool)  # for Airflow 3 it is a factor: True would be 1, and no wait would grow

    settings = OrchestrationSettings()
    waits = [min(settings.retry_seconds * factor**number, settings.retry_most_seconds) for number in range(settings.retries)]
    assert sum(waits) >= 25 * 60 and settings.timeout_seconds >= 80 * 60  # the night of lesson 70


def test_a_first_wait_is_not_longer_than_the_longest():
    with pytest.raises(project.UserError, match="retry_most_seconds: less than retry_seconds"):
        project.validated(OrchestrationSettings, {"retry_seconds": 600, "retry_most_seconds": 1}, "the section")


def test_cron_does_not_end_a_command_at_a_percent_sign():
    assert r"cd '/srv/100 \% x'" in crontab(plan("env.platform.yaml"), "/srv/100 % x")


def test_an_order_of_another_stage_than_training_is_refused():
    result = CliRunner().invoke(cli.app, ["stage", "data", "--order", '{"case": "0001-1"}', "--env", "env.test.yaml"])

    assert "an order is of a training, and not of the stage data" in (result.output + str(result.exception))


def test_a_crontab_has_a_line_for_each_dag_with_a_schedule_and_lets_none_run_twice(tmp_path):
    planned = plan("env.platform.yaml")
    planned["dags"]["training"]["schedule"] = None

    lines = crontab(planned, "/srv/the course").splitlines()

    assert [line.split()[0] for line in lines] == ["@hourly", "@hourly"]
    assert all("cd '/srv/the course' && flock -n out/" in line for line in lines)
    assert "mlops-course stage features" in lines[0]


def test_a_stage_that_is_not_there_is_named_with_those_that_are():
    result = CliRunner().invoke(cli.app, ["stage", "dta", "--env", "env.test.yaml"])

    assert isinstance(result.exception, project.UserError) or result.exit_code == 1
    assert "there is no stage 'dta'; there are world, capstone, data" in (result.output + str(result.exception))


PLACES = {"queue": "redis://queue:6378/1", "database": "postgresql://database/airflow", "namespace": "mlops", "repository": "images/course"}
PLACES |= {"tag": "7", "folder": "/srv/course", "claim": "out"}


@pytest.mark.parametrize("executor", executors.EXECUTORS)
def test_nothing_is_left_open_in_the_settings_of_another_executor(executor):
    settings = executors.settings_of(executor, PLACES)

    assert settings["core"]["executor"] == f"{executor.capitalize()}Executor"
    assert "$" not in json.dumps(settings)
    variables = executors.variables_of(settings)
    assert all(re.fullmatch(r"AIRFLOW__[A-Z_]+__[A-Z_]+", name) for name in variables)
    with pytest.raises(project.UserError, match=f"platform/airflow/{executor}.cfg wants to know"):
        executors.settings_of(executor, {})


@given(st.text(alphabet=string.ascii_lowercase + string.digits, min_size=1, max_size=20))
def test_a_pod_is_not_root_and_writes_nowhere_but_to_its_volumes(name):
    pod = yaml.safe_load(executors.pod({**PLACES, "claim": f"claim-{name}"}))

    [container] = pod["spec"]["containers"]
    assert container["name"] == "base" and container["image"] == "images/course:7"
    assert pod["spec"]["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["spec"]["volumes"]}
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == f"claim-{name}"


def test_what_airflow_loads_imports_the_standard_library_yaml_and_airflow_alone():
    files = sorted((project.root() / "platform/airflow").glob("*/*.py"))
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}

    assert [file.name for file in files] == ["course.py", "late.py"]
    assert {name.partition(".")[0] for name in names} - sys.stdlib_module_names <= {"yaml", "airflow"}
