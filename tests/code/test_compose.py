"""What compose.yaml says of the services, without Docker: each rule, and that it sees the fault that it is there for."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from mlops_course import project, recipes, services, stack

COMPOSE = project.root() / "platform/compose.yaml"
ONCE = {"build", "look"}  # they do their work and end: nobody waits for their health or starts them again
WRITTEN = {
    "jupyterlab": {"../notebooks", "../learners"}
}  # folders of this machine that a service may write: a learner's answers, and the progress


def default(value: object) -> str:
    "A value as compose reads it where none of its variables is set."
    return re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", str(value))


def faults(compose: dict[str, Any]) -> list[str]:
    "What a parsed compose.yaml lacks, or has and may not."
    listed = [
        f"`{key}` at the top: version 1.29 or 2 does not know it"
        for key in {*compose} - {"services", "networks", "volumes"}
        if key[:2] != "x-"
    ]
    for name, service in compose["services"].items():
        listed += [f"{name}: {fault}" for fault in faults_of(name, service, compose)]
    if (names := {*compose["services"]} - ONCE) != {*recipes.RECIPES}:
        listed.append(f"services and RECIPES differ by {', '.join(sorted(names ^ {*recipes.RECIPES}))}")
    for group in stack.GROUPS:
        meant = {*stack.ordered(stack.names_of(group)).static_order()}
        if (there := {name for name, each in compose["services"].items() if group in each.get("profiles", ())}) != meant:
            listed.append(f"the profile {group} and the group differ by {', '.join(sorted(there ^ meant))}")
    return listed


def faults_of(name: str, service: dict[str, Any], compose: dict[str, Any]) -> list[str]:
    "The faults of one service."
    user, restart, tag = default(service.get("user", "")), service.get("restart"), default(service.get("image", ""))
    ports, mounts = [default(port) for port in service.get("ports", ())], [default(mount) for mount in service.get("volumes", ())]
    writable = [mount for mount in mounts if mount.startswith(("/", ".", "~")) and not mount.endswith(":ro")]
    needs = service.get("depends_on", {})
    lasting = name not in ONCE
    wrong = {
        "no healthcheck": lasting and not service.get("healthcheck", {}).get("test"),
        f"user {user!r} is root, or nobody says who": user.split(":")[0] in ("", "0", "root"),
        "its root can be written": service.get("read_only") is not True,
        "cap_drop is not [ALL]": service.get("cap_drop") != ["ALL"] or "cap_add" in service,
        "no mem_limit": not service.get("mem_limit"),
        "no-new-privileges is not set": "no-new-privileges:true" not in service.get("security_opt", ()),
        "more rights than a service needs": any(key in service for key in ("privileged", "devices", "pid", "ipc", "network_mode")),
        f"restart is {restart!r}": restart not in (("always", "unless-stopped") if lasting else ("no",)),
        "a port that is not on 127.0.0.1 alone": not all(port.startswith("127.0.0.1:") for port in ports),
        "no profile, so it always starts": not service.get("profiles"),
        "depends_on without service_healthy": not all(
            isinstance(needs, dict) and needs[each] == {"condition": "service_healthy"} for each in needs
        ),
        "an image without a version": not tag.startswith("mlops-course/") and not re.search(r":\d|@sha256:", tag),
        "a folder of this machine that it may write": not {each.split(":")[0] for each in writable} <= WRITTEN.get(name, set()),
        "Docker's socket": any("docker.sock" in mount for mount in mounts),
        "a password": any(map(is_secret, variables_of(service))),
    }
    listed = [fault for fault, is_there in wrong.items() if is_there]
    named = {mount.split(":")[0] for mount in mounts if ":" in mount and mount[0] not in "/.~"}
    listed += [f"the volume {each} is not declared" for each in sorted(named - {*compose.get("volumes", ())})]
    if name in recipes.RECIPES and {*needs} != {*recipes.RECIPES[name].after}:
        listed.append(
            f"it waits for {', '.join(sorted(needs)) or 'nobody'}, and its recipe for {', '.join(recipes.RECIPES[name].after) or 'nobody'}"
        )
    for profile in service.get("profiles", ()):
        lacking = [each for each in needs if profile not in compose["services"].get(each, {}).get("profiles", ())]
        listed += [f"in the profile {profile} it waits for {each}, which is not there" for each in lacking]
    port = services.SERVICES[name].port if name in services.SERVICES else None
    if port and [each for each in ports if each.rsplit(":", 1)[-1] != str(port)]:
        listed.append(f"its port inside is not {port}")
    return listed


def variables_of(service: dict[str, Any]) -> list[str]:
    "NAME=value of its environment, its build's arguments, and each word of its command."
    listed = []
    for table in (
        service.get("environment", {}),
        service.get("build", {}).get("args", {}) if isinstance(service.get("build"), dict) else {},
    ):
        listed += [f"{key}={value}" for key, value in table.items()] if isinstance(table, dict) else map(str, table)
    words = service.get("command", ())
    return listed + (words.split() if isinstance(words, str) else list(map(str, words)))


def is_secret(text: str) -> bool:
    "A variable called so with a value that is neither a file nor a variable; or an address with a password in it."
    name, _, value = text.partition("=")
    named = re.search(r"PASSWORD|PASSWD|SECRET|TOKEN|API_KEY|FERNET", name, re.I) and not re.search(r"FILE|PATH|DIR", name, re.I)
    return bool(named and value and not value.startswith(("$", "/"))) or bool(re.search(r"://[^/\s:@]*:[^/\s@$]+@", text))


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))


def test_compose_keeps_each_rule(written):
    assert faults(written) == []


PLANTED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a name": (lambda file: file.update(name="mlops"), "`name` at the top"),
    "a version": (lambda file: file.update(version="3.9"), "`version` at the top"),
    "a service of nobody": (lambda file: file["services"].update(mysql=copy.deepcopy(file["services"]["redis"])), "differ by mysql"),
    "no service": (lambda file: file["services"].pop("node_exporter"), "differ by node_exporter"),
    "a group": (lambda file: file["services"]["redis"]["profiles"].remove("feast"), "the profile feast and the group differ by redis"),
    "a need in another profile": (
        lambda file: file["services"]["serving"]["profiles"].append("alone"),
        "serving: in the profile alone it waits for mlflow, which is not there",
    ),
}
ON_REDIS: dict[str, tuple[dict[str, Any], str]] = {
    "health": ({"healthcheck": {"disable": True}}, "no healthcheck"),
    "root": ({"user": "${COURSE_USER:-0:0}"}, "user '0:0' is root"),
    "a root by name": ({"user": "root"}, "user 'root' is root"),
    "no user": ({"user": ""}, "user '' is root"),
    "root file system": ({"read_only": False}, "its root can be written"),
    "capabilities": ({"cap_add": ["NET_ADMIN"]}, "cap_drop is not [ALL]"),
    "kept capabilities": ({"cap_drop": ["CHOWN"]}, "cap_drop is not [ALL]"),
    "memory": ({"mem_limit": None}, "no mem_limit"),
    "new privileges": ({"security_opt": ["seccomp=unconfined"]}, "no-new-privileges"),
    "privileged": ({"privileged": True}, "more rights"),
    "the host's network": ({"network_mode": "host"}, "more rights"),
    "restart": ({"restart": "no"}, "restart is 'no'"),
    "a port for all": ({"ports": ["6378:6378"]}, "127.0.0.1 alone"),
    "another port": ({"ports": ["127.0.0.1:6378:6379"]}, "its port inside is not 6378"),
    "no profile": ({"profiles": []}, "no profile"),
    "a need": ({"depends_on": ["postgres"]}, "depends_on without service_healthy"),
    "a need that has begun": ({"depends_on": {"postgres": {"condition": "service_started"}}}, "depends_on without service_healthy"),
    "a need of nobody": (
        {"depends_on": {"postgres": {"condition": "service_healthy"}}},
        "it waits for postgres, and its recipe for nobody",
    ),
    "the newest image": ({"image": "redis:latest"}, "an image without a version"),
    "a folder": ({"volumes": ["./redis:/etc/redis"]}, "a folder of this machine"),
    "the daemon": ({"volumes": ["/var/run/docker.sock:/var/run/docker.sock:ro"]}, "Docker's socket"),
    "a folder of another service": ({"volumes": ["../notebooks:/course/notebooks"]}, "a folder of this machine"),
    "a volume": ({"volumes": ["nowhere:/var/lib/mlops-course"]}, "the volume nowhere is not declared"),
    "a variable": ({"environment": {"REDIS_PASSWORD": "swordfish"}}, "a password"),
    "a variable in a list": ({"environment": ["REDISCLI_AUTH_TOKEN=swordfish"]}, "a password"),
    "an address": ({"command": ["serve", "postgresql://mlops:swordfish@postgres/mlflow"]}, "a password"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_of_the_file_is_seen(written, fault):
    file, (plant, words) = copy.deepcopy(written), PLANTED[fault]
    plant(file)

    assert any(words in line for line in faults(file)), faults(file)


@pytest.mark.parametrize("fault", ON_REDIS)
def test_a_fault_of_a_service_is_seen(written, fault):
    file, (change, words) = copy.deepcopy(written), ON_REDIS[fault]
    file["services"]["redis"].update(change)

    assert any(line.startswith("redis: ") and words in line for line in faults(file)), faults(file)


def test_a_password_in_a_file_or_in_a_variable_is_no_fault():
    assert not any(
        map(is_secret, ["POSTGRES_PASSWORD_FILE=/etc/mlops-course/password", "KEY=${KEY}", "API_KEY=$KEY", "http://mlflow:5000"])
    )
