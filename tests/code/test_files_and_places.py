"""Commands where a file, a folder, a link, a port or an environment is not as it should be: one message, and no traceback."""

import errno
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlops_course import cli, project, supervision

COMMAND = str(Path(sys.executable).with_name("mlops-course"))


def command(*words: str, folder: Path | None = None, prefix: tuple[str, ...] = (), **variables: str) -> subprocess.CompletedProcess:
    "A command as a person types it."
    ours = {**os.environ, **variables}
    return subprocess.run(
        [*prefix, COMMAND, *words], cwd=folder or project.root(), env=ours, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture
def checkout(tmp_path) -> Path:
    "What a command needs of a project, with an out of its own."
    for name in ["pipeline.yaml", "settings.ini", *(path.name for path in project.root().glob("env*.yaml"))]:
        shutil.copy(project.root() / name, tmp_path / name)
    for name in ("notebooks", "projects"):
        shutil.copytree(project.root() / name, tmp_path / name)
    return tmp_path


# Who has named the environment


@pytest.mark.parametrize(
    ("words", "variable", "named"),
    [
        (["--env", "env.moon.yaml"], None, "--env"),
        (["--env", "test"], None, "--env"),
        (["--env", ""], None, "--env"),
        (["--env", "no/such/env.yaml"], None, "--env"),
        (["--env", "/no/such/env.yaml"], "env.test.yaml", "--env"),
        ([], "env.moon.yaml", "PLOOMBER_ENV_FILENAME"),
        ([], "production", "PLOOMBER_ENV_FILENAME"),
    ],
)
def test_an_error_about_an_environment_says_who_has_named_it(monkeypatch, words, variable, named):
    monkeypatch.delenv("PLOOMBER_ENV_FILENAME") if variable is None else monkeypatch.setenv("PLOOMBER_ENV_FILENAME", variable)

    answer = CliRunner().invoke(cli.app, ["status", *words])

    assert answer.exit_code == 1 and len(answer.output.splitlines()) == 1
    assert "no environment" in answer.output and "env.test.yaml" in answer.output and named in answer.output.partition("It was named by")[2]


@pytest.mark.parametrize("form", ["{name}", "./{name}", "{root}/{name}", "../notebooks/../{name}"])
def test_an_environment_may_be_named_by_a_path(monkeypatch, form):
    monkeypatch.chdir(project.root() / "notebooks")
    seen = []
    monkeypatch.setattr(cli, "summary", lambda file: seen.append(file) or "")
    monkeypatch.setattr(cli.stages, "stale", lambda file: {})

    answer = CliRunner().invoke(cli.app, ["status", "--env", form.format(name="env.seed.yaml", root=project.root())])

    assert answer.exit_code == 0, answer.output
    assert seen == ["env.seed.yaml"]  # as Ploomber takes it


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_build_by_an_environment_in_another_folder_is_refused_in_a_line_that_says_where_it_lies(tmp_path, monkeypatch, by_variable):
    (tmp_path / "e.env.yaml").write_text(f"name: x\nout: {tmp_path}/out\nproject: projects/flights.yaml\n", encoding="utf-8")
    file = str(tmp_path / "e.env.yaml")
    if by_variable:
        monkeypatch.setenv("PLOOMBER_ENV_FILENAME", file)

    answer = CliRunner().invoke(cli.app, ["run", *([] if by_variable else ["--env", file])])

    assert answer.exit_code == 1 and len(answer.output.splitlines()) == 1, answer.output
    assert file in answer.output and "lies beside pipeline.yaml, and its name has no folder" in answer.output


def test_a_build_by_an_environment_in_another_folder_is_refused_where_its_stages_have_run_already(tmp_path, monkeypatch):
    (tmp_path / "e.env.yaml").write_text(f"name: x\nout: {tmp_path}\nproject: projects/flights.yaml\n", encoding="utf-8")
    (tmp_path / "made").mkdir()
    monkeypatch.setattr(cli, "build", lambda file: pytest.fail("Ploomber would have been started"))

    answer = CliRunner().invoke(cli.app, ["run", "--env", str(tmp_path / "e.env.yaml")])

    assert answer.exit_code == 1 and "has no folder" in answer.output and len(answer.output.splitlines()) == 1, answer.output


def test_an_empty_variable_is_none(monkeypatch):
    monkeypatch.setenv("PLOOMBER_ENV_FILENAME", "")

    assert project.environment().name == "dev"


# Files


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("words", [["status"], ["progress"], ["stop"], ["logs"], ["run"], ["trace", "champion"], ["serve"]])
def test_a_file_that_cannot_be_used_is_one_line_with_its_path(monkeypatch, words, number):
    def fails(*_, **__):
        raise OSError(number, os.strerror(number), str(project.root() / "out/dev/logs/a.jsonl"))

    for module, name in [(cli, "summary"), (cli.stages, "stale"), (cli, "_mlflow"), (cli, "_service"), (supervision, "stop_all")]:
        monkeypatch.setattr(module, name, fails)
    monkeypatch.setattr(cli.search, "log_files", fails)
    monkeypatch.setattr("mlops_course.exercises.show_progress", fails)

    answer = CliRunner().invoke(cli.app, words)

    assert answer.exit_code == 1 and len(answer.output.splitlines()) == 1
    assert f"out/dev/logs/a.jsonl cannot be used ({os.strerror(number)}): " in answer.output


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_needs_no_name(number):
    fault = cli.file_fault(OSError(number, os.strerror(number)), Path("out"))

    assert cli.explained(fault).startswith(os.strerror(number))


@pytest.mark.parametrize(
    "error", [KeyError("a"), FileNotFoundError(2, "No such file", "out/a"), BrokenPipeError(32, "Broken pipe"), OSError("x")]
)
def test_what_is_no_fault_of_the_machine_keeps_its_stack(monkeypatch, error):
    def fails(file):
        raise error

    monkeypatch.setattr(cli, "summary", fails)

    assert cli.file_fault(error, Path("out")) is None
    assert isinstance(
        CliRunner().invoke(cli.app, ["status"]).exception, type(error) if not isinstance(error, BrokenPipeError) else SystemExit
    )


def test_a_database_in_a_folder_that_is_not_there_is_a_fault_of_a_file_under_the_error_of_a_library(tmp_path):
    from sqlalchemy import create_engine
    from sqlalchemy.exc import OperationalError

    with pytest.raises(OperationalError) as wrapped:
        create_engine(f"sqlite:///{tmp_path}/nowhere/mlflow.db").connect()

    fault = cli.file_fault(wrapped.value, tmp_path)

    assert isinstance(fault, PermissionError) and "unable to open database file" in cli.explained(fault)


def test_an_error_of_sql_is_ours(tmp_path):
    with pytest.raises(sqlite3.OperationalError) as error, sqlite3.connect(tmp_path / "a.db") as db:
        db.execute("SELECT nonsense")

    assert cli.file_fault(error.value, tmp_path) is None


@pytest.fixture
def foreign(checkout) -> tuple[str, ...]:
    "An out that this user may read and not write; the words before a command without which the super-user may all the same."
    out = checkout / "out"
    for name in ("test/logs", "test/services", "test/mlflow"):
        (out / name).mkdir(parents=True)
    (out / "test/logs/pipeline.jsonl").write_text('{"time": "2026-03-16T01:00:00Z", "level": "info", "event": "stage started"}\n')
    with sqlite3.connect(out / "test/mlflow/mlflow.db") as db:
        db.execute("CREATE TABLE a (b)")
    if os.geteuid():
        for folder in [out, *out.rglob("*")]:
            folder.chmod(0o555)
        yield ()
        for folder in [out, *out.rglob("*")]:
            folder.chmod(0o755)
    else:
        for path in [out, *out.rglob("*")]:
            os.chown(path, 65534, 65534)
        yield ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner,-chown")


@pytest.mark.parametrize(
    "words", ["run", "run --env env.yaml", "serve", "monitor", "retrain-on-alert", "live --env env.live.yaml", "trace champion"]
)
def test_an_out_of_another_user_ends_in_one_message(checkout, foreign, words):
    done = command(*words.split(), folder=checkout, prefix=foreign)

    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
    assert "Permission denied" in done.stderr and "out/" in done.stderr


@pytest.mark.parametrize("words", ["logs", "progress"])
def test_an_out_of_another_user_can_be_read(checkout, foreign, words):
    shutil.copytree(project.root() / "mlops_course", checkout / "mlops_course")

    done = command(*words.split(), folder=checkout, prefix=foreign, PYTHONPATH=str(checkout))

    assert done.returncode == 0, done.stderr


# Links, and other checkouts


@pytest.mark.parametrize(
    "words", ["status", "run", "serve", "monitor", "retrain-on-alert", "live --env env.live.yaml", "ui", "logs", "trace a"]
)
def test_an_out_that_is_a_link_to_nothing_is_one_line_and_nothing_is_made(checkout, tmp_path, monkeypatch, words):
    monkeypatch.chdir(checkout)
    (checkout / "out").symlink_to(tmp_path / "disk")

    answer = CliRunner().invoke(cli.app, words.split())

    assert answer.exit_code == 1
    assert answer.output == f"out is a link to {tmp_path}/disk, which is not there: make that folder, or remove the link\n"
    assert not (tmp_path / "disk").exists()


def test_a_file_in_the_place_of_out_is_one_line(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    (checkout / "out").touch()

    answer = CliRunner().invoke(cli.app, ["serve"])

    assert answer.exit_code == 1 and "out is no folder, and one is needed there: move it away\n" in answer.output


def test_the_command_of_another_checkout_does_not_run(checkout):
    (checkout / "mlops_course").mkdir()

    done = command("status", folder=checkout)

    assert done.returncode == 1
    assert f"this checkout is {checkout}, and the command is of {project.root()}: `make setup`" in done.stderr


def test_packages_of_another_python_are_not_taken(tmp_path):
    for name in ("typer", "yaml", "pydantic"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('foreign')")

    done = command("--help", PYTHONPATH=str(tmp_path))

    assert done.returncode == 0 and "foreign" not in done.stderr, done.stderr


# The port of MLflow


def test_a_port_that_was_asked_for_and_is_taken_is_one_line_that_says_who_has_it(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    (checkout / "out/test/mlflow").mkdir(parents=True)
    (checkout / "out/test/mlflow/mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]

        answer = CliRunner().invoke(cli.app, ["ui", "--port", str(port)])

    assert answer.exit_code == 1 and f"MLflow cannot have port {port}: " in answer.output and f"process {os.getpid()}" in answer.output


def test_a_folder_without_runs_is_one_line(checkout, monkeypatch):
    monkeypatch.chdir(checkout)

    answer = CliRunner().invoke(cli.app, ["ui", "--folder", "notebooks"])

    assert answer.exit_code == 1 and "no runs in notebooks" in answer.output and not (checkout / "notebooks/mlflow.db").exists()
