"""What the images promise, as far as it can be read: platform/Dockerfile, .dockerignore, the locks, .devcontainer. tests/system builds them."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

from mlops_course import project

ROOT = project.root()
TARGETS = {"redis", "postgres", "kafka", "prometheus", "alertmanager", "node_exporter", "course", "workshop", "airflow"}
BUILDERS = {"gcc", "g++", "build-essential", "make", "git", "maven", "python3-dev", "python3-pip", "python3-venv"}
LEFT_OUT = {"mypy", "nbclassic"}  # what nobody loads: sqlalchemy's checker of types, and the classic Notebook
DIGEST = f"sha256:{'0a' * 32}"


class Stages:
    "The stages of a Dockerfile: their instructions in order, each with its words."

    def __init__(self, text: str):
        text = re.sub(r"\\\n(\s*#.*\n)*", " ", re.sub(r"^#.*\n", "", text, flags=re.M))
        self.parents, self.steps, name = {}, {}, ""
        self.steps[name] = []  # before the first FROM
        for line in filter(str.strip, text.splitlines()):
            instruction, words = line.split(maxsplit=1)
            if instruction == "FROM":
                parent, name = words.split(" AS ")
                self.parents[name], self.steps[name] = parent, []
            else:
                self.steps[name].append((instruction, words))

    def chain(self, name: str) -> list[str]:
        "A stage, what it stands on, and so on."
        return [name, *self.chain(self.parents[name])] if name in self.parents else []

    def words(self, name: str, instruction: str) -> list[str]:
        return [words for step, words in self.steps[name] if step == instruction]

    def packages(self, name: str) -> set[str]:
        "Debian's packages that an image asks for."
        runs = [words for stage in self.chain(name) for words in self.words(stage, "RUN")]
        asked = [word for run in runs for words in re.findall(r"apt-get install ([^&]+)", run) for word in words.split()]
        return {word for word in asked if not word.startswith("-")}


DOCKERFILE = Stages((ROOT / "platform/Dockerfile").read_text(encoding="utf-8"))
RUNS = [(name, run) for name in DOCKERFILE.parents for run in DOCKERFILE.words(name, "RUN")]


# --- the Dockerfile ---------------------------------------------------------------------------


def test_there_is_a_target_for_each_image_and_compose_asks_for_no_other():
    assert set(DOCKERFILE.parents) >= TARGETS
    if (compose := ROOT / "platform/compose.yaml").is_file():
        services = yaml.safe_load(compose.read_text(encoding="utf-8"))["services"].values()
        assert {each["build"]["target"] for each in services if "build" in each} <= TARGETS


def test_every_stage_stands_on_the_base_which_is_an_argument():
    assert {DOCKERFILE.chain(name)[-1] for name in DOCKERFILE.parents} == {"base"}
    assert DOCKERFILE.parents["base"] == "${BASE}"


def test_the_base_of_the_dockerfile_is_the_one_that_is_pinned():
    pinned = re.search(r"^BASE=([^@\n]+)", (ROOT / "platform/images.env").read_text(encoding="utf-8"), flags=re.M)[1]

    assert ("ARG", f"BASE={pinned}") in DOCKERFILE.steps[""]


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_no_image_runs_as_root(name):
    assert DOCKERFILE.words(name, "USER")[-1] == "10001:0"


@pytest.mark.parametrize("name", sorted(TARGETS - {"workshop"}))
def test_no_image_has_what_builds_programs(name):
    assert DOCKERFILE.packages(name) & BUILDERS == set()


def test_the_workshop_has_what_make_needs():
    assert DOCKERFILE.packages("workshop") & BUILDERS == {"git", "make", "python3-venv"}


def test_what_installs_packages_is_lent_to_the_images_and_never_copied():
    from_tools = [words for name in DOCKERFILE.parents for words in DOCKERFILE.words(name, "COPY") if "--from=tools" in words]

    assert from_tools == [] and all("tools" not in DOCKERFILE.chain(name) for name in TARGETS)


def test_the_address_of_the_index_which_may_hold_a_password_is_in_no_image():
    knowing = {name for name, steps in DOCKERFILE.steps.items() if any("PIP_INDEX_URL" in words for _, words in steps)}

    assert knowing == {"tools"}


@pytest.mark.parametrize(("name", "run"), [each for each in RUNS if "apt-get" in each[1]])
def test_debians_packages_come_alone_and_their_lists_do_not_stay(name, run):
    assert run.count("apt-get install") == run.count("--no-install-recommends")
    if any(name in DOCKERFILE.chain(target) for target in TARGETS):
        assert "rm -rf /var/lib/apt/lists/*" in run


@pytest.mark.parametrize("run", [run for _, run in RUNS if "pip install" in run and "-r " in run])
def test_every_wheel_is_compared_with_the_digest_of_a_lock(run):
    assert "--require-hashes" in run


def test_uv_is_the_one_of_make_setup():
    assert "$(sed -n s/^uv=//p /setup.sh)" in " ".join(DOCKERFILE.words("tools", "RUN"))
    assert len(re.findall(r"^uv=uv==[\d.]+$", (ROOT / "platform/setup.sh").read_text(encoding="utf-8"), flags=re.M)) == 1


def test_a_stage_is_read_with_what_it_stands_on():
    stages = Stages("ARG BASE=x\nFROM ${BASE} AS a\nRUN apt-get install -y \\\n    # why\n    gcc && true\nFROM a AS b\nUSER root\n")

    assert (stages.chain("b"), stages.packages("b"), stages.words("b", "USER")) == (["b", "a"], {"gcc"}, ["root"])


# --- the locks --------------------------------------------------------------------------------


def locked(file: str) -> dict[str, str]:
    "What a lock says of each package: version, condition and digests."
    text = re.sub(r"^ *#.*\n", "", (ROOT / file).read_text(encoding="utf-8"), flags=re.M)
    return {re.match(r"[\w.-]+", entry)[0]: entry.strip() for entry in re.split(r"\n(?=\w)", text.strip())}


def declared(*names: str) -> set[str]:
    "The distributions that lists of settings.ini ask for."
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    return {re.match(r"[\w-]+", word)[0].lower() for name in names for word in settings["DEFAULT"][name].split()}


def test_the_images_have_the_versions_and_digests_of_the_workbook():
    whole, part = locked("requirements.lock"), locked("platform/course/requirements.lock")

    assert {name: entry for name, entry in part.items() if whole.get(name) != entry} == {}


def test_the_images_have_what_the_package_and_a_build_ask_for_and_no_more_than_they_need():
    part = set(locked("platform/course/requirements.lock"))

    assert declared("requirements", "build_requirements") - part == set()
    assert part & (declared("dev_requirements") - {"nbclient", "nbformat", "pillow", "requests", "jsonschema"}) == set()


def test_what_is_left_out_of_the_images_is_known():
    lock = (ROOT / "platform/course/requirements.lock").read_text(encoding="utf-8")
    [left_out] = re.findall(r"^# The following packages were excluded from the output:\n((?:# \S+\n?)+)", lock, flags=re.M)

    assert set(re.findall(r"\S+", left_out.replace("#", ""))) == LEFT_OUT


# --- what gets into them ----------------------------------------------------------------------


def in_context(path: str, rules: str) -> bool:
    "Whether Docker is given a file: the last rule that names it, or a folder that it is in, decides."
    given = True
    for rule in rules.splitlines():
        if rule and not rule.startswith("#"):
            pattern = re.escape(rule.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
            if re.fullmatch(f"{pattern}(/.*)?", path):
                given = rule.startswith("!")
    return given


RULES = (ROOT / ".dockerignore").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path",
    [
        "out/test/mlflow/mlflow.db",
        "out/programs/bin/kafka",
        ".venv/bin/python",
        ".git/config",
        "learners/ann/progress.jsonl",
        "platform/redis/run_env/redis.conf",
        "platform/postgres/run_env/password",
        "platform/serving/run_env/docker/env.yaml",
        "platform/airflow/run_env/docker/passwords.json",
        "mlops_course/__pycache__/api.cpython-311.pyc",
        "notebooks/.ipynb_checkpoints/20_world-checkpoint.ipynb",
        ".env",
        "salaries.csv",
        "mlops_course.egg-info/PKG-INFO",
    ],
)
def test_what_is_a_learners_own_or_secret_gets_into_no_image(path):
    assert not in_context(path, RULES)


def test_the_projects_own_files_get_into_the_images():
    if not (ROOT / ".git").exists():
        pytest.skip("this folder is no clone")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    kept_out = {path for path in tracked if not in_context(path, RULES)}

    assert {path for path in kept_out if not path.startswith(".")} == set()


@pytest.mark.parametrize(
    ("rules", "path", "given"),
    [
        ("", "a", True),
        ("*", "a/b", False),
        ("*\n!a", "a/b", True),
        ("*\n!a\na/*/c", "a/b/c/d", False),
        ("*\n!a\na/*/c", "a/b/e/c", True),
        ("**/c", "a/b/c", False),
        ("**/c", "c", False),
        ("# a\n!b", "b", True),
    ],
)
def test_rules_are_read_as_docker_reads_them(rules, path, given):
    assert in_context(path, rules) is given


# --- .devcontainer ----------------------------------------------------------------------------


def test_the_dev_container_is_built_from_a_target_that_is_there():
    folder = ROOT / ".devcontainer"
    asked = json.loads((folder / "devcontainer.json").read_text(encoding="utf-8"))

    assert (folder / asked["build"]["dockerfile"]).resolve() == ROOT / "platform/Dockerfile"
    assert (folder / asked["build"]["context"]).resolve() == ROOT
    assert asked["build"]["target"] == "workshop"
    assert set(asked["build"]["args"]) <= {"BASE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"}


def test_the_dev_container_works_where_the_image_has_its_environment_as_a_user_whom_the_image_knows():
    asked = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    [home] = DOCKERFILE.words("course", "WORKDIR")
    workshop = " ".join(DOCKERFILE.words("workshop", "RUN"))

    assert asked["workspaceFolder"] == home and f"target={home}," in asked["workspaceMount"]
    assert [mount["target"] for mount in asked["mounts"]] == [f"{home}/.venv"]
    assert re.search(rf"useradd .*--groups root .*{asked['remoteUser']}\b", workshop)
    assert f"printf '{home}\\n" in workshop  # .venv is of this folder, so that `make` has nothing to set up


# --- make pin-images --------------------------------------------------------------------------


@pytest.fixture
def pin(tmp_path) -> Callable[..., tuple[int, str, str]]:
    "Run `platform/pin_images.sh` with a Docker that answers as it is told; its exit code, its errors and the file."

    def run(images: str, refuses: str = "nothing") -> tuple[int, str, str]:
        docker, file = tmp_path / "docker", tmp_path / "images.env"
        known = f'echo "other/name@{DIGEST[:-1]}b"; echo "${{3%:*}}@{DIGEST}"'
        docker.write_text(
            f'#!/bin/sh\nfor last; do :; done\ncase $last in *{refuses}*) exit 1 ;; esac\nset -- 1 2 "$last" $1\n[ $4 = pull ] || {{ {known}; }}\n'
        )
        docker.chmod(0o755)
        shutil.copy(ROOT / "platform/pin_images.sh", tmp_path)
        file.write_text(images)
        done = subprocess.run(["sh", tmp_path / "pin_images.sh", docker], capture_output=True, text=True, env=dict(os.environ))
        assert not list(tmp_path.glob("*.part"))
        return done.returncode, done.stderr, file.read_text()

    return run


def test_images_are_pinned_by_the_digests_that_their_own_registry_has(pin):
    code, _, text = pin("BASE=debian:bookworm-slim\nGRAFANA=grafana/grafana-oss:12.3.0\n")

    assert (code, text) == (0, f"BASE=debian:bookworm-slim@{DIGEST}\nGRAFANA=grafana/grafana-oss:12.3.0@{DIGEST}\n")


def test_a_pinned_image_is_pinned_anew(pin):
    assert pin(f"BASE=debian:bookworm-slim@{DIGEST.replace('a', 'b')}\n") == (0, "", f"BASE=debian:bookworm-slim@{DIGEST}\n")


def test_without_a_registry_nothing_is_changed_and_it_says_so(pin):
    before = "BASE=debian:bookworm-slim\nGRAFANA=grafana/grafana-oss:12.3.0\n"
    code, errors, text = pin(before, refuses="grafana")

    assert (code, text) == (1, before)
    assert errors == "grafana/grafana-oss:12.3.0 cannot be pulled from its registry: platform/images.env stays as it is\n"


def test_the_images_of_others_are_named_with_their_versions():
    for line in (ROOT / "platform/images.env").read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"[A-Z]+=[a-z/-]+:[\w.-]+(@sha256:[0-9a-f]{64})?", line) and ":latest" not in line


def test_a_folder_of_scripts_for_the_images_is_there():
    copied = [words.split()[:-1] for name in DOCKERFILE.parents for words in DOCKERFILE.words(name, "COPY") if "--from" not in words]
    files = {file for words in copied for file in words if not file.startswith("--")}

    assert {file for file in files if not Path(ROOT, file).exists()} == set()
