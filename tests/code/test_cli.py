"""The command line: what is said when there is nothing, when something has changed, and when it fails."""

import json
import os
import re
import shlex
import shutil
import socket
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mlops_course import cli, project, services, stages, supervision, web
from mlops_course.files import file_digest, locked, write_json


@pytest.fixture
def out(tmp_path, monkeypatch):
    "The folder of an environment in which two stages have left a file each."
    environment = project.environment().model_copy(update={"out": tmp_path})
    monkeypatch.setattr(cli.project, "environment", lambda file=None: environment)
    for name in stages.tasks():
        ran = stages.runs(name, environment)
        write_json(tmp_path / f"made/{name}.json", {"stage": name, "files": {}, "folders": [], "ran": ran})
    for stage, file in [("world", "raw/a.parquet"), ("data", "data/b.parquet")]:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(stage)
        made = {"stage": stage, "files": {file: file_digest(tmp_path / file)}, "folders": [], "ran": stages.runs(stage, environment)}
        write_json(tmp_path / f"made/{stage}.json", made)
    write_json(tmp_path / "made/build.json", {"fingerprint": stages.fingerprint("env.test.yaml")})
    return tmp_path


def test_a_build_that_nobody_has_touched_is_current(out):
    assert stages.stale("env.test.yaml") == {}


def test_a_file_that_was_lost_or_altered_makes_its_stage_stale(out):
    (out / "raw/a.parquet").unlink()
    (out / "data/b.parquet").write_text("altered")

    assert stages.stale("env.test.yaml") == {"world": ["raw/a.parquet"], "data": ["data/b.parquet"]}


def test_a_stage_that_was_begun_and_not_ended_is_stale(out):
    (out / "made/features.json").unlink()

    assert list(stages.stale("env.test.yaml")) == ["features"]


def test_a_build_that_was_broken_off_between_two_stages_is_stale(out):
    (out / "made/build.json").unlink()

    assert list(stages.stale("env.test.yaml")) == ["build"]


@pytest.fixture
def ploomber(tmp_path_factory, monkeypatch):
    "Write the program that `run` starts as `ploomber`; it knows $OUT and the run's name."
    folder = tmp_path_factory.mktemp("bin")
    monkeypatch.setattr(cli.sys, "executable", str(folder / "python"))

    def write(script: str) -> None:
        (folder / "ploomber").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "ploomber").chmod(0o755)

    return write


STARTED = """printf '{"event": "stage started", "stage": "data", "run": "%s"}\\n' $MLOPS_COURSE_RUN >> "$OUT/logs/pipeline.jsonl"\n"""


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            STARTED + "echo 'OSError: [Errno 28] No space left on device: x'; exit 1",
            "stage data stopped: could not write .*the disk is full .* are free",
        ),
        ("echo 'sqlite3.OperationalError: database or disk is full'; exit 1", "the build stopped: could not write .*the disk is full"),
        ("echo 'OSError: [Errno 27] File too large'; exit 1", "the build stopped: could not write .*File too large"),
        (
            STARTED + "echo 'nbclient.exceptions.DeadKernelError: Kernel died'; exit 1",
            "stage data stopped: it was killed, .* memory .* GB are free now",
        ),
        ("kill -KILL $$", "the build stopped: it was killed, .* memory"),
        (STARTED + "kill -TERM $$", "stage data stopped: it was ended by SIGTERM"),
        (STARTED + r"printf '\033[31mUserError\033[39m: do this\n'; exit 1", "stage data stopped: do this"),
        (
            "echo 'first'; echo 'something that nobody knows'; exit 1",
            "before a stage could say why; the end of .*ploomber.log:\nfirst\nsomething",
        ),
        (
            r"printf '\342\224'; dd if=/dev/zero bs=9 count=1 2>/dev/null; printf '\224 end'; exit 1",
            "before a stage could say why(.|\n)* end",
        ),
    ],
)
def test_a_build_that_dies_says_why_in_one_message(out, ploomber, monkeypatch, script, message):
    monkeypatch.setenv("OUT", str(out))
    ploomber(script)
    (out / "made/build.json").unlink()

    result = CliRunner().invoke(cli.app, ["run", "--env", "env.test.yaml"])

    assert result.exit_code == 1 and re.search(message, result.output), result.output
    assert (out / "logs/ploomber.log").is_file() and not (out / "made/build.json").exists()


