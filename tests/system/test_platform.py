"""The platform's services as real processes: up, down, killed, broken, on a full disk; test_platform_build has all of them together."""

import os
import shutil
import signal
import socket
import subprocess
import sys

import checkouts
import disks
import psutil
import psycopg
import pytest
import redis
from online import wait_for

from mlops_course import passwords, programs, project, recipes, services, stack, supervision

ORIGIN = project.root()
PROGRAMS = ("redis-server", "postgres")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="services are started as on Linux"),
    pytest.mark.skipif(not all(map(programs.locate, PROGRAMS)), reason="programs of the platform are not here: platform/get.sh"),
    pytest.mark.patient,
]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    "A small project with free ports, in a folder as a person names it. Its services are ended, whatever a test has done to them."
    folder = checkouts.checkout(tmp_path / "Kurs für 100 % José's")
    checkouts.platform_on_free_ports(folder)
    checkouts.with_programs(folder)
    monkeypatch.chdir(folder)
    yield folder
    supervision.stop(folder / "out/platform")
    assert checkouts.marked(folder) == []


def up(*names: str) -> dict[str, stack.Outcome]:
    return {outcome.name: outcome for outcome in stack.up(stack.Local(), names)}


def pid_of(checkout, name: str) -> int:
    return next(state.pid for state in supervision.states(checkout / "out/platform") if state.name == name)


def on_redis(*command):
    platform = recipes.Platform()
    with redis.Redis(port=platform.listed["redis"].port, password=passwords.password(passwords.run_env("redis"))) as client:
        return client.execute_command(*command)


def on_postgres(statement: str) -> list[tuple]:
    port = recipes.Platform().listed["postgres"].port
    where = {"host": "127.0.0.1", "port": port, "user": "mlops", "dbname": "mlflow", "passfile": passwords.run_env("postgres") / "pgpass"}
    with psycopg.connect(**where, autocommit=True) as connection:
        return connection.execute(statement).fetchall() if statement.startswith("SELECT") else connection.execute(statement) and []


def test_a_second_up_changes_nothing_and_what_was_written_outlives_down(checkout):
    assert all(outcome.look for outcome in up("redis", "postgres").values())
    before = {name: pid_of(checkout, name) for name in ("redis", "postgres")}
    config = {path: path.stat().st_mtime_ns for path in (checkout / "platform").glob("*/run_env/*.conf")}
    on_redis("SET", "driver", "4.9")
    on_postgres("CREATE TABLE trips (driver int)")

    assert all(outcome.look for outcome in up("redis", "postgres").values())
    assert {name: pid_of(checkout, name) for name in before} == before
    assert {path: path.stat().st_mtime_ns for path in config} == config

    ports = [service.port for service in recipes.Platform().listed.values() if service.port]
    assert stack.down(stack.Local(), stack.names_of("all")) == ["redis", "postgres"]
    assert checkouts.marked(checkout) == [] and not any(map(supervision.taken, ports))

    up("redis", "postgres")
    assert on_redis("GET", "driver") == b"4.9"
    assert on_postgres("SELECT count(*) FROM trips") == [(0,)]


def test_services_that_die_three_times_come_back_each_time_with_their_data(checkout):
    up("redis", "postgres")
    on_postgres("CREATE TABLE deaths (number int)")
    for number in range(3):
        on_redis("INCR", "deaths")
        on_postgres(f"INSERT INTO deaths VALUES ({number})")
        killed = [pid_of(checkout, name) for name in ("redis", "postgres")]
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

        wait_for(lambda: all(state == "healthy" for state, _ in stack.health(stack.Local(), ("redis", "postgres")).values()))
        assert not set(killed) & {pid_of(checkout, name) for name in ("redis", "postgres")}

    assert on_redis("GET", "deaths") == b"3"
    assert on_postgres("SELECT count(*) FROM deaths") == [(3,)]


def test_nobody_without_the_password_is_let_in(checkout):
    up("redis", "postgres")
    listed = recipes.Platform().listed

    with pytest.raises(redis.AuthenticationError), redis.Redis(port=listed["redis"].port) as client:
        client.ping()
    for user in ("mlops", "postgres"):
        with pytest.raises(psycopg.OperationalError, match="no password supplied"):
            psycopg.connect(host="127.0.0.1", port=listed["postgres"].port, user=user, dbname="mlflow", passfile="/nowhere")
    log = (supervision.log_of(checkout / "out/platform", name).read_text() for name in ("redis", "postgres"))
    secrets = [passwords.password(passwords.run_env(name)) for name in ("redis", "postgres")]
    assert not any(secret in text for text in log for secret in secrets)


