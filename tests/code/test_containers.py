"""What the platform's containers are given to read, without Docker; tests/system/test_containers.py starts them."""

import os
import re
import stat

import checkouts
import pytest
import yaml

from mlops_course import containers, passwords, project, recipes, services, stack, supervision
from mlops_course.project import UserError

COMPOSE = yaml.safe_load((project.root() / "platform/compose.yaml").read_text(encoding="utf-8"))
NAMES = stack.GROUPS["all"]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(checkouts.checkout(tmp_path))
    (tmp_path / "out/platform/made").mkdir(parents=True)
    (tmp_path / "out/platform/made/build.json").write_text("{}")
    return tmp_path


def written(name: str) -> dict[str, str]:
    "What a container reads, by file."
    containers.FILES[name](containers.Inside())
    folder = containers.written_for("airflow" if name.startswith("airflow") else name)
    return {str(file.relative_to(folder)): file.read_text(encoding="utf-8") for file in folder.rglob("*") if file.is_file()}


def options(words: list[str]) -> set[str]:
    "The names of a command's options."
    return {re.split("[= ]", word)[0] for word in words if word.startswith("--")}


@pytest.mark.parametrize("file", sorted(path.name for path in project.root().glob("env*.yaml")))
@pytest.mark.parametrize("name", containers.OURS)
def test_in_a_container_no_address_is_that_of_the_container_itself(file, name):
    inside = containers.environment_inside(containers.Inside(file), name)

    assert "127.0.0.1" not in str(inside) and "localhost" not in str(inside)
    assert {inside[each]["host"] for each in containers.OURS} == {"0.0.0.0", *containers.OURS} - {name}
    project.Environment.model_validate({**inside, "out": "out/test"})  # it is an environment still


def test_what_is_no_address_stays_as_it_is(checkout):
    own = yaml.safe_load((checkout / "env.platform.yaml").read_text())
    inside = containers.environment_inside(containers.Inside(), "serving")

    same = set(own) - {"mlflow", "features", "stream", *containers.OURS}
    assert {name: inside[name] for name in same} == {name: own[name] for name in same}
    assert inside["features"]["ttl_hours"] == own["features"]["ttl_hours"]


@pytest.mark.parametrize("name", sorted(containers.FILES))
def test_what_a_container_reads_is_for_its_owner_alone_and_has_no_address_of_this_machine(checkout, name):
    files = written(name)

    folder = containers.written_for("airflow" if name.startswith("airflow") else name)
    assert files and {stat.S_IMODE((folder / file).stat().st_mode) for file in files} == {0o600}
    if os.geteuid() == 0:
        assert {(folder / file).stat().st_uid for file in files} == {containers.USER}
    text = "\n".join(files.values())
    for own in ("PLAINTEXT://127.0.0.1:29092,NETWORK", "base_url = http://127.0.0.1", "CONTROLLER://127.0.0.1", "1@127.0.0.1"):
        text = text.replace(own, "")  # what is for this machine, or for the container alone
    assert "127.0.0.1" not in text and str(checkout) not in text


def test_passwords_are_those_of_the_platform_without_containers(checkout):
    files = {name: written(name) for name in ("redis", "postgres", "serving", "jupyterlab", "airflow")}

    assert f"requirepass {passwords.password(passwords.run_env('redis'))}" in files["redis"]["redis.conf"]
    secret = passwords.password(passwords.run_env("postgres"))
    assert f"PASSWORD '{secret}'" in files["postgres"]["first.sql"] and files["serving"]["pgpass"] == f"postgres:*:*:mlops:{secret}\n"
    assert files["jupyterlab"]["password"] == passwords.password(passwords.run_env("jupyterlab"))
    assert passwords.password(passwords.run_env("airflow")) in files["airflow"]["passwords.json"]
    assert (passwords.run_env("postgres") / "pgpass").exists()  # for psql on this machine