def test_all_faults_of_all_sections_are_said_before_a_stage_runs(out, ploomber, monkeypatch):
    wrong = {
        "training": {"test_days": "three"},
        "features": {"ttl_hours": {"statoins": 168}},
        "batch": {"request": {"path": "${NOWHERE_AT_ALL}/x.csv", "owner": "me"}},
        "serving": {"port": -1},
    }
    environment = project.environment().model_copy(update=wrong)
    monkeypatch.setattr(cli.project, "environment", lambda file=None: environment)
    ploomber("exec sleep 60")
    began = time.monotonic()

    result = CliRunner().invoke(cli.app, ["run", "--env", "env.test.yaml"])

    named = [
        "  training.test_days: ",
        "  serving.port: ",
        "  features.ttl_hours names statoins",
        "  ${NOWHERE_AT_ALL}/x.csv: the environment",
    ]
    lines = result.output.splitlines()
    assert result.exit_code == 1 and lines[-5] == "settings that cannot be used, in env.test.yaml:", result.output
    assert all(line.startswith(start) for line, start in zip(lines[-4:], named, strict=True)), result.output
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("hours", [-5, 0, float("nan"), {"statistics": -1}])
def test_features_that_count_for_no_time_are_refused(out, monkeypatch, hours):
    environment = project.environment().model_copy(update={"features": {"ttl_hours": hours}})
    monkeypatch.setattr(cli.project, "environment", lambda file=None: environment)

    with pytest.raises(project.UserError, match="in env.test.yaml:\n  features.ttl_hours"):
        cli.check_sections("env.test.yaml")


@pytest.mark.parametrize("file", sorted(path.name for path in project.root().glob("env*.yaml")))
def test_the_environments_of_the_course_have_no_such_fault(monkeypatch, file):
    monkeypatch.setenv("SEED_DATA", "somewhere")

    cli.check_sections(file)


def test_a_log_that_is_torn_while_it_is_read_stops_no_build(out, ploomber, monkeypatch):
    monkeypatch.setenv("OUT", str(out))
    (out / "made/build.json").unlink()
    ploomber(
        f"""printf '{{"half": "%s\\377}}\\n' $MLOPS_COURSE_RUN >> "$OUT/logs/pipeline.jsonl"\n{STARTED}echo UserError: the end; exit 1"""
    )

    assert "stage data stopped: the end" in CliRunner().invoke(cli.app, ["run", "--env", "env.test.yaml"]).output


@pytest.mark.parametrize("stale", [True, False])
def test_a_run_beside_another_build_says_who_builds_and_disturbs_nothing(out, ploomber, monkeypatch, stale):
    ploomber("echo this must not start; exit 1")
    (out / "logs").mkdir()
    (out / "logs/ploomber.log").write_text("of the other one")
    monkeypatch.setattr(cli, "summary", lambda file: "the summary")
    if stale:
        (out / "data/b.parquet").unlink()

    with locked(out / "logs/.build.lock", "a build of it"):
        result = CliRunner().invoke(cli.app, ["run", "--env", "env.test.yaml"])

    assert f"a build of it runs already: process {os.getpid()} (" in result.output if stale else result.output == "the summary\n"
    assert (out / "logs/ploomber.log").read_text() == "of the other one"


def test_what_a_person_has_set_for_her_own_python_does_not_reach_a_build(out, ploomber, monkeypatch):
    for name in stages.PERSONAL:
        monkeypatch.setenv(name, "of her own")
    ploomber("echo UserError: $(env | grep -c 'of her own'); exit 1")
    (out / "data/b.parquet").unlink()

    assert "stopped: 0" in CliRunner().invoke(cli.app, ["run", "--env", "env.test.yaml"]).output


