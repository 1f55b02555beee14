"""Where an environment has its runs and models: what its file may say, what its folder says then, and what a build makes of it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mlops_course import project, registry, remote, stages, tracking, web
from mlops_course.project import Environment, UserError


class Answering(BaseHTTPRequestHandler):
    "Answers each path of MLflow's interface as its server says: a status, and a text."

    def do_GET(self):
        path = self.path.partition("?")[0].removeprefix("/api/2.0/mlflow/")
        status, text = self.server.answers.get(path, (404, '{"error_code": "RESOURCE_DOES_NOT_EXIST"}'))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *about):
        pass


@pytest.fixture
def server():
    "A server that says that nothing is there, but for what a test lets it say."
    made = HTTPServer(("127.0.0.1", 0), Answering)
    made.answers, made.address = {}, f"http://127.0.0.1:{made.server_port}"
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def environment(out, uri=None, **more) -> Environment:
    return project.environment("env.test.yaml", out=str(out), mlflow={"uri": uri, **more})


@pytest.mark.parametrize(
    ("section", "wrong"),
    [
        ({"uri": "postgresql://127.0.0.1/mlflow"}, "uri: URL scheme should be 'http' or 'https'"),
        ({"uri": "http://me:a word@127.0.0.1:5000"}, "no user and no password"),
        ({"uri": "http://127.0.0.1:5000", "port": 5001}, "port 5001 is not that of http://127.0.0.1:5000/: change it there alone"),
        ({"uri": "127.0.0.1:5000"}, "uri: "),
        ({"url": "http://127.0.0.1:5000"}, "url: "),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_and_no_password_is_shown(section, wrong):
    with pytest.raises(UserError, match=wrong) as error:
        remote.server_of(Environment(name="page", out="out/page", mlflow=section))

    assert "section `mlflow` of environment page" in str(error.value) and "a word" not in str(error.value)


def test_a_folder_names_its_server_until_it_has_files_again(tmp_path):
    folder = tmp_path / "mlflow"
    assert not remote.is_there(folder)

    remote.point(folder, "http://127.0.0.1:5000")
    assert tracking.registry_in(folder) == remote.Server("http://127.0.0.1:5000") and remote.is_there(folder)

    remote.point(folder, None)
    assert tracking.registry_in(folder) == tracking.Tables(folder) and not remote.is_there(folder)


def test_a_folder_that_was_built_follows_its_environments_file_and_no_other_is_made(tmp_path):
    assert not remote.place_of(environment(tmp_path, "http://127.0.0.1:5000")).exists()

    folder = remote.point(tmp_path / "mlflow", "http://127.0.0.1:5000")
    assert remote.server_in(remote.place_of(environment(tmp_path, "http://127.0.0.1:5001/"))) == "http://127.0.0.1:5001"
    assert remote.server_in(remote.place_of(environment(tmp_path))) is None and folder.exists()


@pytest.mark.parametrize(
    "answer", [(500, "{}"), (200, "<html>"), (404, "<html>not here</html>"), (403, '{"error_code": "PERMISSION_DENIED"}'), (400, "[]")]
)
def test_what_is_no_answer_of_mlflow_is_not_taken_for_one(server, tmp_path, answer):
    folder = remote.point(tmp_path, server.address)
    server.answers["registered-models/alias"] = answer

    with pytest.raises(remote.Unavailable, match=f"^MLflow on {server.address} does not answer: "):
        registry.champion(folder, "page")


def test_an_alias_that_is_not_there_is_no_fault(server, tmp_path):
    folder = remote.point(tmp_path, server.address)
    assert registry.champion(folder, "page") is None

    server.answers["registered-models/alias"] = (400, '{"error_code": "INVALID_PARAMETER_VALUE"}')
    assert registry.champion(folder, "page") is None


def test_a_registry_in_files_that_cannot_be_read_says_so(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database")

    with pytest.raises(remote.Unavailable, match="MLflow's tables cannot be read: file is not a database"):
        registry.champion(tmp_path, "page")


def test_a_service_that_cannot_ask_its_registry_says_503():
    app = FastAPI()
    web.answer_refusals(app)

    @app.get("/")
    def champion():
        raise remote.silent("http://127.0.0.1:9", "Connection refused")

    answer = TestClient(app).get("/")

    assert (answer.status_code, answer.json()) == (503, {"error": "the registry of models does not answer; /ready says why"})


def test_only_training_is_another_one_on_a_server_and_its_port_does_not_matter(tmp_path):
    files, there, moved = (
        environment(tmp_path),
        environment(tmp_path, "http://127.0.0.1:5000"),
        environment(tmp_path, "http://127.0.0.1:5001"),
    )
    without = project.environment("env.test.yaml", out=str(tmp_path))

    changed = [name for name in stages.tasks() if stages.runs(name, files) != stages.runs(name, there)]

    assert changed == ["training"]
    assert stages.runs("training", there) == stages.runs("training", moved)
    assert stages.runs("training", files) == stages.runs("training", without)


def trained(out, run: str) -> None:
    "What a finished training has left."
    for name, value in {"training/decision.json": {"model": {"run_id": run}}, "made/training.json": {"files": {}, "folders": []}}.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(json.dumps(value), encoding="utf-8")


def test_training_is_made_again_when_its_server_has_lost_its_run_and_not_while_nobody_answers(server, tmp_path):
    trained(tmp_path, "abc")
    there, silent = environment(tmp_path, server.address), environment(tmp_path, "http://127.0.0.1:9")
    lost = "its run on the MLflow server"

    assert lost in stages.changed(there, "training")
    assert lost not in stages.changed(there, "data") + stages.changed(silent, "training") + stages.changed(
        environment(tmp_path), "training"
    )
    server.answers["runs/get"] = (200, '{"run": {}}')
    assert lost not in stages.changed(there, "training")


def test_what_is_tried_out_in_the_lab_is_registered_in_files_and_what_is_built_on_the_server(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOPS_COURSE_LAB", str(tmp_path / "lab"))
    there = environment(tmp_path / "out", "http://127.0.0.1:9")
    read, there_too = project.environment, {"out": str(tmp_path / "out"), "mlflow": {"uri": "http://127.0.0.1:9"}}
    monkeypatch.setattr(project, "environment", lambda **changes: read("env.test.yaml", **{**there_too, **changes}))
    product = {name: str(path) for name, path in stages.products("world", there).items()}
    given = there.model_dump(include={"name", "out", "clock", "project", "world"})

    servers = []
    for arguments in [(), (product, {}, given)]:
        with pytest.raises(ZeroDivisionError), stages.stage("world", *arguments) as stage:
            servers.append(remote.server_of(stage.environment))
            raise ZeroDivisionError

    assert servers == [None, "http://127.0.0.1:9"]
