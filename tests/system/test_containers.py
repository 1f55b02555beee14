"""The platform in containers, for real: a build in one, then services that answer, are killed, come back, and leave nothing behind."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import daemons
import httpx
import pytest
from online import wait_for
from rides import CONTRACT
from workshop import Workshop

from mlops_course import containers, passwords, recipes, stack, supervision

pytestmark = pytest.mark.patient
FILE = "env.there.yaml"
STARTED = ("postgres", "redis", "mlflow", "serving")


# --- a daemon to test with --------------------------------------------------------------------


def test_the_mirror_is_that_of_debians_own_sources_in_either_form():
    new = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n"
    old = "# deb http://gone.example bookworm main\ndeb [arch=amd64] http://old.example/debian bookworm main contrib\n"
    other = "deb https://other.example/apt bookworm-pgdg main\ndeb https://docker.example bookworm stable\n"

    assert daemons.mirror_of(f"{other}\n\n{new}", "bookworm") == "http://mirror.example/debian"
    assert daemons.mirror_of(other + old, "bookworm") == "http://old.example/debian"
    assert daemons.mirror_of(other + new, "trixie") == ""  # debootstrap knows Debian's own


def test_what_a_daemon_adds_to_the_packet_filter_is_taken_away_and_what_it_drops_put_back():
    table = ("iptables", "-w", "-t", "filter")
    before = [
        (*table, "-P", "FORWARD", "ACCEPT"),
        (*table, "-A", "DOCKER", "-i", "docker0", "-j", "RETURN"),
        (*table, "-A", "INPUT", "-j", "DROP"),
    ]
    kept = (*table, "-A", "INPUT", "-p", "tcp", "-j", "ACCEPT")  # somebody else's, meanwhile
    added = [(*table, "-N", "DOCKER-USER"), (*table, "-A", "FORWARD", "-o", "course7", "-j", "ACCEPT")]

    commands = daemons.undone(before, [(*table, "-P", "FORWARD", "DROP"), before[2], kept, *added], "course7")

    assert commands == [
        (*table, "-D", "FORWARD", "-o", "course7", "-j", "ACCEPT"),
        (*table, "-X", "DOCKER-USER"),
        before[0],
        (*table, "-I", "DOCKER", "-i", "docker0", "-j", "RETURN"),
    ]


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="a docker daemon is started by root on Linux")
def test_a_daemon_that_cannot_start_says_why_and_leaves_nothing():
    daemons.needed("dockerd", "iptables", "ip", "setpriv")
    folders = {*Path("/tmp").glob("docker-*")}

    with pytest.raises(pytest.fail.Exception, match="driver not supported"), daemons.own_daemon("docker", **{"storage-driver": "none"}):
        pass

    assert {*Path("/tmp").glob("docker-*")} <= folders
    assert not [command for command in daemons.living(Path("/tmp")) if "/tmp/docker-" in command and "storage" in command]
    assert not [link for link in os.listdir("/sys/class/net") if link.startswith(daemons.BRIDGE)]
    assert not [rule for rule in daemons.rules() if any(word.startswith(daemons.BRIDGE) for word in rule)]


# --- the platform -----------------------------------------------------------------------------


class There(NamedTuple):
    "A copy of the project whose platform is in containers."

    workshop: Workshop
    platform: recipes.Platform
    docker: daemons.Docker

    def script(self, *words: str) -> tuple[int, str]:
        "`bash platform/run.sh` for containers: exit code and all that it printed."
        return self.workshop.call("/bin/bash", "platform/run.sh", *words, "--env", FILE, "--runtime", "docker")

    def ours(self, kind: str, *words: str) -> list[str]:
        "The ids of this copy's containers, networks or volumes."
        label = f"label=com.docker.compose.project={containers.project_name()}"
        return self.docker(kind, "ls", "--quiet", "--filter", label, *words).split()

    def cleared(self) -> None:
        "Take all of it away, whatever a test has done to it."
        for kind, remove, *which in (("container", ("rm", "--force"), "--all"), ("network", ("rm",)), ("volume", ("rm",))):
            if names := self.ours(kind, *which):
                self.docker(kind, *remove, *names)

    def inspected(self) -> dict[str, dict[str, Any]]:
        "What Docker knows of the container of each service."
        known = json.loads(self.docker("inspect", *self.ours("container", "--all")))
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in known}

    def healths(self) -> dict[str, str]:
        "The word of `status` for each service that was started."
        code, printed = self.script("all", "status")
        assert code == 0, printed
        return {name: word for name, word in re.findall(r"^(\w+) +(not healthy|\w+)", printed, re.M) if name in STARTED}

    def booking(self, number: int) -> dict[str, Any]:
        "The answer of the online service to a booking."
        body = {"request_id": f"ride {number}", "driver_ids": self.drivers()}
        answer = httpx.post(f"{self.platform.listed['serving'].address}/inference", json=body, timeout=30, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def drivers(self) -> list[int]:
        "Some that the build knows."
        code = f"import pandas; print(*pandas.read_parquet('out/there/data/statistics.parquet').{CONTRACT.entity}.unique()[:20])"
        container = self.inspected()["serving"]["Id"]
        return [int(number) for number in self.docker("exec", container, "python", "-c", code).split()]


@pytest.fixture(scope="module")
def docker() -> Iterator[daemons.Docker]:
    with daemons.daemon() as docker:
        yield docker


@pytest.fixture(scope="module")
def there(workshop, docker) -> Iterator[There]:
    daemons.in_containers(workshop, docker, FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workshop.folder)
        made = There(workshop, recipes.Platform(FILE), docker)
        try:
            for words in (("build", "up"), ("serving", "up")):
                code, output = made.script(*words)
                assert code == 0 and "left out" not in output, output
            yield made
        finally:
            made.cleared()


def test_compose_finds_no_fault_in_the_file(there):
    variables = {**there.workshop.variables, "COMPOSE_PROJECT_NAME": containers.project_name()}
    command = [*daemons.composer(there.docker), "-f", "platform/compose.yaml"]

    for profile in (*stack.GROUPS, "grafana", "build"):
        words = [*command, "--profile", profile, "config", "--quiet"]
        checked = subprocess.run(words, cwd=there.workshop.folder, env=variables, capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_a_booking_is_answered_with_features_of_redis_by_the_champion_of_the_build(there):
    answer = there.booking(1)

    assert (answer["version"], answer["degraded"], answer["error"]) == ("1", False, None)
    assert {one["features"] for one in answer["candidates"]} <= {"fresh", "partial"}


def test_status_and_logs_say_the_words_that_they_say_without_docker(there):
    assert there.healths() == dict.fromkeys(STARTED, "healthy")
    port = there.platform.listed["redis"].port
    assert (
        f'healthy      REDISCLI_AUTH="$(cat platform/redis/run_env/password)" redis-cli -p {port}\n' in there.script("redis", "status")[1]
    )
    code, printed = there.script("redis", "logs")
    assert code == 0 and printed.startswith("== redis: docker logs ") and "Ready to accept connections" in printed
    assert re.search(r"^kafka +stopped$", there.script("kafka", "status")[1], re.M)


def test_docker_itself_calls_each_of_them_healthy(there):
    "Those that stand on another one wait for that where `docker compose up` starts them."
    wait_for(lambda: {each["State"]["Health"]["Status"] for each in there.inspected().values()} == {"healthy"}, 60)


def test_no_container_may_more_than_it_must(there):
    inspected = there.inspected()

    assert set(inspected) == set(STARTED)
    for name, each in inspected.items():
        bindings = [binding["HostIp"] for ways in each["NetworkSettings"]["Ports"].values() for binding in ways or ()]
        assert set(bindings) == {"127.0.0.1"}, name
        assert each["HostConfig"]["ReadonlyRootfs"] and each["HostConfig"]["Memory"] > 0, name
        code = "id -u; grep -h -e CapEff -e NoNewPrivs /proc/self/status; touch /course/x 2>/dev/null && echo written"
        user, *rest = there.docker("exec", each["Id"], "sh", "-c", f"{code}; true").split("\n")
        assert int(user) != 0 and rest == ["CapEff:\t0000000000000000", "NoNewPrivs:\t1"], name


def test_no_password_is_in_what_docker_shows(there):
    secrets = [passwords.password(passwords.run_env(name)) for name in ("redis", "postgres")]
    texts = [json.dumps(there.inspected()), there.script("all", "logs")[1]]
    texts += [there.docker("history", "--no-trunc", each["Image"]) for each in there.inspected().values()]

    assert not [secret for secret in secrets if any(secret in text for text in texts)]


def kill(there: There, name: str) -> None:
    "Kill the first process of a container as the kernel would: after `docker kill` it would stay dead."
    state = there.inspected()[name]["State"]
    there.docker("run", "--rm", "--pid=host", "--user=0", there.workshop.variables["BASE"], "sh", "-c", f"kill -9 {state['Pid']}")
    wait_for(lambda: (now := there.inspected()[name])["RestartCount"] and now["State"]["Pid"] not in (0, state["Pid"]), 60, pause=0.2)


def test_a_killed_redis_and_a_killed_serving_come_back_and_answer(there):
    for name in ("redis", "serving"):
        kill(there, name)

    wait_for(lambda: set(there.healths().values()) == {"healthy"}, 60, pause=0.5)
    answer = there.booking(2)
    assert (answer["version"], answer["degraded"], answer["error"]) == ("1", False, None)
    assert {one["features"] for one in answer["candidates"]} <= {"fresh", "partial"}, "Redis has what it had"
    before = {name: each["Id"] for name, each in there.inspected().items()}
    code, output = there.script("serving", "up")
    assert code == 0 and {name: each["Id"] for name, each in there.inspected().items()} == before, output


def test_a_container_that_ends_again_and_again_is_ended_with_its_last_words(there):
    config = there.workshop.folder / "platform/alertmanager/alertmanager.yml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text + "politics: liberal\n", encoding="utf-8")

    code, output = there.script("alertmanager", "up")

    config.write_text(text, encoding="utf-8")
    assert code == 1 and "service alertmanager ended before it could be used. The end of `docker logs " in output, output
    assert "politics" in output
    assert "alertmanager" not in there.inspected()


def test_serving_ends_well_when_it_is_asked_to(there):
    container = there.inspected()["serving"]["Id"]

    there.docker("stop", container)

    state = there.inspected()["serving"]["State"]
    assert (state["Status"], state["ExitCode"], state["OOMKilled"]) == ("exited", 0, False)
    assert there.healths()["serving"] == "stopped"


def test_down_with_volumes_leaves_nothing(there):
    code, printed = there.script("all", "down", "--volumes")

    assert code == 0 and "stopped: mlflow, redis, postgres\n" in printed and "taken away:\n" in printed
    assert [there.ours(kind, *more) for kind, *more in (("container", "--all"), ("network",), ("volume",))] == [[], [], []]
    left = (path for path in there.workshop.folder.glob("platform/*/run_env/**/*") if path.name != ".gitkeep")
    assert [*left] == []
    assert not [service.name for service in there.platform.listed.values() if service.port and supervision.taken(service.port)]
