"""The platform's services before any of them runs: names, order, passwords, ports, and what may be taken away."""

import os
import socket
import stat
import threading

import checkouts
import pytest

from mlops_course import containers, passwords, project, recipes, services, stack, supervision, wipe
from mlops_course.project import UserError


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(checkouts.checkout(tmp_path))
    return tmp_path


def change(checkout, old: str, new: str) -> None:
    file = checkout / "env.platform.yaml"
    assert file.read_text().count(old) == 1
    file.write_text(file.read_text().replace(old, new))


# --- names and order --------------------------------------------------------------------------


def test_each_service_of_the_platform_is_in_the_list_of_services():
    assert set(recipes.RECIPES) == set(services.SERVICES) - {"dashboards", "stream", "emitter"}  # which a person starts


def test_redis_in_memory_keeps_nothing_and_listens_on_loopback_alone():
    command = " ".join(recipes.redis_in_memory(7000).command)

    assert "--bind 127.0.0.1" in command and "--port 7000" in command
    assert "--save  " in command and "--appendonly no" in command


@pytest.mark.parametrize("group", stack.GROUPS)
def test_a_group_names_services(group):
    assert set(stack.names_of(group)) <= set(recipes.RECIPES)


def test_grafana_is_a_container_alone_and_what_does_its_job_is_said(checkout):
    with pytest.raises(supervision.MissingProgram, match="as a container alone .*`mlops-course dashboards`"):
        recipes.RECIPES["grafana"].prepared(stack.Local())
    assert "grafana" not in stack.names_of("all")


