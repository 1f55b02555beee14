"""A registry on an MLflow server is the registry of files: the same models, champions and refusals; and it says when nobody answers."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import company
import pandas as pd
import pytest
from rides import CONTRACT

from mlops_course import cases, project, registry, remote, services, supervision, tracking

pytestmark = pytest.mark.patient


class Server:
    "MLflow's own server on a folder of its own."

    def __init__(self, folder: Path):
        self.folder, port = folder, services.free_port()
        database, self.artifacts = tracking.addresses(folder)
        options = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--serve-artifacts")
        stores = ("--backend-store-uri", database, "--artifacts-destination", self.artifacts)
        self.service = services.Service(
            name="mlflow", command=("mlflow", "server", *options, *stores), port=port, health="/health", seconds=300, variables=remote.QUIET
        )

    def start(self) -> None:
        self.address = supervision.start(self.folder, self.service)

    def stop(self) -> None:
        supervision.stop(self.folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def name(request) -> str:
    "Of a registered model that no other test has."
    return f"page-{abs(hash(request.node.name))}"


def tracked(client, strength: float) -> str:
    run = client.create_run(registry.experiment(client)).info.run_id
    registry.log_model(client, run, company.model(strength), CONTRACT.kinds)
    client.set_terminated(run)
    return run


def registered(folder: Path, name: str, *strengths: float):
    client = registry.connect(folder, name)
    for strength in strengths:
        registry.register(client, tracked(client, strength), f"key {strength}", {"snapshot": f"of {strength}"})
    return client


def story(folder: Path, name: str) -> dict:
    "What is said of a registry in which three versions were promoted, and the last was rolled back."
    client = registered(folder, name, 1.0, 0.1, 0.01)
    promoted = [registry.promote(client, version) for version in "123"]
    back, loaded = registry.rollback(client), registry.load(client)
    named, traced = registry.champion(folder, name), registry.trace(client, "champion")
    assert named == (loaded.run_id, loaded.version) == (traced["run_id"], traced["version"])
    assert tracking.registry_in(folder).run_of(name, "3") == registry.version_of(client, "3").run_id
    again = registry.register(client, tracked(client, 0.1), "key 0.1")
    rows = pd.DataFrame({each: [0.5, 0.1] for each in CONTRACT.features})
    return {
        "promoted": [*promoted, back],
        "digest": loaded.digest,
        "scores": loaded.probability(rows).tolist(),
        "aliases": registry.aliases(client),
        "traced": {n: v for n, v in traced.items() if n not in ("run_id", "promoted", "files_digest")},
        "again": again,
        "rolled back": [cases.rolled_back(folder, version, name) for version in "123"],
    }


def test_what_is_registered_promoted_and_rolled_back_is_the_same_in_files_and_on_a_server(server, tmp_path, name):
    on_server = remote.point(tmp_path / "server/mlflow", server.address)

    assert story(on_server, name) == story(tmp_path / "files/mlflow", name)
    assert sorted(path.name for path in on_server.iterdir()) == ["registry.lock", "server.json"]


def test_nothing_is_loaded_of_a_file_that_was_changed_on_the_server(server, tmp_path, name):
    client = registered(remote.point(tmp_path / "mlflow", server.address), name, 1.0)
    run = registry.version_of(client, "1").run_id
    [file] = Path(server.artifacts).rglob(f"{run}/artifacts/model/model.skops")
    file.write_bytes(file.read_bytes() + b"\0")

    for step in (registry.load, registry.promote):
        with pytest.raises(registry.DigestMismatch, match="model.skops of version 1"):
            step(client, "1")

    file.unlink()
    with pytest.raises(registry.DigestMismatch, match="model.skops of version 1"):
        registry.load(client, "1")


def at_once(folder: Path, name: str) -> None:
    registered(folder, name, 1.0)


def test_two_processes_that_register_one_key_at_once_make_one_version(server, tmp_path, name):
    folder = remote.point(tmp_path / "mlflow", server.address)
    registry.connect(folder, name)
    both = [multiprocessing.get_context("fork").Process(target=at_once, args=(folder, name)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(240)

    assert [process.exitcode for process in both] == [0, 0]
    client = registry.connect(folder, name)
    assert [version.version for version in client.search_model_versions(f"name = '{name}'")] == ["1"]


def test_who_is_champion_is_known_without_mlflow_and_whatever_proxy_is_set(server, tmp_path, name):
    folder = remote.point(tmp_path / "mlflow", server.address)
    client = registered(folder, name, 1.0)
    registry.promote(client, "1")
    code = f"import sys; from mlops_course import registry; print(registry.champion({str(folder)!r}, {name!r}).version, 'mlflow' in sys.modules)"
    proxies = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}

    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **proxies}, capture_output=True, text=True, cwd=project.root(), check=False
    )

    assert done.stdout == "1 False\n", done.stderr


def test_a_server_that_is_gone_is_said_in_one_line_within_seconds_and_asked_again_when_it_is_back(server, tmp_path, name):
    folder = remote.point(tmp_path / "mlflow", server.address)
    registry.promote(registered(folder, name, 1.0), "1")
    asked = [lambda: registry.champion(folder, name), lambda: registry.connect(folder, name), lambda: cases.rolled_back(folder, "1", name)]
    server.stop()
    try:
        began = time.monotonic()
        for each in asked:
            with pytest.raises(remote.Unavailable, match=rf"^MLflow on {server.address} does not answer: .*run.sh mlflow up` starts it$"):
                each()
        took = time.monotonic() - began
    finally:
        server.start()

    assert took < 15
    assert registry.champion(folder, name).version == registry.load(registry.connect(folder, name)).version == "1"