def test_one_that_is_broken_shows_its_last_lines_and_the_others_start(checkout):
    with (checkout / "platform/redis/redis.conf").open("a") as file:
        file.write("maxmemory-politics liberal\n")

    outcomes = up("redis", "postgres")

    assert "service redis ended before it could be used" in outcomes["redis"].fault and "maxmemory-politics" in outcomes["redis"].fault
    assert outcomes["postgres"].look
    assert stack.health(stack.Local(), ("redis",))["redis"][0] in ("stopped", "failed")


def test_a_password_that_others_may_read_stops_its_service_alone(checkout):
    passwords.password(passwords.run_env("redis"))
    (passwords.run_env("redis") / "password").chmod(0o644)

    outcomes = up("redis", "postgres")

    assert "chmod 600" in outcomes["redis"].fault and outcomes["postgres"].look


@pytest.mark.parametrize(("name", "size"), [("redis", "8k"), ("postgres", "8m")])
def test_a_run_env_on_a_full_disk_says_so_and_a_larger_one_is_enough(checkout, name, size):
    keeps = checkout / "platform" / name / "run_env"
    with disks.disk(keeps, f"size={size},mode=755"):
        if name == "redis":
            disks.fill(keeps, leave=0)
        fault = up(name)[name].fault
        assert "the disk is full" in fault and "are free in" in fault
        assert checkouts.marked(checkout) == []

        (keeps / "filler").unlink(missing_ok=True)
        disks.remount(keeps, "size=200m")
        assert up(name)[name].look
        stack.down(stack.Local(), (name,))


def test_a_missing_program_leaves_out_its_service_and_those_that_stand_on_it(checkout, monkeypatch, capsys):
    locate = programs.locate
    monkeypatch.setattr(programs, "locate", lambda name: None if name in ("initdb", "postgres") else locate(name))

    outcomes = up("redis", "mlflow")

    assert "apt-get install postgresql" in outcomes["postgres"].left_out
    assert outcomes["mlflow"].left_out == "it stands on postgres" and outcomes["redis"].look
    assert stack.run("env.platform.yaml", "feast", "up"), "a group goes well without what is left out"
    assert not stack.run("env.platform.yaml", "postgres", "up"), "what was asked for by its name does not"
    assert "left out: " in capsys.readouterr().out


def test_a_second_environment_does_not_work_on_the_same_data(checkout):
    up("redis")
    text = (checkout / "env.platform.yaml").read_text().replace("out: out/platform", "out: out/second")
    port = recipes.Platform().listed["redis"].port
    (checkout / "env.second.yaml").write_text(text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{services.free_port()}"))

    [outcome] = stack.up(stack.Local("env.second.yaml"), ("redis",))

    assert "redis runs already, for out/platform" in outcome.fault
    with pytest.raises(project.UserError, match="redis runs already, for out/platform"):
        stack.take_away(stack.Local("env.second.yaml"), ("redis",))


@pytest.fixture
def script(checkout):
    "`bash platform/run.sh` in the checkout, as a person types it: started, with what it will print."
    (checkout / "platform/run.sh").write_bytes((ORIGIN / "platform/run.sh").read_bytes())
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/mlops-course").symlink_to(f"{os.path.dirname(sys.executable)}/mlops-course")
    begun = []

    def begin(*words: str) -> subprocess.Popen:
        command = ["bash", "platform/run.sh", *words]
        begun.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=checkout, start_new_session=True)
        )
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen, within: float = 240) -> tuple[int, str]:
    output, _ = process.communicate(timeout=within)
    return process.returncode, output


def test_the_verbs_by_the_script(checkout, script):
    code, output = ended(script("redis", "up"))
    assert code == 0 and "redis-cli -p" in output
    assert ended(script("redis", "status"))[1].startswith("redis               healthy      REDISCLI_AUTH")
    assert "== redis: out/platform/services/redis.log" in ended(script("redis", "logs"))[1]
    first = pid_of(checkout, "redis")
    assert "stopped: redis" in ended(script("redis", "restart"))[1] and pid_of(checkout, "redis") != first
    code, output = ended(script("redis", "down", "--volumes"))
    assert code == 0 and "stopped: redis\n" in output and "taken away:\n  platform/redis/run_env " in output
    assert os.listdir(checkout / "platform/redis/run_env") == [".gitkeep"]
    assert ended(script("redis", "down")) == (0, "nothing was running\n")