@pytest.mark.parametrize(
    ("name", "command"), [("elk", "mlops-course logs"), ("jenkins", "make test"), ("build", "make run ENV=env.platform.yaml")]
)
def test_a_group_of_the_seed_course_that_is_not_needed_says_what_does_its_job(checkout, capsys, name, command):
    assert stack.run("env.platform.yaml", name, "up")
    assert command in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mysql", "up"), "the platform has no mysql; there are airflow, airflow_dags"),
        (("redis", "up", True), "--volumes goes with down"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_starts(checkout, arguments, words):
    with pytest.raises(UserError, match=words):
        stack.run("env.platform.yaml", *arguments)

    assert not (checkout / "out").exists()


def test_what_a_service_stands_on_comes_first():
    order = list(stack.ordered(("serving", "kafka")).static_order())

    assert set(order) == {"serving", "kafka", "redis", "mlflow", "postgres"}
    assert order.index("postgres") < order.index("mlflow") < order.index("serving")


# --- passwords --------------------------------------------------------------------------------


def test_a_password_is_made_once_and_only_its_owner_reads_it(tmp_path):
    first = passwords.password(tmp_path)

    assert first == passwords.password(tmp_path) and len(first) >= 32
    assert stat.S_IMODE((tmp_path / "password").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["password"]


def test_two_who_ask_at_once_get_the_same_password(tmp_path):
    secrets, barrier = [], threading.Barrier(8)

    def ask():
        barrier.wait()
        secrets.append(passwords.password(tmp_path))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(secrets) == 8 and len(set(secrets)) == 1


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_password_that_others_may_read_is_refused_with_the_cure(tmp_path, mode):
    passwords.password(tmp_path)
    (tmp_path / "password").chmod(mode)

    with pytest.raises(UserError, match="chmod 600"):
        passwords.password(tmp_path)


def test_a_uri_of_postgresql_names_a_file_and_holds_no_secret(tmp_path):
    uri = passwords.postgres_uri(5433, "feast", tmp_path)

    secret = passwords.password(tmp_path)
    assert secret not in uri and "passfile=" in uri
    assert (tmp_path / "pgpass").read_text() == f"127.0.0.1:*:*:mlops:{secret}\n"
    assert stat.S_IMODE((tmp_path / "pgpass").stat().st_mode) == 0o600


def test_no_password_is_in_a_command_or_a_description(checkout):
    platform, names = recipes.Platform(), ("redis", "mlflow", "feast_ui", "jupyterlab")
    described = "".join(repr(recipes.RECIPES[name].prepared(platform)) for name in names)

    secrets = {passwords.password(passwords.run_env(name)) for name in ("redis", "postgres", "jupyterlab")}
    assert len(secrets) == 3
    assert not any(secret in described for secret in secrets)
    config = passwords.run_env("redis") / "redis.conf"
    assert f"requirepass {passwords.password(passwords.run_env('redis'))}" in config.read_text()
    assert stat.S_IMODE(config.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", sorted(recipes.GROUPS["all"]))
def test_a_description_says_loopback_and_no_other_address(checkout, monkeypatch, name):
    monkeypatch.setattr(recipes, "_ended_well", lambda *_, **__: (passwords.run_env("postgres") / "data.part").mkdir(exist_ok=True))
    monkeypatch.setattr(supervision, "program", lambda service: f"/bin/{service.command[0]}")
    (checkout / "out/platform/made").mkdir(parents=True)
    (checkout / "out/platform/made/build.json").write_text("{}")

    described = repr(recipes.RECIPES[name].prepared(recipes.Platform()))

    files = [path for path in (checkout / "platform" / name).rglob("*") if path.is_file()]
    texts = [described, *(path.read_text(encoding="utf-8", errors="replace") for path in files)]
    assert not any("0.0.0.0" in text for text in texts)


# --- ports ------------------------------------------------------------------------------------


def test_a_taken_port_is_named_with_its_owner_and_the_place_to_change_it(checkout):
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        change(checkout, "127.0.0.1:6378", f"127.0.0.1:{port}")

        [outcome] = stack.up(stack.Local(), ("redis",))

    assert f"redis cannot have port {port}: the program" in outcome.fault
    assert f"(process {os.getpid()}) has it" in outcome.fault
    assert "in env.platform.yaml" in outcome.fault and "`features.online_store.connection_string`" in outcome.fault
    assert not (passwords.run_env("redis") / "redis.conf").exists()


def test_mlflow_moves_from_a_taken_port_and_the_environment_says_where_it_is(checkout):
    before = (checkout / "env.platform.yaml").read_text()
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        change(checkout, "http://127.0.0.1:5000", f"http://127.0.0.1:{port}")

        moved, note = stack._check_port(stack.Local(), "mlflow")

    now = moved.listed["mlflow"].port
    assert now > port and f"port {port} is taken" in note and str(now) in note
    assert project.environment("env.platform.yaml").mlflow == {"uri": f"http://127.0.0.1:{now}"}
    assert (checkout / "env.platform.yaml").read_text() == before.replace(":5000", f":{now}")


# --- what is taken away -----------------------------------------------------------------------


def test_all_that_a_service_keeps_is_taken_away_but_for_what_git_knows(checkout):
    keeps = passwords.run_env("redis")
    passwords.password(keeps)
    (keeps / "appendonlydir/deep").mkdir(parents=True)
    (keeps / "appendonlydir/deep/file").write_text("data")
    other = passwords.password(passwords.run_env("postgres"))

    assert list(wipe.lines(stack.kept(("redis", "kafka")))) == ["platform/redis/run_env       2 files        0.0 MB"]
    stack.take_away(stack.Local(), ("redis",))

    assert os.listdir(keeps) == [".gitkeep"]
    assert passwords.password(passwords.run_env("postgres")) == other


def test_what_is_behind_a_link_stays(checkout, tmp_path_factory):
    precious = tmp_path_factory.mktemp("elsewhere")
    (precious / "thesis.txt").write_text("three years")
    keeps = passwords.run_env("redis")
    (keeps / "data").symlink_to(precious)
    (keeps / "thesis.txt").symlink_to(precious / "thesis.txt")
    (keeps / "lost").symlink_to(precious / "nowhere")

    stack.take_away(stack.Local(), ("redis",))

    assert os.listdir(keeps) == [".gitkeep"]
    assert (precious / "thesis.txt").read_text() == "three years"


@pytest.mark.parametrize("place", ["platform/redis/run_env", "platform/redis"])
def test_a_run_env_that_is_a_link_is_refused(checkout, tmp_path_factory, place):
    precious = tmp_path_factory.mktemp("elsewhere")
    (checkout / place).rename(precious / "moved")
    (checkout / place).symlink_to(precious / "moved")
    (passwords.run_env("redis") / "thesis.txt").write_text("three years")

    with pytest.raises(UserError, match=rf"platform/redis/run_env is behind a link: {place} leads to .*\. What is there stays"):
        stack.take_away(stack.Local(), ("kafka", "redis"))

    assert (passwords.run_env("redis") / "thesis.txt").exists()


def test_data_without_its_password_is_said_and_not_made_anew(checkout):
    (passwords.run_env("postgres") / "data").mkdir()

    with pytest.raises(UserError, match="has data and no password any more: .*postgres down --volumes"):
        recipes.RECIPES["postgres"].prepared(recipes.Platform())


def test_without_a_build_the_course_is_left_out_and_what_makes_one_is_said(checkout):
    with pytest.raises(recipes.NoBuild, match=r"make run ENV=env.platform.yaml"):
        recipes.RECIPES["serving"].prepared(recipes.Platform())


def test_what_is_the_other_runtimes_stays(checkout):
    keeps = passwords.run_env("redis")
    secret = passwords.password(keeps)
    containers.FILES["redis"](containers.Inside())
    (keeps / "redis.conf").write_text("of a process")

    stack.take_away(stack.Local(), ("redis",))
    assert sorted(os.listdir(keeps)) == [".gitkeep", "docker", "password"]  # the volume was made with this password

    (keeps / ".used_by").write_text(str(checkout / "out/platform"))
    plan = stack.kept(("redis",), stack.Containers().stays(("redis",)))
    assert [entry.path for entry in wipe.entries(plan, keeps) if entry.path.is_file()] == [keeps / "docker/redis.conf"]
    assert passwords.password(keeps) == secret


# --- who works on it --------------------------------------------------------------------------


def test_one_command_at_a_time_changes_services_and_the_second_is_told_who_is_at_work(checkout):
    with stack.alone():
        for verb in ("up", "down", "restart"):
            with pytest.raises(UserError, match=rf"platform/run.sh runs already: process {os.getpid()} "):
                stack.run("env.platform.yaml", "redis", verb)
        assert stack.run("env.platform.yaml", "redis", "status"), "who looks need not wait"


def test_without_a_log_it_is_said_that_nothing_has_run(checkout, capsys):
    assert stack.run("env.platform.yaml", "all", "logs")
    assert capsys.readouterr().out == "nothing of it has run yet\n"


def test_a_folder_that_cannot_be_written_to_stops_its_service_alone(checkout, monkeypatch):
    def refused(name):
        raise PermissionError(13, "Permission denied", str(passwords.run_env(name)))

    checkouts.platform_on_free_ports(checkout)
    monkeypatch.setattr(stack, "_claim", lambda platform, name: refused(name))
    [outcome] = stack.up(stack.Local(), ("redis",))

    assert outcome.fault.startswith(f"could not write {passwords.run_env('redis')}: Permission denied")


def test_without_setpriv_root_is_told_what_brings_it(checkout, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(recipes.supervision.programs, "locate", lambda name: None if name == "setpriv" else f"/bin/{name}")

    with pytest.raises(supervision.MissingProgram, match="needs the program setpriv, which is not here: `apt-get install util-linux`"):
        recipes.RECIPES["postgres"].prepared(recipes.Platform())
