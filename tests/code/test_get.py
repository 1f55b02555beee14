"""platform/get.sh where there is nothing to get, where it cannot, and with a Maven that brings what it will: no network is needed."""

import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from mlops_course import project

SCRIPT = "platform/get.sh"


TOOLS = ("sh", "dirname", "id", "sed", "printf", "grep", "sha256sum", "cut", "ls", "mkdir", "mv", "rm", "cat", "chmod")
BRINGS = 'for last; do :; done; mkdir -p "${last#*=}" && cd "${last#*=}" && echo one >one.jar && echo two >two.jar'
MAVEN = {
    "as pinned": BRINGS,
    "altered": f"{BRINGS} && echo three >two.jar",
    "missing": f"{BRINGS} && rm two.jar",
    "one more": f"{BRINGS} && echo three >three.jar",
}


def get(folder: Path, *names: str, **programs: str) -> subprocess.CompletedProcess:
    "Run a copy of the script that finds a few tools, and of all other programs only these: what each does, in sh."
    (folder / "platform/kafka").mkdir(parents=True)
    shutil.copy(project.root() / SCRIPT, folder / SCRIPT)
    pinned = [f"{sha256(text.encode()).hexdigest()}  {text.strip()}.jar\n" for text in ("one\n", "two\n")]
    (folder / "platform/kafka/SHA256SUMS").write_text("".join(pinned))
    (folder / "bin").mkdir()
    for tool in TOOLS:
        os.symlink(shutil.which(tool), folder / "bin" / tool)
    for name, text in programs.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    return subprocess.run(
        ["sh", SCRIPT, *names], cwd=folder, env={"PATH": str(folder / "bin")}, capture_output=True, text=True, check=False
    )


def test_programs_that_are_here_are_left_alone(tmp_path):
    done = get(tmp_path, "prometheus", "prometheus-alertmanager", prometheus="", alertmanager="")

    assert done.returncode == 0 and not (tmp_path / "out").exists()
    assert f"prometheus: {tmp_path}/bin/prometheus" in done.stdout
    assert f"prometheus-alertmanager: {tmp_path}/bin/alertmanager" in done.stdout


@pytest.mark.parametrize(
    ("version", "enough"), [('openjdk version "17.0.15" 2025', True), ('java version "1.8.0_402"', False), ("none here", False)]
)
def test_a_java_that_is_too_old_for_kafka_does_not_count(tmp_path, version, enough):
    done = get(tmp_path, "java", java=f"echo '{version}' >&2")

    assert (done.returncode == 0) is enough and ("Get java from" in done.stderr) is not enough


def test_where_there_is_no_apt_it_says_what_to_get_and_gets_what_it_can(tmp_path):
    done = get(
        tmp_path,
        "prometheus",
        "prometheus-alertmanager",
        "kafka",
        prometheus="",
        java="echo 'version \"21.0.1\"' >&2",
        mvn=MAVEN["as pinned"],
    )

    assert done.returncode == 1 and os.listdir(tmp_path / "out/programs/bin") == ["kafka"]
    assert "Get prometheus-alertmanager from" in done.stderr and "brew install" in done.stderr


def test_a_name_that_it_does_not_know_is_refused_with_those_that_it_knows(tmp_path):
    done = get(tmp_path, "grafana")

    assert done.returncode == 1 and "grafana is not among: redis-server postgres" in done.stderr


@pytest.mark.parametrize("brought", ["altered", "missing", "one more"])
def test_kafka_is_not_used_if_a_file_of_it_is_not_the_one_that_was_pinned(tmp_path, brought):
    done = get(tmp_path, "kafka", java="echo 'version \"17.0.1\"' >&2", mvn=MAVEN[brought])

    assert done.returncode == 1 and "other files than platform/kafka/SHA256SUMS names" in done.stderr
    assert not (tmp_path / "out/programs/bin/kafka").exists() and not (tmp_path / "out/programs/kafka").exists()


def test_kafka_starts_with_the_java_that_is_there_and_what_is_pinned(tmp_path):
    done = get(tmp_path, "kafka", java='case $1 in -version) echo \'version "17.0.1"\' >&2;; *) echo "$@";; esac', mvn=MAVEN["as pinned"])
    assert done.returncode == 0, done.stderr
    moved = (tmp_path / "out").rename(tmp_path / "moved") / "programs"

    ran = subprocess.run(
        [moved / "bin/kafka", "kafka.Kafka", "a b"], env={"PATH": str(tmp_path / "bin")}, capture_output=True, text=True, check=True
    )

    assert ran.stdout.endswith(f"-cp {moved}/kafka/* kafka.Kafka a b\n")