def test_many_changes_are_counted_and_each_is_said_once(out, monkeypatch):
    monkeypatch.setattr(cli, "summary", lambda file: "")
    made = {"stage": "data", "files": {f"data/{i}": "" for i in range(9)}, "folders": ["data/1"]}
    made["ran"] = stages.runs("data", project.environment())
    write_json(out / "made/data.json", made)

    result = CliRunner().invoke(cli.app, ["status", "--env", "env.test.yaml"])

    assert "Changed    data: data/0, data/1, data/2, data/3, data/4, data/5 and 3 more" in result.output


def test_status_names_what_runs_how_it_is_and_where_its_log_is(out, monkeypatch):
    states = [
        ("live", "running", 7, 0, True),
        ("old", "stopped", None, 9000, False),
        ("redis", "running", 9, 6390, True),
        ("serving", "running", 8, 8173, False),
    ]
    monkeypatch.setattr(cli, "summary", lambda file: "")
    monkeypatch.setattr(cli.supervision, "states", lambda folder: [supervision.State(*state) for state in states])
    monkeypatch.setattr(cli.supervision, "memory_of", lambda pid: pid * 10**6)
    monkeypatch.setattr(cli.programs, "version_of", {"redis-server": "7.0.15", "mlops-course": "0.1.0"}.get)
    (out / "logs").mkdir()
    (out / "logs/serving.jsonl").touch()

    result = CliRunner().invoke(cli.app, ["status", "--env", "env.test.yaml"]).output

    assert [line for line in result.splitlines() if line.startswith("Running")] == [
        "Running    live, 7 MB",
        "Running    redis 7.0.15, 127.0.0.1:6390, healthy, 9 MB",
        f"Running    serving 0.1.0, http://127.0.0.1:8173, not ready, 8 MB, log in {project.shown(out / 'logs/serving.jsonl')}",
    ]


def test_services_are_named_before_anything_is_built_too(tmp_path, monkeypatch):
    environment = project.environment().model_copy(update={"out": tmp_path})
    monkeypatch.setattr(cli.project, "environment", lambda file=None: environment)
    monkeypatch.setattr(cli.supervision, "states", lambda folder: [supervision.State("redis", "running", os.getpid(), 6390, True)])

    result = CliRunner().invoke(cli.app, ["status"])

    assert result.exit_code == 1 and "nothing was built" in result.output
    assert re.search("^Running    redis.*, 127.0.0.1:6390, healthy, [0-9]+ MB$", result.output, re.MULTILINE)


def test_before_the_first_build_the_message_says_how_to_make_one(tmp_path, monkeypatch):
    environment = project.environment().model_copy(update={"out": tmp_path})
    monkeypatch.setattr(cli.project, "environment", lambda file=None: environment)

    for command in (["status"], ["trace", "champion"], ["rollback"], ["reproduce", "0" * 32], ["ui"]):
        result = CliRunner().invoke(cli.app, command)

        assert result.exit_code == 1 and "`make run ENV=env.test.yaml` makes" in result.output, command


def test_a_fault_in_our_own_code_keeps_its_stack(monkeypatch):
    monkeypatch.setattr(cli, "summary", lambda file: {}["no such thing"])

    assert isinstance(CliRunner().invoke(cli.app, ["status"]).exception, KeyError)


def test_a_command_without_words_lists_the_commands():
    result = CliRunner().invoke(cli.app, [])

    for command in ["run", "status", "trace", "rollback", "reproduce", "progress", "ui"]:
        assert command in result.output


