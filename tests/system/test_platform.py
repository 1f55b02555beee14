"""The platform's services as real processes: up, down, killed, broken, on a full disk, and all of them together."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing

import checkouts
import disks
import psutil
import psycopg
import pytest
import redis

from mlops_course import passwords, programs, project, recipes, services, stack, supervision

ORIGIN = project.root()
PROGRAMS = ("redis-server", "postgres", "prometheus", "prometheus-alertmanager")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="services are started as on Linux"),
    pytest.mark.skipif(not all(map(programs.locate, PROGRAMS)), reason="programs of the platform are not here: platform/get.sh"),
]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    "A small project with free ports. Its services are ended, whatever a test has done to them."
    monkeypatch.chdir(checkouts.checkout(tmp_path))
    checkouts.on_free_ports(tmp_path)
    yield tmp_path
    supervision.stop(tmp_path / "out/platform")
    assert marked(tmp_path) == []


def marked(checkout) -> list[str]:
    "All living processes of the services of a checkout."
    names = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(supervision.MARK, "").startswith(str(checkout)) and process.status() != psutil.STATUS_ZOMBIE:
                names.append(process.name())
        except psutil.Error:
            continue
    return names


def up(*names: str) -> dict[str, stack.Outcome]:
    return {outcome.name: outcome for outcome in stack.up(recipes.Platform(), names)}


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


def wait_for(condition, seconds: float = 30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.1)


def test_a_second_up_changes_nothing_and_what_was_written_outlives_down(checkout):
    assert all(outcome.look for outcome in up("redis", "postgres").values())
    before = {name: pid_of(checkout, name) for name in ("redis", "postgres")}
    config = {path: path.stat().st_mtime_ns for path in (checkout / "platform").glob("*/run_env/*.conf")}
    on_redis("SET", "driver", "4.9")
    on_postgres("CREATE TABLE trips (driver int)")

    assert all(outcome.look for outcome in up("redis", "postgres").values())
    assert {name: pid_of(checkout, name) for name in before} == before
    assert {path: path.stat().st_mtime_ns for path in config} == config

    ports = [service.port for service in recipes.Platform().listed.values()]
    assert stack.down(recipes.Platform(), stack.names_of("all")) == ["redis", "postgres"]
    assert marked(checkout) == [] and not any(map(supervision.taken, ports))

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

        wait_for(lambda: all(state == "healthy" for state, _ in stack.health(recipes.Platform(), ("redis", "postgres")).values()))
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
    assert stack.health(recipes.Platform(), ("redis",))["redis"][0] in ("stopped", "failed")


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
        assert marked(checkout) == []

        (keeps / "filler").unlink(missing_ok=True)
        disks.remount(keeps, "size=200m")
        assert up(name)[name].look
        stack.down(recipes.Platform(), (name,))


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

    [outcome] = stack.up(recipes.Platform("env.second.yaml"), ("redis",))

    assert "redis runs already, for out/platform" in outcome.fault
    with pytest.raises(project.UserError, match="redis runs already, for out/platform"):
        stack.take_away(recipes.Platform("env.second.yaml"), ("redis",))


def test_the_verbs_by_the_script(checkout):
    "As a person types it."
    (checkout / "platform/run.sh").write_bytes((ORIGIN / "platform/run.sh").read_bytes())

    def script(*words: str) -> tuple[int, str]:
        done = subprocess.run(["bash", "platform/run.sh", *words], capture_output=True, text=True, cwd=checkout, timeout=120)
        return done.returncode, done.stdout + done.stderr

    assert script("redis", "up") == (1, "There is no .venv here yet: `make setup` makes it.\n")
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/mlops-course").symlink_to(f"{os.path.dirname(sys.executable)}/mlops-course")

    code, output = script("redis", "up")
    assert code == 0 and "redis-cli -p" in output
    assert script("redis", "status")[1].startswith("redis           healthy      REDISCLI_AUTH")
    assert "== redis: out/platform/services/redis.log" in script("redis", "logs")[1]
    first = pid_of(checkout, "redis")
    assert "stopped: redis" in script("redis", "restart")[1] and pid_of(checkout, "redis") != first
    code, output = script("redis", "down", "--volumes")
    assert code == 0 and "stopped: redis\n" in output and "platform/redis/run_env/password\n" in output
    assert os.listdir(checkout / "platform/redis/run_env") == [".gitkeep"]
    assert script("redis", "down") == (0, "nothing was running\n")


def test_all_that_this_machine_has_comes_up_together_and_goes_down_without_a_trace(checkout):
    outcomes = up(*stack.names_of("all"))
    listed = recipes.Platform().listed

    assert {name: outcome.fault for name, outcome in outcomes.items() if outcome.fault} == {}
    pages = {"mlflow": "/", "feast_ui": "/", "jupyterlab": "/api", "prometheus": "/classic/targets", "alertmanager": "/api/v2/status"}
    assert {name: status(listed[name].port, path) for name, path in pages.items()} == dict.fromkeys(pages, 200)
    assert status(listed["jupyterlab"].port, "/api/contents") == 403, "nobody runs code without the password"
    texts = {path.name: path.read_text(errors="replace") for path in (checkout / "out/platform/services").glob("*.log")}
    secrets = {passwords.password(passwords.run_env(name)) for name in ("postgres", "redis", "jupyterlab")}
    assert [name for name, text in texts.items() if any(secret in text for secret in secrets)] == []
    own = {state.pid for state in supervision.states(checkout / "out/platform") if state.pid}
    assert {connection.laddr.ip for pid in own for connection in listening(pid)} == {"127.0.0.1"}

    stack.down(recipes.Platform(), stack.names_of("all"))

    assert marked(checkout) == []
    assert {name for name, service in listed.items() if supervision.taken(service.port)} == set()


def listening(pid: int) -> list:
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return [each for process in family for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN]


def status(port: int, path: str) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", path)
        return connection.getresponse().status


def test_a_taken_port_is_said_and_the_others_start(checkout):
    port = recipes.Platform().listed["redis"].port
    with socket.create_server(("127.0.0.1", port)):
        outcomes = up("redis", "postgres")

    assert f"redis cannot have port {port}: the program" in outcomes["redis"].fault
    assert outcomes["postgres"].look
