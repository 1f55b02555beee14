"""What supervision needs no process for: programs, the private folder, and whose process a note names."""

import json
import os
import tempfile

import psutil
import pytest

from mlops_course import services, supervision
from mlops_course.project import UserError
from mlops_course.services import Service
from mlops_course.web import present


def service(**changes) -> Service:
    return Service(**{"name": "web", "command": ("python", "-c", "pass"), "port": 8172, **changes})


def test_a_program_of_this_environment_needs_no_path(monkeypatch):
    monkeypatch.setenv("PATH", "")

    assert os.access(supervision.program(service(command=("python",))), os.X_OK)


def test_a_missing_program_is_named_with_the_package_that_brings_it(monkeypatch):
    monkeypatch.setattr(supervision.programs.shutil, "which", lambda *_, **__: None)

    with pytest.raises(UserError, match="redis-server.*apt-get install redis-server"):
        supervision.program(services.SERVICES["redis"])
    with pytest.raises(UserError, match="program nono, which is not here"):
        supervision.program(service(command=("nono",)))


@pytest.mark.parametrize("temporary", ["short", "long" * 40])
def test_the_socket_fits_wherever_the_folder_is(tmp_path, monkeypatch, temporary):
    (tmp_path / temporary).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / temporary))

    socket_file = supervision._socket(tmp_path / "folder" / ("deep" * 50))

    assert len(os.fsencode(socket_file)) + len(".1234567") < 100
    assert socket_file.parent.stat().st_mode & 0o777 == 0o700
    assert supervision._socket(tmp_path / "another") != socket_file


def test_a_socket_is_not_put_where_others_can_write(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)  # whoever made the folder, it was not this user
    made = supervision.Path("/tmp/mlops-course-4000000")
    made.mkdir(mode=0o700, exist_ok=True)
    try:
        with pytest.raises(UserError, match="folder of this user alone"):
            supervision._socket(tmp_path)
    finally:
        made.rmdir()


def test_a_note_names_a_process_by_number_and_birth(tmp_path):
    me, note = psutil.Process(), tmp_path / "web.pid"
    supervision._note(note, me, folder="here")

    assert supervision._noted(note, folder="here") == me
    assert supervision._noted(note, folder="there") is None, "a copied folder would end the original's services"

    noted = json.loads(note.read_text())
    note.write_text(json.dumps({**noted, "born": noted["born"] - 0.01}))
    assert supervision._noted(note, folder="here") is None, "the number was given to another process"

    note.write_text(json.dumps({**noted, "boot": noted["boot"] - 3600}))
    assert supervision._noted(note, folder="here") is None, "the machine was started again"


@pytest.mark.parametrize("text", [None, "", "12", "{}", '{"pid": 1}', '{"pid": 3999999, "born": 1.0, "boot": 1.0, "folder": "here"}'])
def test_a_note_that_cannot_be_read_names_nobody(tmp_path, text):
    if text is not None:
        (tmp_path / "web.pid").write_text(text)

    assert supervision._noted(tmp_path / "web.pid", folder="here") is None


def test_the_launcher_is_a_program_of_its_own():
    code = supervision._launcher()

    compile(code, "launch.py", "exec")
    assert "mlops_course." not in code, "a service would wait for the imports of the package"


def test_what_never_ran_has_no_state_and_can_be_stopped(tmp_path):
    supervision.stop(tmp_path)
    supervision.stop(tmp_path, "web")

    assert supervision.states(tmp_path) == []
    assert supervision.stop_all(tmp_path) == []
    assert not list(tmp_path.iterdir()), "a look must not leave folders"


def test_a_process_that_is_a_service_no_longer_has_no_note(tmp_path):
    with present(tmp_path, "files", "127.0.0.1", 0) as door:
        assert (tmp_path / "services/files.pid").is_file()
        with pytest.raises(UserError, match="cannot be used"), present(tmp_path, "copy", "127.0.0.1", door.getsockname()[1]):
            pass

    assert not list((tmp_path / "services").glob("*.pid"))