# Which environment is meant, and commands that can be typed as they are printed


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    "A project with two environments, and no variable that names one."
    for name in ("pipeline.yaml", "settings.ini"):
        (tmp_path / name).write_bytes((project.root() / name).read_bytes())
    shutil.copytree(project.root() / "projects", tmp_path / "projects")
    (tmp_path / "env.yaml").write_text("name: dev\nout: out/dev\n")
    (tmp_path / "env.my own.yaml").write_text("name: mine\nout: out/mine\n")
    monkeypatch.delenv("PLOOMBER_ENV_FILENAME")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def used(folder: Path, when: int) -> None:
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    (folder / "logs/pipeline.jsonl").write_text('{"time": "2026-03-16T01:00:00Z", "level": "info", "event": "stage started"}\n')
    os.utime(folder / "logs/pipeline.jsonl", (when, when))


def output_of(*words: str, code: int = 0) -> str:
    answer = CliRunner().invoke(cli.app, words)
    assert answer.exit_code == code, answer.output
    return answer.output


def test_the_first_line_names_the_environment_and_another_one_that_was_used_later(mine):
    used(mine / "out/dev", 1_000)
    assert output_of("logs").splitlines()[0] == "Environment dev (env.yaml)"

    used(mine / "out/mine", 2_000)
    assert output_of("logs").splitlines()[0] == "Environment dev (env.yaml); env.my own.yaml was used later: --env 'env.my own.yaml'"
    assert output_of("logs", "--env", "env.my own.yaml").splitlines()[0] == "Environment mine (env.my own.yaml)"

    used(mine / "out/dev", 3_000)
    assert output_of("logs").splitlines()[0] == "Environment dev (env.yaml)"


@pytest.mark.parametrize("words", ["status", "logs", "trace champion", "rollback", "ui"])
def test_where_nothing_is_the_message_makes_it_in_that_environment_and_names_the_one_that_was_used(mine, words):
    used(mine / "out/mine", 2_000)
    (mine / "out/mine/logs/pipeline.jsonl").rename(mine / "out/mine/logs/live.jsonl")

    assert re.search("`make run`.* makes it; env.my own.yaml was used later: --env 'env.my own.yaml'\n$", output_of(*words.split(), code=1))
    if words != "logs":
        assert "`make run ENV='env.my own.yaml'` makes it\n" in output_of(*words.split(), "--env", "env.my own.yaml", code=1)


@pytest.mark.parametrize("name", ["serve", "monitor", "retrain-on-alert"])
def test_a_service_without_a_build_says_in_one_line_what_makes_one(mine, name):
    answer = output_of(name, "--env", "env.my own.yaml", "--port", str(services.free_port()), code=1)

    assert answer == "no models in out/mine/mlflow yet: `make run ENV='env.my own.yaml'` makes them\n"


@pytest.mark.parametrize(
    ("command", "old", "new"), [("serve", "explore", "epsilon"), ("retrain-on-alert", "pause_hours", "cooldown_hours")]
)
def test_a_setting_that_is_given_under_its_old_name_is_refused_with_the_new_one(mine, command, old, new):
    assert output_of(command, "--set", f"{old}=1", code=1) == f"--set {old}: this setting is now {new}\n"


def test_a_printed_command_of_ours_is_found_without_an_active_environment(mine):
    assert cli._typed("trace r-1", "env.yaml") == "mlops-course trace r-1"
    (mine / ".venv/bin").mkdir(parents=True)
    (mine / ".venv/bin/mlops-course").touch()

    assert shlex.split(cli._typed("trace r-1", "env.my own.yaml")) == [".venv/bin/mlops-course", "trace", "r-1", "--env", "env.my own.yaml"]


