"""Docker for the tests: the machine's daemon if one answers, else one that lives as long as they do; and a base where no registry is near."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import checkouts
import disks
import psutil
import pytest
import yaml
from workshop import Workshop

from mlops_course import containers, project

# what a daemon of our own and a base made on the spot need, and Debian's packages that bring it
PACKAGES = {"dockerd": "docker.io", "iptables": "iptables", "ip": "iproute2", "setpriv": "util-linux", "debootstrap": "debootstrap"}
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
TRUST = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
BRIDGE = "course"  # of a daemon of our own, with a number
MADE_HERE = "mlops-course/base:made-here"


class Docker:
    "A client and the daemon that it asks."

    def __init__(self, program: str, **variables: str):
        self.program = program
        self.variables = {**os.environ, "DOCKER_BUILDKIT": "1", **variables}

    def run(self, *words: str, **more) -> subprocess.CompletedProcess[str]:
        "Ask the daemon, and take what comes of it."
        options = {"capture_output": True, "text": True, "timeout": 600, "env": self.variables, **more}
        return subprocess.run([self.program, *words], **options)

    def __call__(self, *words: str, **more) -> str:
        "What the daemon answers. It must go well."
        done = self.run(*words, **more)
        assert done.returncode == 0, f"docker {shlex.join(words)}: {done.stdout[-1000:]}{done.stderr[-3000:]}"
        return done.stdout.strip()


def needed(*programs: str) -> None:
    "Skip the test if one of these programs is not here, and say what brings it."
    if lacking := sorted({PACKAGES[name] for name in programs if not shutil.which(name)}):
        pytest.skip(f"containers need {', '.join(programs)}: apt-get install {' '.join(lacking)}")


def composer(docker: Docker) -> list[str] | None:
    "The command of Docker Compose: the plugin of the client, or the program of version 1."
    if docker.run("compose", "version").returncode == 0:
        return [docker.program, "compose"]
    old = shutil.which("docker-compose")
    return [old] if old else None


@contextmanager
def daemon() -> Iterator[Docker]:
    "The daemon that answers, else one that ends with the block. What is missing for both skips the test."
    try:
        docker = Docker(containers.client())
    except project.UserError as error:
        pytest.skip(str(error))
    if composer(docker) is None:
        pytest.skip("containers need Docker Compose: apt-get install docker-compose, or its plugin")
    if docker.run("info", "--format", "{{.OSType}}").stdout.strip() == "linux":
        yield docker
        return
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("no docker daemon answers, and one of our own is started by root on Linux")
    needed("dockerd", "iptables", "ip", "setpriv")
    with own_daemon(docker.program) as docker:
        yield docker


def in_containers(workshop: Workshop, docker: Docker, file: str, **changes: Any) -> None:
    "Let a copy of the project run its platform in containers: a small environment with free ports, in a file, and a base that is here."
    small = yaml.safe_load((workshop.folder / "env.test.yaml").read_text(encoding="utf-8"))
    small.pop("features")  # of the platform they are on servers
    checkouts.platform_on_free_ports(workshop.folder, file, **{**small, **changes, "out": "out/there"})
    workshop.with_run_sh()
    workshop.variables |= docker.variables | {"BASE": base_image(docker)}


# --- a daemon of our own ----------------------------------------------------------------------


@contextmanager
def own_daemon(program: str, **settings) -> Iterator[Docker]:
    "A daemon with everything in a folder of its own, which is gone afterwards; `settings` go into its daemon.json."
    folder = Path(tempfile.mkdtemp(prefix="docker-", dir="/tmp"))  # a socket's path has at most 107 characters
    socket, log = f"unix://{folder}/docker.sock", folder / "dockerd.log"
    places = {"data-root": f"{folder}/data", "exec-root": f"{folder}/exec", "pidfile": f"{folder}/pid", "hosts": [socket]}
    docker = Docker(program, DOCKER_HOST=socket)
    with _network() as bridge:
        config = {**places, "bridge": bridge, "ip": "127.0.0.1", "features": {"buildkit": True}, "log-level": "warn", **settings}
        (folder / "daemon.json").write_text(json.dumps(config), encoding="utf-8")
        # it ends with the tests, also if these are killed
        command = ["setpriv", "--pdeathsig", "TERM", "dockerd", "--config-file", str(folder / "daemon.json")]
        with open(log, "wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        try:
            _await(docker, process, log)
            try:
                yield docker
            finally:
                _emptied(docker)
        finally:
            process.terminate()
            process.wait(60)
            _ended(folder)
            shutil.rmtree(folder)


def _await(docker: Docker, process: subprocess.Popen, log: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while docker.run("info").returncode:
        if process.poll() is not None or time.monotonic() > until:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
            pytest.fail("the docker daemon of the tests has not started. Its last words:\n" + "\n".join(lines), pytrace=False)
        time.sleep(0.1)


def _emptied(docker: Docker) -> None:
    "Take its containers and networks away: a daemon that ends leaves the bridges of its networks behind."
    if names := docker("ps", "--all", "--quiet").split():
        docker("rm", "--force", "--volumes", *names)
    docker("network", "prune", "--force")


def mounts(folder: Path) -> list[str]:
    "What is mounted below a folder."
    return [
        place
        for place in re.findall(r"^\S+ (\S+)", Path("/proc/mounts").read_text(encoding="utf-8"), re.M)
        if place.startswith(f"{folder}/")
    ]


def living(folder: Path) -> list[str]:
    "The commands of processes that have to do with a folder."
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [command for command in commands if f"{folder}/" in command]


def _ended(folder: Path) -> None:
    "Wait for containerd and the others to end after their daemon; one that has failed leaves its folder mounted on itself."
    until = time.monotonic() + 20
    while left := living(folder):
        assert time.monotonic() < until, "\n".join(["the docker daemon of the tests has ended, and these live on:", *left])
        time.sleep(0.1)
    for place in reversed(mounts(folder)):
        subprocess.run(["umount", place], check=True)


@contextmanager
def _network() -> Iterator[str]:
    "A bridge of our own, so that another daemon keeps docker0; afterwards the rules and settings are those of before."
    before, forwards = rules(), Path("/proc/sys/net/ipv4/ip_forward")
    forwarded, bridge, number = forwards.read_text(encoding="ascii"), f"{BRIDGE}{os.getpid() % 10**7}", os.getpid() % 250
    subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)
    try:
        # of the addresses that are kept for tests of networks (RFC 2544): nobody's
        subprocess.run(["ip", "address", "add", f"198.18.{number}.1/24", "dev", bridge], check=True)
        yield bridge
    finally:
        subprocess.run(["ip", "link", "delete", bridge], check=True)
        for command in undone(before, rules(), bridge):
            subprocess.run(command, check=True)
        forwards.write_text(forwarded, encoding="ascii")


def rules() -> list[tuple[str, ...]]:
    "What the kernel's packet filter does, as the words of the commands that would say it."
    listed = []
    for program, table in product(("iptables", "ip6tables"), ("filter", "nat", "raw")):
        if place := shutil.which(program):
            done = subprocess.run([place, "-w", "-t", table, "-S"], capture_output=True, text=True)
            listed += [(place, "-w", "-t", table, *shlex.split(line)) for line in done.stdout.splitlines()]
    return listed


def undone(before: list[tuple[str, ...]], after: list[tuple[str, ...]], bridge: str) -> list[tuple[str, ...]]:
    "The commands that take away what a daemon has added, and put back the policies, and the rules of another daemon, that it has dropped."
    new = [rule for rule in after if rule not in before and any(word == bridge or word.startswith("DOCKER") for word in rule)]
    gone = [(*rule[:4], undo, *rule[5:]) for do, undo in (("-A", "-D"), ("-N", "-X")) for rule in new if rule[4] == do]
    lost = [rule for rule in before if rule not in after]
    # at the top, since a chain of Docker's ends on RETURN
    back = [(*rule[:4], "-I", *rule[5:]) for rule in reversed(lost) if rule[4] == "-A"]
    return gone + [rule for rule in lost if rule[4] == "-P"] + back


# --- the base of the images -------------------------------------------------------------------


def base_image(docker: Docker) -> str:
    "The base that the Dockerfile names, if it can be had; else one that is made here, of the mirror from which this machine has its packages."
    named = re.search(r"^ARG BASE=(\S+)", (project.root() / "platform/Dockerfile").read_text(encoding="utf-8"), re.M)[1]
    if docker.run("image", "inspect", named).returncode == 0 or _pulled(docker, named):
        return named
    if docker.run("image", "inspect", MADE_HERE).returncode:
        if os.geteuid() != 0:
            pytest.skip(f"{named} cannot be pulled, and a base is made by root")
        needed("debootstrap")
        with tempfile.TemporaryDirectory(prefix="base-", dir="/tmp") as folder, disks.disk(Path(folder), "size=1g"):
            _make_base(docker, Path(folder), re.search(r":(\w+)", named)[1])  # in memory in half the time
    return MADE_HERE


def _pulled(docker: Docker, name: str) -> bool:
    try:
        return docker.run("pull", "--quiet", name, timeout=60).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _make_base(docker: Docker, folder: Path, suite: str) -> None:
    "Debian's smallest system, which trusts whom this machine trusts, as an image."
    mirror = mirror_of(_sources(), suite)
    made = subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=ca-certificates", suite, str(folder), *filter(None, [mirror])],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, f"debootstrap from {mirror}: {made.stdout[-2000:]}{made.stderr[-2000:]}"
    bundle = Path(os.environ.get("SSL_CERT_FILE", CERTIFICATES)).read_text(encoding="utf-8")
    # one by one, as update-ca-certificates wants them, which packages call as well
    for number, each in enumerate(re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", bundle, re.S)):
        (folder / f"usr/local/share/ca-certificates/machine-{number}.crt").write_text(each, encoding="utf-8")
    subprocess.run(["chroot", str(folder), "update-ca-certificates"], check=True, capture_output=True)
    subprocess.run(["chroot", str(folder), "apt-get", "clean"], check=True)
    variables = [word for name in TRUST for word in ("-c", f"ENV {name}={CERTIFICATES}")]
    with subprocess.Popen(["tar", "-C", str(folder), "-c", "."], stdout=subprocess.PIPE) as packed:
        docker("import", *variables, "-", MADE_HERE, stdin=packed.stdout)


def _sources() -> str:
    "Where apt has this machine's packages from; the system's own files first."
    apt = Path("/etc/apt")
    own = [apt / "sources.list", apt / "sources.list.d/debian.sources"]
    files = own + sorted({*(apt / "sources.list.d").glob("*.*")} - {*own})
    return "\n\n".join(
        file.read_text(encoding="utf-8", errors="replace") for file in files if file.suffix in (".list", ".sources") and file.is_file()
    )


def mirror_of(sources: str, suite: str) -> str:
    "The first address that has a suite of Debian, in either form of apt's sources; empty if none has: debootstrap knows Debian's own."
    for part in re.split(r"\n\s*\n", sources):
        fields = dict(re.findall(r"^(\w[\w-]*):[ \t]*(.*)$", part, re.M))
        if suite in fields.get("Suites", "").split() and "main" in fields.get("Components", "").split():
            return fields["URIs"].split()[0]
        if line := re.search(rf"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+{suite}\s.*\bmain\b", part, re.M):
            return line[1]
    return ""
