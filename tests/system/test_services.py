"""Services as real processes: they outlive their starter, come back when killed, and end when told to, with all their children."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from mlops_course import clocks, project, recipes, services, supervision
from mlops_course.project import UserError
from mlops_course.services import Service
from mlops_course.web import client as client_of

REDIS = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not here: apt-get install redis-server")

SLOW_TO_END = """
import signal, sys, time
from http.server import HTTPServer, SimpleHTTPRequestHandler
def end(number, frame):
    time.sleep(1.5)
    print("ended by", signal.Signals(number).name, flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
HTTPServer(("127.0.0.1", int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()
"""

WITH_A_CHILD = """
import os, socket, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
if os.fork() == 0:
    os.setsid()  # as a server does whose workers hold the port
    print("child of", os.getppid(), flush=True)
time.sleep(600)
"""


def web(name: str = "web", **changes) -> Service:
    "A file server of the standard library."
    port = changes.pop("port", None) or services.free_port()
    command = ("python", "-m", "http.server", "--bind", "127.0.0.1", str(port))
    return Service(**{"name": name, "command": command, "port": port, "health": "/", "seconds": 20, **changes})


def script(text: str, **changes) -> Service:
    port = services.free_port()
    return Service(**{"name": "script", "command": ("python", "-c", text, str(port)), "port": port, "seconds": 20, **changes})


@pytest.fixture
def folder(tmp_path):
    "A folder whose services are ended, whatever a test has done to them."
    place = tmp_path / "an environment"
    place.mkdir()
    yield place
    supervision.stop(place)
    assert ours(place) == []


def ours(folder: Path) -> list[int]:
    "The numbers of all living processes that belong to a folder, by what is in their environment."
    processes = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(supervision.MARK) == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process.pid)
        except psutil.Error:
            continue
    return processes


def state(folder: Path, name: str) -> supervision.State:
    return next(service for service in supervision.states(folder) if service.name == name)


def wait_for(condition, seconds: float = 15):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def python(code: str, *arguments: str, **more) -> subprocess.CompletedProcess:
    "Run a program in a Python of its own, in which a warning is an error."
    return subprocess.run([sys.executable, "-W", "error", "-c", code, *arguments], capture_output=True, text=True, timeout=60, **more)


START = """
import sys
from pathlib import Path
from mlops_course.services import Service
from mlops_course.supervision import start
start(Path(sys.argv[1]), Service.model_validate_json(sys.argv[2]))
"""


def test_a_service_outlives_the_process_that_started_it_and_its_group(folder):
    service = web()
    starter = subprocess.Popen(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            START + "import time; print('up', flush=True); time.sleep(600)",
            folder,
            service.model_dump_json(),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with starter:
        assert starter.stdout.readline() == "up\n", "nothing else is printed, as root or not"
        os.killpg(starter.pid, signal.SIGKILL)

    assert state(folder, "web").healthy
    assert supervision.start(folder, service) == service.address
    assert os.getsid(state(folder, "web").pid) != os.getsid(0)


def test_a_killed_service_comes_back_as_another_process(folder):
    supervision.start(folder, web())
    before = state(folder, "web").pid

    os.kill(before, signal.SIGKILL)

    wait_for(lambda: state(folder, "web").healthy)
    assert state(folder, "web").pid != before
    assert state(folder, "web").state == "running"


def test_another_process_can_stop_everything_below_a_folder(folder):
    one, two = web("one"), web("two")
    supervision.start(folder / "dev", one)
    supervision.start(folder / "staging", two)
    running = [state(folder / "dev", "one").pid, state(folder / "staging", "two").pid]

    done = python(
        "import sys; from pathlib import Path; from mlops_course.supervision import stop_all; print(stop_all(Path(sys.argv[1])))", folder
    )

    assert (done.stdout, done.stderr) == ("['one', 'two']\n", "")
    assert not any(map(alive, running))
    assert ours(folder / "dev") == ours(folder / "staging") == []
    assert supervision.stop_all(folder) == []


def test_the_command_stop_ends_what_another_process_has_started_in_the_project(folder):
    (folder / "pipeline.yaml").touch()
    (folder / "settings.ini").touch()
    address = supervision.start(folder / "out/lab", web())
    command = [str(Path(sys.executable).with_name("mlops-course")), "stop"]

    printed = [subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip() for _ in range(2)]

    assert printed == ["stopped: web", "nothing was running"]
    assert services.trouble(web(port=int(address.rpartition(":")[2])))


def test_a_service_of_another_folder_keeps_running(folder):
    supervision.start(folder / "dev", web("one"))
    supervision.start(folder / "dev-2", web("two"))
    try:
        assert supervision.stop_all(folder / "dev") == ["one"]
        assert state(folder / "dev-2", "two").healthy
    finally:
        supervision.stop_all(folder)


@pytest.mark.parametrize("then", ["stop", "start", "stop_all"])
def test_a_killed_supervisor_leaves_nothing_behind(folder, then):
    service = web()
    supervision.start(folder, service)
    left = state(folder, "web").pid
    supervision._supervisor(folder).kill()
    wait_for(lambda: supervision._supervisor(folder) is None)
    assert alive(left)

    if then == "stop":
        supervision.stop(folder)
        assert state(folder, "web").state == "stopped"
    elif then == "stop_all":
        assert supervision.stop_all(folder) == ["web"]
    else:
        supervision.start(folder, service)
        assert state(folder, "web").pid != left and state(folder, "web").healthy

    assert not alive(left)
    assert len(ours(folder)) == (2 if then == "start" else 0)


@REDIS
def test_redis_answers_and_is_found_although_it_hides_its_environment(folder):
    service = recipes.redis_in_memory(services.free_port())
    supervision.start(folder, service)
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        client.sendall(b"PING\r\nCONFIG GET save\r\n")
        assert client.recv(100).startswith(b"+PONG")
    assert supervision.port_holder(service.port).startswith(f"the service redis of {project.shown(folder)} has it")
    left = state(folder, "redis").pid
    assert supervision.MARK not in psutil.Process(left).environ()

    supervision._supervisor(folder).kill()
    wait_for(lambda: supervision._supervisor(folder) is None)
    supervision.stop(folder)

    assert not alive(left)
    assert not list(folder.rglob("*.rdb"))


def test_a_stranger_with_the_number_of_a_service_is_left_alone(folder):
    supervision.start(folder, web())
    supervision.stop(folder)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    for note in [*folder.glob("services/*.pid"), folder / "services/.supervisor/supervisord.json"]:
        note.write_text(json.dumps({**json.loads(note.read_text()), "pid": stranger.pid}))

    try:
        supervision.stop(folder, "web")
        supervision.stop(folder)
        supervision.start(folder, web())
        assert supervision.stop_all(folder) == ["web"]
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_copied_folder_does_not_end_the_services_of_the_original(folder, tmp_path):
    supervision.start(folder, web())

    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("*.sock"))
    supervision.stop(tmp_path / "copy")
    supervision.stop_all(tmp_path / "copy")

    assert state(folder, "web").healthy


def test_services_of_a_deleted_folder_can_be_ended(folder):
    supervision.start(folder, web())
    shutil.rmtree(folder)

    assert supervision.stop_all(folder.parent) == ["web"]
    assert ours(folder) == []


def test_a_start_after_the_folder_was_deleted_takes_the_place_of_what_ran(folder):
    service = web()
    supervision.start(folder, service)
    shutil.rmtree(folder / "services")

    supervision.start(folder, service)

    assert state(folder, "web").healthy
    assert len(ours(folder)) == 2


@pytest.mark.parametrize("name", ["with 'quotes' and spaces", "100% #1 ;no comment", "%(here)s", "long" * 50])
def test_any_name_of_a_folder_will_do(folder, name):
    supervision.start(folder / name, web())
    assert state(folder / name, "web").healthy
    assert supervision.log_of(folder / name, "web").parent == folder / name / "services"

    assert supervision.stop_all(folder) == ["web"]


def test_a_service_is_told_its_variables_and_nothing_of_the_kernel(folder, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    values = {"QUOTED": 'it\'s "quoted", 100 % a=b;c #d', "LINES": "one\ntwo", "EMPTY": ""}
    text = "import json, os; print(json.dumps(dict(os.environ)), flush=True)" + WITH_A_CHILD

    supervision.start(folder, script(text, variables=values))

    variables = json.loads(supervision.log_of(folder, "script").read_text().splitlines()[0])
    assert {name: variables[name] for name in values} == values
    assert not {"MPLBACKEND", "JPY_PARENT_PID"} & set(variables)


def test_starting_what_runs_changes_nothing(folder):
    service = web()
    supervision.start(folder, service)
    before = state(folder, "web").pid

    assert supervision.start(folder, service) == service.address

    assert state(folder, "web").pid == before


def test_another_definition_takes_the_place_of_the_first(folder):
    supervision.start(folder, web())
    before = state(folder, "web")

    second = web(variables={"A": "b"}, stop_signal="INT")
    supervision.start(folder, second)

    assert state(folder, "web").port == second.port != before.port
    assert not alive(before.pid)
    assert len(ours(folder)) == 2


def test_a_service_may_change_and_keep_its_port(folder):
    first = web()
    supervision.start(folder, first)
    before = state(folder, "web").pid

    supervision.start(folder, first.model_copy(update={"variables": {"A": "b"}}))

    assert state(folder, "web").healthy and state(folder, "web").pid != before


def test_two_starts_at_the_same_time_make_one_service(folder):
    service, results = web(), []
    threads = [threading.Thread(target=lambda: results.append(supervision.start(folder, service))) for _ in range(4)]
    processes = [subprocess.Popen([sys.executable, "-c", START, folder, service.model_dump_json()]) for _ in range(2)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [process.wait(30) for process in processes] == [0, 0]
    assert results == [service.address] * 4
    assert len(ours(folder)) == 2, "one supervisor and one service"


def test_a_port_that_a_stranger_has_is_an_error_that_names_him(folder):
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        service = web(port=stranger.getsockname()[1])

        with pytest.raises(UserError, match=f"cannot have port {service.port}.*process {os.getpid()}"):
            supervision.start(folder, service)

    assert ours(folder) == []


def test_a_port_of_another_service_is_an_error_and_both_keep_what_they_have(folder):
    one, two = web("one"), web("two")
    supervision.start(folder, one)
    supervision.start(folder, two)
    before = [state.pid for state in supervision.states(folder)]

    with pytest.raises(UserError, match="the service one of .* has it"):
        supervision.start(folder, web("two", port=one.port))

    assert [state.pid for state in supervision.states(folder)] == before
    assert all(state.healthy for state in supervision.states(folder))


def test_a_service_that_ends_at_once_is_an_error_with_its_last_words(folder):
    with pytest.raises(UserError, match="(?s)ended before it could be used.*No module named nono") as refused:
        supervision.start(folder, script("", command=("python", "-m", "nono")))

    assert "services/script.log" in str(refused.value)
    assert ours(folder) == []
    assert state(folder, "script") == ("script", "stopped", None, state(folder, "script").port, False)


def test_a_service_that_is_not_healthy_in_time_is_ended_and_others_are_not(folder):
    supervision.start(folder, web())

    with pytest.raises(UserError, match="(?s)cannot be used after 5 seconds .*/nowhere answers 404"):
        supervision.start(folder, web("second", health="/nowhere", seconds=5))

    assert state(folder, "web").healthy
    assert state(folder, "second").state == "stopped"
    assert len(ours(folder)) == 2


def test_an_interrupted_start_leaves_nothing_running(folder):
    service = script("import time; time.sleep(600)", seconds=60)
    starter = subprocess.Popen([sys.executable, "-c", START, folder, service.model_dump_json()], stderr=subprocess.PIPE)
    with starter:
        wait_for(lambda: len(ours(folder)) == 2 and supervision.log_of(folder, "script").is_file())
        starter.send_signal(signal.SIGINT)
        starter.communicate(timeout=30)

    assert ours(folder) == []


def test_what_a_killed_service_leaves_is_ended_before_it_comes_back(folder):
    service = script(WITH_A_CHILD)
    supervision.start(folder, service)
    first = state(folder, "script").pid
    child = psutil.Process(first).children()[0].pid

    os.kill(first, signal.SIGKILL)  # its child still has the port

    wait_for(lambda: not alive(child))
    wait_for(lambda: supervision.log_of(folder, "script").read_text().count("child of") == 2)
    assert state(folder, "script").healthy and state(folder, "script").pid != first


HIDES = """
import os, socket, subprocess, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={})
print("child", child.pid, flush=True)
time.sleep(600)
"""


def test_a_child_without_the_mark_is_ended_too_before_its_service_comes_back(folder):
    supervision.start(folder, script(HIDES))
    log = supervision.log_of(folder, "script")
    wait_for(lambda: "child" in log.read_text())
    child = int(log.read_text().split()[-1])

    os.kill(state(folder, "script").pid, signal.SIGKILL)

    wait_for(lambda: log.read_text().count("child") == 2)
    assert not alive(child)
    supervision.stop(folder)
    assert not alive(int(log.read_text().split()[-1]))


@pytest.mark.parametrize("name", [None, "script"])
def test_a_stopped_service_takes_its_children_with_it(folder, name):
    supervision.start(folder, script(WITH_A_CHILD))
    family = [state(folder, "script").pid, *(child.pid for child in psutil.Process(state(folder, "script").pid).children())]
    assert len(family) == 2

    supervision.stop(folder, name)

    assert not any(map(alive, family))


@pytest.mark.parametrize(("name", "wanted"), [(None, "TERM"), ("script", "INT")])
def test_a_service_is_given_the_time_to_end_in_good_order(folder, name, wanted):
    supervision.start(folder, script(SLOW_TO_END, stop_signal=wanted))

    supervision.stop(folder, name)

    assert supervision.log_of(folder, "script").read_text().splitlines()[-1] == f"ended by SIG{wanted}"


def test_a_service_that_runs_in_vain_is_not_started_by_another(folder):
    supervision.start(folder, web("one"))
    supervision.stop(folder)

    supervision.start(folder, web("two"))

    assert [(state.name, state.state, state.healthy) for state in supervision.states(folder)] == [
        ("one", "stopped", False),
        ("two", "running", True),
    ]


def test_a_service_that_dies_again_and_again_is_given_up(folder, monkeypatch):
    monkeypatch.setattr(supervision, "_PROGRAM", supervision._PROGRAM.replace("startretries = 10", "startretries = 1"))
    once = "import os, sys; os.path.exists(sys.argv[2]) and sys.exit('no settings'); open(sys.argv[2], 'w').close()\n" + WITH_A_CHILD
    service = script(once)
    service = service.model_copy(update={"command": (*service.command, str(folder / "ran"))})
    supervision.start(folder, service)

    os.kill(state(folder, "script").pid, signal.SIGKILL)

    wait_for(lambda: state(folder, "script").state == "failed")
    assert state(folder, "script").pid is None
    assert "no settings" in supervision.log_of(folder, "script").read_text()


def test_the_definitions_and_logs_are_of_this_user_alone(folder):
    supervision.start(folder, web(variables={"PASSWORD": "secret"}))

    assert (folder / "services").stat().st_mode & 0o777 == 0o700
    assert "secret" not in (folder / "services/.supervisor/supervisord.conf").read_text()


BY_THE_CLOCK = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from mlops_course import clocks, project
class Says(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(project.now().isoformat().encode())
    def log_message(self, *words):
        pass
clocks.join(Path(sys.argv[2]))
HTTPServer(("127.0.0.1", int(sys.argv[1])), Says).serve_forever()
"""
COMPANY = """
import sys, time
from datetime import timedelta
from pathlib import Path
from mlops_course import clocks, project, services, supervision
folder, began = Path(sys.argv[1]), project.now()
clocks.begin(folder, began, 21_600, began + timedelta(days=float(sys.argv[2])))
supervision.start(folder, services.Service.model_validate_json(sys.argv[3]))
print("up", flush=True)
time.sleep(600)
"""


def time_of(service: Service) -> datetime:
    with client_of(service.address, timeout=10) as client:
        return datetime.fromisoformat(client.get("/").text)


@pytest.mark.parametrize("days", [1, 10_000])
def test_services_of_a_killed_company_go_on_by_its_clock_up_to_its_end_even_if_all_die(folder, days):
    service, fixed = script(BY_THE_CLOCK), datetime(2026, 3, 16, tzinfo=UTC)
    service = service.model_copy(update={"command": (*service.command, str(folder)), "health": "/"})
    words = [sys.executable, "-c", COMPANY, str(folder), str(days), service.model_dump_json()]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=project.root()) as company:
        assert company.stdout.readline() == "up\n"
        company.kill()
    before = time_of(service)
    os.kill(state(folder, "script").pid, signal.SIGKILL)  # nobody lives by the clock now
    wait_for(lambda: state(folder, "script").healthy)
    time.sleep(0.5)
    if days == 1:
        wait_for(lambda: time_of(service) == fixed + timedelta(days=1), 30)
    after = time_of(service)

    assert before <= after <= fixed + timedelta(days=days)
    assert days == 1 or after - before > timedelta(hours=3)
    clocks.join(folder)  # one that starts meanwhile
    assert after <= project.now() <= fixed + timedelta(days=days)
    with pytest.raises(UserError, match="make stop"):
        clocks.begin(folder, fixed, 1, fixed + timedelta(days=1))
    supervision.stop(folder)
    clocks.join(folder)
    assert project.now() < fixed + timedelta(minutes=1)
    clocks.leave()
