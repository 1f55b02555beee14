"""What the doctor says of a machine: each fault is planted, and named with what helps."""

import os
import socket
import time
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from mlops_course import cli, doctor, programs, project, services
from mlops_course.services import Service


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    "A project's folder of its own."
    for name in ("settings.ini", "pipeline.yaml"):
        (tmp_path / name).write_text((project.root() / name).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_healthy_machine_has_nothing_to_cure(checkout, monkeypatch):
    monkeypatch.setattr(doctor, "_memory", lambda: (8e9, 4e9))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=50e9))
    monkeypatch.setattr(doctor, "_file_system", lambda _: "ext4")

    looked = [doctor.python, doctor.memory, doctor.disk, doctor.folder, doctor.text, doctor.clock]

    assert [finding for finding in (look() for look in looked) if finding.cure] == []


@pytest.mark.parametrize(("version", "tried"), [("3.12.1", True), ("3.14.0", False)])
def test_a_python_that_was_not_tried_is_said_and_stops_nothing(monkeypatch, version, tried):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: version)

    finding = doctor.python()

    assert (not finding.cure) is tried and not finding.fatal


@pytest.mark.parametrize(
    ("whole", "free", "cure", "fatal"), [(8e9, 1e9, True, False), (0.5e9, 0.4e9, True, True), (8e9, 5e9, False, False)]
)
def test_little_memory_is_said_and_almost_none_stops_the_course(monkeypatch, whole, free, cure, fatal):
    monkeypatch.setattr(doctor, "_memory", lambda: (whole, free))

    finding = doctor.memory()

    assert (bool(finding.cure), finding.fatal) == (cure, fatal)


@pytest.mark.parametrize(("free", "cure", "fatal"), [(50e9, False, False), (2e9, True, False), (1e8, True, True)])
def test_a_full_disk_stops_the_course(monkeypatch, free, cure, fatal):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    finding = doctor.disk()

    assert (bool(finding.cure), finding.fatal) == (cure, fatal)


def test_the_disk_is_that_to_which_out_is_a_link(checkout, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("other disk")
    (checkout / "out").symlink_to(other)
    seen = []
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: seen.append(os.path.realpath(place)) or SimpleNamespace(free=9e9))

    doctor.disk()

    assert seen == [str(other)]


def test_a_folder_of_somebody_else_stops_the_course(checkout, monkeypatch):
    (checkout / "out").mkdir()
    monkeypatch.setattr(doctor, "_ours", lambda place: place != checkout / "out")

    finding = doctor.folder()

    assert finding.fatal and f"you may not write to {checkout / 'out'}" in finding.cure


def test_a_disk_of_a_network_is_worth_a_look(checkout, monkeypatch):
    mounts = [SimpleNamespace(mountpoint=where, fstype=kind) for where, kind in [("/", "ext4"), (str(checkout), "9p"), ("/nowhere", "xfs")]]
    monkeypatch.setattr(doctor.psutil, "disk_partitions", lambda **_: mounts)

    finding = doctor.folder()

    assert finding.state.endswith(", 9p") and "home folder" in finding.cure and not finding.fatal


def test_a_text_that_is_not_utf_8_is_worth_a_look(monkeypatch):
    monkeypatch.setattr(doctor.locale, "getpreferredencoding", lambda _: "ISO-8859-1")

    assert "LC_ALL=C.UTF-8" in doctor.text().cure


@pytest.mark.parametrize("ahead", [-3600, 3600])
def test_a_clock_that_goes_wrong_is_seen_by_the_files(checkout, monkeypatch, ahead):
    now = time.time()
    monkeypatch.setattr(doctor.time, "time", lambda: now + ahead)

    assert "timedatectl" in doctor.clock().cure


@pytest.mark.parametrize(("variables", "cure"), [({}, False), ({"NO_PROXY": "127.0.0.1"}, False), ({"NO_PROXY": "example.org"}, True)])
def test_a_proxy_that_would_be_asked_for_this_machine_is_worth_a_look(monkeypatch, variables, cure):
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv("HTTP_PROXY".lower(), "http://proxy.example.org:3128")
        monkeypatch.setenv(name.lower(), value)

    assert bool(doctor.loopback().cure) is cure