def test_without_an_environment_of_python_the_script_says_what_makes_one(checkout, script):
    (checkout / ".venv/bin/mlops-course").unlink()

    assert ended(script("redis", "up")) == (1, "There is no .venv here yet: `make setup` makes it.\n")


@pytest.mark.parametrize("words", [(), ("redis",), ("redis", "UP"), ("", "up"), ("redis", "postgres", "up"), ("redis; ls", "up")])
def test_what_the_script_does_not_understand_is_said_and_starts_nothing(checkout, script, words):
    code, output = ended(script(*words))

    assert code and "Traceback" not in output and ("mlops-course platform" in output or "there are airflow, airflow_dags" in output)
    assert not (checkout / "out/platform").exists()


HANGS = """#!/bin/sh
echo $$ >began
exec sleep 600
"""


def test_ctrl_c_ends_what_is_not_yet_healthy_and_says_what_runs(checkout, script, monkeypatch):
    "Redis is there at once, and a node exporter that never answers is waited for."
    (checkout / "bin").mkdir()
    (checkout / "bin/prometheus-node-exporter").write_text(HANGS)
    (checkout / "bin/prometheus-node-exporter").chmod(0o755)
    monkeypatch.setenv("PATH", f"{checkout / 'bin'}:/usr/bin:/bin")
    up("redis")
    process = script("node_exporter", "up")
    wait_for(lambda: (checkout / "began").exists(), 120)

    os.killpg(process.pid, signal.SIGINT)
    code, output = ended(process, 40)  # it would be waited for a minute

    assert code == 0 and "interrupted: redis runs, and `bash platform/run.sh all down` ends it\n" in output
    assert not psutil.pid_exists(int((checkout / "began").read_text()))
    assert "node_exporter" not in [state.name for state in supervision.states(checkout / "out/platform") if state.pid]


def test_two_ups_at_once_and_a_down_beside_them_are_one_at_a_time(checkout, script):
    both = [script("postgres", "up") for _ in range(2)]
    results = [ended(each) for each in both]

    assert sorted(code for code, _ in results) in ([0, 0], [0, 1])
    for code, output in results:
        assert ("psql -h 127.0.0.1" if code == 0 else "platform/run.sh runs already: ") in output
    assert on_postgres("SELECT 1") == [(1,)]


def test_a_service_whose_data_was_deleted_under_it_says_so_and_the_next_up_starts_it_anew(checkout):
    up("redis", "postgres")
    shutil.rmtree(checkout / "platform/redis/run_env")
    shutil.rmtree(checkout / "platform/postgres/run_env")

    healths = stack.health(stack.Local(), ("redis", "postgres"))
    assert all("`up` starts it anew" in why for _, why in healths.values())
    assert not (checkout / "platform/redis/run_env").exists(), "who looks makes nothing"

    assert all(outcome.look for outcome in up("redis", "postgres").values())
    assert on_redis("PING") and on_postgres("SELECT 1") == [(1,)]


def test_a_disk_that_takes_no_more_writes_stops_its_service_alone(checkout):
    with disks.disk(checkout / "platform/redis/run_env", "size=1m,ro"):
        outcomes = up("redis", "postgres")

    assert "Read-only file system" in outcomes["redis"].fault and outcomes["postgres"].look


@pytest.mark.skipif(programs.locate("kafka") is None, reason="Kafka is not here: sh platform/get.sh kafka")
def test_a_killed_kafka_comes_back_with_what_was_sent(checkout):
    assert up("kafka")["kafka"].look
    server = f"127.0.0.1:{recipes.Platform().listed['kafka'].port}"
    client = ("--bootstrap-server", server, "--topic", "rides")

    def kafka(name: str, *words: str, **more) -> str:
        command = [programs.locate("kafka"), f"org.apache.kafka.tools.{name}", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True, **more).stdout

    kafka("ConsoleProducer", *client, input="ride 1\nride 2\n")
    killed = pid_of(checkout, "kafka")
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: pid_of(checkout, "kafka") != killed and stack.health(stack.Local(), ("kafka",))["kafka"][0] == "healthy", 240)

    assert kafka("consumer.ConsoleConsumer", *client, "--from-beginning", "--max-messages", "2") == "ride 1\nride 2\n"


def test_a_taken_port_is_said_and_the_others_start(checkout):
    port = recipes.Platform().listed["redis"].port
    with socket.create_server(("127.0.0.1", port)):
        outcomes = up("redis", "postgres")

    assert f"redis cannot have port {port}: the program" in outcomes["redis"].fault
    assert outcomes["postgres"].look