@pytest.mark.parametrize("program", [None, "alertmanager", "prometheus-alertmanager"])
def test_the_live_company_names_taken_ports_and_missing_programs_before_it_builds(mine, monkeypatch, program):
    shutil.copytree(Path(cli.__file__).parents[1] / "platform", mine / "platform")
    there = mine / "programs"
    there.mkdir()
    for name in filter(None, [program]):
        (there / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(there))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = yaml.safe_load((Path(cli.__file__).parents[1] / "env.live.yaml").read_text(encoding="utf-8"))
        settings["world"] |= {"drivers": 20, "days": 9}
        settings["serving"]["port"] = port
        settings |= {name: {"port": services.free_port()} for name in ("monitoring", "retraining")}
        settings["live"] |= {f"{name}_port": services.free_port() for name in ("prometheus", "alertmanager")}
        (mine / "env.live.yaml").write_text(yaml.safe_dump(settings))

        answer = output_of("live", code=1)

    missing = ["prometheus", *([] if program else ["alertmanager"])]
    assert f"service serving cannot have port {port}: the program" in answer
    assert all(f"service {name} needs the program" in answer for name in missing)
    assert len(answer.splitlines()) == 1 + len(missing) and not (mine / "out/live/made").exists()


# Words and addresses that cannot be


@pytest.mark.parametrize("command", ["trace", "reproduce"])
@pytest.mark.parametrize(
    ("word", "message"), [("", "the word is empty: give .*a run id"), ("a\udcff", "is no text"), ("a\0", "is no text")]
)
def test_an_odd_word_is_answered_in_one_line(mine, command, word, message):
    (mine / "out/dev/mlflow").mkdir(parents=True)
    (mine / "out/dev/mlflow/mlflow.db").touch()
    answer = output_of(command, word, code=1)

    assert re.search(message, answer) and len(answer.splitlines()) == 1, answer


def test_a_request_id_with_control_characters_is_traced_in_its_line(mine, monkeypatch):
    from mlops_course import registry

    name = "a\nb\r\x1b[2Kc"
    entry = {"time": "2026-03-16T08:00:00Z", "request_id": name, "run_id": name, "candidates": [{"driver_id": 1, "score": name}]}
    (mine / "out/dev/mlflow").mkdir(parents=True)
    (mine / "out/dev/mlflow/mlflow.db").touch()
    (mine / "out/dev/serving/predictions").mkdir(parents=True)
    (mine / "out/dev/serving/predictions/2026-03-16.jsonl").write_text(json.dumps(entry) + "\n")
    monkeypatch.setattr(registry, "connect", lambda *folder: None)
    monkeypatch.setattr(registry, "trace", lambda client, which: {"run_id": which})

    lines = output_of("trace", name).splitlines()

    assert [line.count(r"a\nb\r\x1b[2Kc") for line in lines] == [0, 0, 1, 1, 0, 1, 0, 1], lines


@pytest.mark.parametrize("name", ["serve", "monitor", "retrain-on-alert"])
def test_a_taken_port_is_refused_before_a_service_loads_with_one_cure(mine, monkeypatch, name):
    monkeypatch.setattr(cli.importlib, "import_module", lambda module: pytest.fail(f"{module} was loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = output_of(name, "--port", str(port), code=1)

    assert f"port {port} of 127.0.0.1 cannot be used: " in answer and f"(process {os.getpid()}) has it" in answer
    assert answer.lower().count("choose another") == 1 and len(answer.splitlines()) == 1, answer


@pytest.mark.parametrize("host", ["", "nonsense", "256.0.0.1", "192.0.2.1", "a b", "2001:db8::1", "x" * 300, "ü" * 99])
@pytest.mark.parametrize("key", ["", "a key"])
def test_a_host_that_is_none_of_this_machine_is_called_so(mine, monkeypatch, host, key):
    monkeypatch.setenv(web.KEY, key)
    answer = output_of("serve", "--host", host, "--port", str(services.free_port()), code=1)

    assert "is no address of this machine" in answer and "other machines" not in answer and len(answer.splitlines()) == 1, answer


@pytest.mark.parametrize("port", ["0", "-1", "65536", "99999999999999999999", "٣", "nine"])
@pytest.mark.parametrize("name", ["serve", "monitor"])
def test_a_port_that_cannot_be_is_refused_without_a_stack(mine, name, port):
    answer = CliRunner().invoke(cli.app, [name, "--port", port])

    assert answer.exit_code in (1, 2) and isinstance(answer.exception, SystemExit), answer.output