def test_without_a_browser_the_way_to_one_elsewhere_is_said(monkeypatch):
    def none():
        raise doctor.webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(doctor.webbrowser, "get", none)

    assert "ssh -L" in doctor.browser().cure


@pytest.mark.parametrize(
    ("name", "version", "cure"), [("make", "3.81", "gmake"), ("make", "4.3", ""), ("java", "1.8.0", "needs 17"), ("java", "21.0.1", "")]
)
def test_a_program_may_be_too_old(tmp_path, monkeypatch, name, version, cure):
    (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} version \\"{version}\\"" >&2\n')
    (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(programs, "locate", lambda name: str(tmp_path / name))

    finding = doctor.program(name)

    assert finding.state.startswith(version) and cure in finding.cure and bool(finding.cure) is bool(cure)


@pytest.mark.parametrize("text", ["", "echo of no number", "sleep 9", "exit 3"])
def test_a_program_that_does_not_say_its_version_is_here_all_the_same(tmp_path, monkeypatch, text):
    (tmp_path / "redis-server").write_text(f"#!/bin/sh\n{text}\n")
    (tmp_path / "redis-server").chmod(0o755)
    monkeypatch.setattr(programs, "locate", lambda name: str(tmp_path / name))
    monkeypatch.setattr(programs, "SECONDS", 0.5)

    assert doctor.program("redis-server") == ("redis-server", str(tmp_path / "redis-server"), "", False)


def test_every_program_of_a_service_is_looked_at():
    every = doctor.parts(services.SERVICES).values()
    looked = {check.args[0] for checks in every for check in checks if getattr(check, "func", None) is doctor.program}
    ours = {service.command[0] for service in services.SERVICES.values()} - set(programs._packages()) - {"grafana"}  # a container alone

    assert ours <= looked and set(programs.DEBIAN) - {"initdb", "docker-compose"} <= looked


def test_a_port_that_somebody_else_has_is_named_with_its_owner():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        service = Service(name="redis", command=("redis-server",), port=taken.getsockname()[1])

        finding = doctor.port(service)

    assert f"(process {os.getpid()}) has it" in finding.state
    assert "systemctl disable --now redis-server" in finding.cure and "another one, in `features.online_store" in finding.cure


def test_a_port_of_a_service_of_another_checkout_is_a_fault_that_says_where_to_stop_it(monkeypatch, checkout, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "out/dev"
    monkeypatch.setattr(doctor.supervision, "_service_of", lambda pid: ("redis", other))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        finding = doctor.port(Service(name="redis", command=("redis-server",), port=taken.getsockname()[1]))

    assert f"the service redis of {other} has it; `make stop` in its project ends it" in finding.state and finding.cure


def test_a_port_of_a_service_that_the_course_has_started_is_no_fault(monkeypatch):
    monkeypatch.setattr(doctor.supervision, "port_holder", lambda port: "the service redis of out/platform has it; `make stop` ends it")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        finding = doctor.port(Service(name="redis", command=("redis-server",), port=taken.getsockname()[1]))

    assert finding.cure == "" and finding.state.startswith("the service redis of out/platform")


@pytest.mark.parametrize(
    ("fatal", "code", "end"), [(True, 1, "The course cannot run here: disk"), (False, 0, "The course can run here; lines to look at: 1")]
)
def test_the_command_fails_only_where_the_course_itself_cannot_run(monkeypatch, fatal, code, end):
    parts = {"The course": [doctor.Finding("disk", "0 GB free", "free some", fatal), doctor.Finding("text", "UTF-8", "", True)]}
    monkeypatch.setattr(doctor, "examine", lambda file: parts)

    answer = CliRunner().invoke(cli.app, ["doctor"])

    assert answer.exit_code == code and end in answer.output
    assert f"  {'stop' if fatal else 'look'}  disk  0 GB free: free some" in answer.output and "  ok    text  UTF-8\n" in answer.output