@pytest.mark.parametrize("name", sorted({*NAMES} - {"postgres", "kafka", "airflow"}))
def test_a_container_runs_the_command_of_the_recipe(checkout, monkeypatch, name):
    monkeypatch.setattr(recipes, "_ended_well", lambda *_, **__: None)
    monkeypatch.setattr(supervision, "program", lambda service: service.command[0])
    command = recipes.RECIPES[name].prepared(stack.Local()).command
    other = [str(word) for word in COMPOSE["services"][name]["command"]]

    at_home = {"--allow-root"} if name == "jupyterlab" else set()  # no container is root
    there = {"--allowed-hosts"} if name == "mlflow" else set()  # it has a name there
    assert os.path.basename(other[0]) == os.path.basename(command[0])
    assert options(other) - there == options(list(command)) - at_home


def test_each_service_of_the_list_has_a_port_in_the_file_that_the_environment_may_change(checkout):
    given = containers.variables(stack.Containers())

    for name in (*NAMES, "grafana"):
        port = services.SERVICES[name].port
        wanted = [f"127.0.0.1:${{{name.upper()}_PORT:-{port}}}:${{{name.upper()}_PORT:-{port}}}"] if port else None
        assert COMPOSE["services"][name].get("ports") == wanted
        assert port is None or given[f"{name.upper()}_PORT"] == str(recipes.Platform().listed[name].port)


def test_two_checkouts_are_two_platforms(checkout, tmp_path_factory, monkeypatch):
    first = containers.project_name()
    monkeypatch.chdir(checkouts.checkout(tmp_path_factory.mktemp("second")))

    assert containers.project_name() != first


def test_without_docker_it_is_said_what_brings_it(checkout, monkeypatch):
    containers.compose.cache_clear()
    containers.client.cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(UserError, match="needs Docker: `apt-get install docker.io docker-compose`"):
        stack.run("env.platform.yaml", "redis", "up", runtime="docker")
    assert not (passwords.run_env("redis") / "docker").exists()


def test_a_build_in_a_container_knows_no_other_verb(checkout):
    with pytest.raises(UserError, match="knows no verb but up"):
        stack.run("env.platform.yaml", "build", "down", runtime="docker")


def test_a_volume_without_a_docker_that_answers_is_not_taken_for_none(checkout, monkeypatch):
    assert containers.left() == []  # no container has read anything
    containers.FILES["redis"](containers.Inside())
    monkeypatch.setattr(containers, "client", lambda: "false")
    monkeypatch.setattr(containers.shutil, "which", lambda *_, **__: "false")

    with pytest.raises(UserError, match="has failed"):
        containers.left()


def test_a_docker_that_never_answers_has_an_end(checkout, monkeypatch):
    monkeypatch.setattr(containers, "SECONDS", 0.2)
    script = checkout / "docker"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setattr(containers, "client", lambda: str(script))

    with pytest.raises(UserError, match="has not answered within 0.2 seconds"):
        containers.docker("ps")


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_whatever_the_umask_a_container_reaches_its_files(checkout, umask):
    old = os.umask(umask)
    try:
        written("serving")
    finally:
        os.umask(old)

    folder = containers.written_for("serving")
    assert {stat.S_IMODE(place.stat().st_mode) for place in (folder, folder / "redis")} == {0o755}


@pytest.mark.parametrize("out", ["elsewhere", "out/../../elsewhere"])
def test_what_containers_keep_is_below_out(checkout, out):
    file = checkout / "env.platform.yaml"
    file.write_text(file.read_text().replace("out: out/platform", f"out: {out}"))

    with pytest.raises(UserError, match="below out/"):
        containers.Containers().prepare(["redis"])


def test_a_port_of_kafkas_has_room_for_two_more(checkout):
    file = checkout / "env.platform.yaml"
    file.write_text(file.read_text().replace("127.0.0.1:29092", "127.0.0.1:65534"))

    with pytest.raises(UserError, match="take a lower one"):
        written("kafka")


def test_data_named_by_a_variable_is_not_for_a_container(checkout):
    file = checkout / "env.platform.yaml"
    file.write_text(file.read_text().replace("{{out}}/raw/labels.parquet", "${MY_DATA}/labels.parquet"))

    with pytest.raises(UserError, match="does not see the folder of MY_DATA"):
        containers.build(containers.Containers())
