"""`mlops-course stop` ends what runs in other terminals, in good order and wherever its folder is, and nothing else."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from online import COMMAND, wait_for

from mlops_course import services, supervision
from mlops_course.project import UserError
from mlops_course.services import Service
from mlops_course.web import present

pytestmark = [pytest.mark.patient, pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at as on Linux")]

SERVE = """
import signal, sys, time
from pathlib import Path
from mlops_course import project
from mlops_course.web import present
def end(number, frame):
    time.sleep(0.3)
    (Path(sys.argv[1]) / "last words").write_text(signal.Signals(number).name)
    sys.exit()
signal.signal(signal.SIGTERM, end)
try:
    with present(Path(sys.argv[1]), sys.argv[2], "127.0.0.1", int(sys.argv[3])):
        print("up", flush=True)
        time.sleep(600)
except project.UserError as error:
    print(error, flush=True)
    sys.exit(1)
"""
UI = """
import os, sys
from pathlib import Path
import psutil
from mlops_course import supervision
folder = Path(sys.argv[1]).resolve()
(folder / "services").mkdir(parents=True, exist_ok=True)
supervision._note(folder / "services/ui.pid", psutil.Process(), folder=str(folder))
code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); print('up', flush=True); time.sleep(600)"
marks = {supervision.MARK: str(folder), "SUPERVISOR_PROCESS_NAME": "ui"} if sys.argv[3] == "1" else {}
os.execve(sys.executable, [sys.executable, "-c", code], {**os.environ, **marks})
"""

AS_NOBODY = """
import os
from mlops_course import cli, supervision
os.setuid(65_534)
cli.app(["stop"])
"""


@pytest.fixture
def root(tmp_path):
    "A project without anything, whose services are ended, whatever a test has done to them."
    for name in ("pipeline.yaml", "settings.ini"):
        (tmp_path / name).touch()
    (tmp_path / "env.yaml").write_text("name: mine\nout: out/mine\n")
    yield tmp_path
    supervision.stop_all(tmp_path / "out")


@contextmanager
def terminal(root: Path, folder: Path | str, name: str = "serving", port: int = 0, code: str = SERVE, **more):
    "A service of a folder as it runs in a terminal."
    words = [sys.executable, "-c", code, str(folder), name, str(port)]
    process = subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    try:
        process.line = process.stdout.readline().strip()
        yield process
    finally:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            child.kill()
        process.kill()
        process.communicate()


def stop(root: Path, code: int = 0, **more) -> str:
    "What `mlops-course stop` says, from a terminal in the project."
    done = subprocess.run([COMMAND, "stop"], cwd=root, capture_output=True, text=True, **more)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return (done.stdout + done.stderr).strip()


def web(name: str = "web") -> Service:
    port = services.free_port()
    return Service(name=name, command=("python", "-m", "http.server", "--bind", "127.0.0.1", str(port)), port=port, health="/", seconds=20)


@pytest.mark.parametrize("marked", [0, 1])
def test_what_runs_in_other_terminals_is_ended_in_good_order_and_named(root, marked):
    with terminal(root, "out/dev") as serving, terminal(root, "out/dev", "ui", marked, UI) as ui, terminal(root, "out/live", "monitoring"):
        assert serving.line == ui.line == "up"
        child = psutil.Process(ui.pid).children()[0]
        supervision.start(root / "out/dev", web())
        names = {state.name: state for state in supervision.states(root / "out/dev")}
        assert {state.state for state in names.values()} == {"running"}
        # the port of serving is open, and nobody answers there
        assert {name: state.healthy for name, state in names.items()} == {"serving": False, "ui": True, "web": True}
        assert names["serving"].pid == serving.pid and names["serving"].port
        assert supervision.stop(root / "out/dev", terminals=False) == ["web"] and ui.poll() is serving.poll() is None
        supervision.start(root / "out/dev", web())
        assert ui.poll() is serving.poll() is None

        assert stop(root) == "stopped: serving, ui, web, monitoring"

        assert serving.wait(5) == 0 and (root / "out/dev/last words").read_text() == "SIGTERM"
        assert ui.wait(5) == -signal.SIGTERM and not supervision._lives(child)
    assert stop(root) == "nothing was running"
    assert [state.name for state in supervision.states(root / "out/dev")] == ["web"]


def test_one_that_was_stopped_by_ctrl_z_still_writes_its_last_words(root):
    with terminal(root, "out/dev") as serving:
        serving.send_signal(signal.SIGSTOP)
        wait_for(lambda: psutil.Process(serving.pid).status() == psutil.STATUS_STOPPED, 5)

        assert stop(root) == "stopped: serving"
        assert (root / "out/dev/last words").read_text() == "SIGTERM"


def test_the_second_of_a_name_says_who_runs_and_the_first_stays(root):
    with terminal(root, "out/dev") as first:
        with terminal(root, "out/dev") as second:
            assert second.line.startswith("the service serving of out/dev runs already: process") and str(first.pid) in second.line
        with pytest.raises(UserError, match=rf"serving of .*out/dev runs already: process {first.pid} has it in a terminal; `make stop`"):
            supervision.start(root / "out/dev", web("serving"))
        supervision.start(root / "out/dev", web())  # another name does not end it
        supervision.stop(root / "out/dev", terminals=False)
        assert first.poll() is None and supervision.states(root / "out/dev")[0].pid == first.pid

        assert supervision.stop(root / "out/dev", "web") == [] and first.poll() is None
        assert supervision.stop(root / "out/dev", "serving") == ["serving"] and first.wait(5) == 0


def test_a_service_that_is_supervised_is_named_to_the_one_in_the_terminal_and_comes_back_beside_it(root):
    port = services.free_port()
    command = ("python", "-c", SERVE, str(root / "out/dev"), "serving", str(port))
    supervision.start(root / "out/dev", Service(name="serving", command=command, port=port, seconds=30))
    (pid,) = [state.pid for state in supervision.states(root / "out/dev")]
    with terminal(root, "out/dev") as second:
        assert second.line.startswith("the service serving of out/dev runs already") and str(pid) in second.line

    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: supervision.states(root / "out/dev")[0].pid not in (pid, None), 20)
    assert stop(root) == "stopped: serving"


def test_a_terminal_that_was_quicker_than_a_restart_is_not_lost(root):
    port = services.free_port()
    command = ("python", "-c", SERVE, str(root / "out/dev"), "serving", str(port))
    supervision.start(root / "out/dev", Service(name="serving", command=command, port=port, seconds=30))
    supervisor = supervision._supervisor(root / "out/dev")
    supervisor.suspend()
    (pid,) = [state.pid for state in psutil_states(root / "out/dev")]
    os.kill(pid, signal.SIGKILL)
    with terminal(root, "out/dev") as quick:
        assert quick.line == "up"
        supervisor.resume()
        wait_for(lambda: "runs already" in supervision.log_of(root / "out/dev", "serving").read_text(), 20)

        assert stop(root) == "stopped: serving"
        assert quick.wait(5) == 0


def psutil_states(folder: Path) -> list[psutil.Process]:
    "The supervised services by their notes: their supervisor cannot be asked."
    return [process for note in (folder / "services").glob("*.pid") if (process := supervision._noted(note, folder=str(folder)))]


@pytest.mark.parametrize("where", ["a linked out", "a linked folder", "elsewhere in the project", "elsewhere"])
def test_the_folder_is_found_wherever_it_is(root, where):
    aside = Path(tempfile.mkdtemp(prefix="a folder elsewhere "))
    folder = {"elsewhere": aside, "elsewhere in the project": root / "results"}.get(where, root / "out/dev")
    if where == "a linked out":
        (root / "out").symlink_to(aside)
    if where == "a linked folder":
        (root / "out").mkdir()
        folder.symlink_to(aside)
    try:
        with terminal(root, folder) as serving:
            supervision.start(folder, web()) if where != "elsewhere" else None
            assert stop(root).startswith("stopped: serving")
            assert serving.wait(5) == 0
        assert stop(root) == "nothing was running"
        assert not list((root / "out").glob(f"{supervision.ELSEWHERE}/*"))
    finally:
        supervision.stop(folder)
        shutil.rmtree(aside)


def test_notes_of_others_end_nobody(root):
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    time.sleep(0.1)  # births are told apart by hundredths of a second
    with terminal(root, "out/dev") as serving:
        note = json.loads((root / "out/dev/services/serving.pid").read_text())
        serving.kill()
        wait_for(lambda: psutil.Process(serving.pid).status() == psutil.STATUS_ZOMBIE, 5)
        assert stop(root) == "nothing was running", "a zombie, whose terminal has not yet looked"
    try:
        others = {"reused": {**note, "pid": stranger.pid}, "copied": {**note, "folder": "/elsewhere"}, "half": note}
        for name, value in others.items():
            text = json.dumps(value)
            (root / f"out/dev/services/{name}.pid").write_text(text[: len(text) // 2] if name == "half" else text)
        (root / "out" / supervision.ELSEWHERE).mkdir()
        for n, text in enumerate(["", "{", "[]", '{"folder": 3}', '{"folder": "/nowhere"}']):
            (root / "out" / supervision.ELSEWHERE / f"{n}.json").write_text(text)
        assert stop(root) == "nothing was running"
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start a process of another user")
@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_processes_of_another_user_are_named_and_left_alone(mode):
    root = Path(tempfile.mkdtemp(prefix="of root "))
    for name in ("pipeline.yaml", "settings.ini"):
        (root / name).touch()
    root.chmod(0o755)
    try:
        with terminal(root, root / "out/dev") as serving:
            (root / "out/dev/services").chmod(mode)
            began = time.monotonic()
            done = subprocess.run([sys.executable, "-c", AS_NOBODY], cwd=root, capture_output=True, text=True)
            line = (done.stdout + done.stderr).strip()

            assert time.monotonic() - began < 20
            assert f"serving of out/dev (process {serving.pid} of root)" in line if mode == 0o755 else "out/dev/services" in line
            assert "could not be ended or looked at" in line and len(line.splitlines()) == 1 and done.returncode == 1
            assert serving.poll() is None
    finally:
        shutil.rmtree(root)


def test_the_only_one_of_its_name_needs_no_port_and_its_lock_falls_with_it(root):
    with supervision.running(root / "out/dev", "live"):
        with (
            pytest.raises(UserError, match=f"the service live of .* runs already: process {os.getpid()}"),
            supervision.running(root / "out/dev", "live"),
        ):
            pass
        assert supervision.stop(root / "out/dev") == [], "it would end itself"
    with supervision.running(root / "out/dev", "live"), socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(UserError, match=f"port {port} of 127.0.0.1 cannot be used"),
            present(root / "out/dev", "web", "127.0.0.1", port),
        ):
            pass
        with present(root / "out/dev", "web", "127.0.0.1", 0):
            pass


def test_a_folder_that_cannot_be_written_to_is_a_message(root):
    (root / "out").write_text("no folder")

    with pytest.raises(UserError, match="could not"), present(root / "out/dev", "web", "127.0.0.1", 0):
        pass
    assert stop(root) == "nothing was running"
    (root / "out").unlink()
