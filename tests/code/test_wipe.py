"""What the course has made is taken away, and nothing else: no link is followed, no file of git or of a learner is touched."""

import os
import subprocess
import sys
from pathlib import Path

import disks
import pytest

from mlops_course import supervision, wipe
from mlops_course.project import UserError
from mlops_course.services import Service, free_port

COMMAND = str(Path(sys.executable).with_name("mlops-course"))
FILES = {
    "pipeline.yaml": "",
    "settings.ini": "",
    "env.yaml": "name: dev\nout: out/dev\n",
    "notebooks/00.ipynb": "with a learner's answers",
    "platform/redis/redis.conf": "port 1\n",
    "platform/redis/run_env/.gitkeep": "",
    "platform/redis/run_env/password": "secret",
    "platform/redis/run_env/data/dump.rdb": "what it held",
    "out/dev/raw/bookings.parquet": 1000 * "x",
    "out/lab/progress.jsonl": "{}",
    "learners/ada/progress.jsonl": "{}",
    "learners/bob/progress.jsonl": "{}",
    ".ruff_cache/x": "",
}
KNOWN = ("pipeline.yaml", "settings.ini", "env.yaml", "notebooks", "platform/redis/redis.conf", "platform/redis/run_env/.gitkeep")


@pytest.fixture
def root(tmp_path) -> Path:
    "A project with a build, a database, two learners, and neighbours whom nothing must happen to."
    for name, text in FILES.items():
        put(tmp_path / "project" / name, text)
    put(tmp_path / "neighbours/data.csv", "not of this project")
    git(tmp_path / "project", "init", "-q")
    git(tmp_path / "project", "add", "-f", *KNOWN)
    return (tmp_path / "project").resolve()


def put(file: Path, text: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), *words], check=True)


def planned(root: Path, *outs: Path, progress: bool = False) -> wipe.Plan:
    return wipe.plan(root, [root / "out/dev", *outs], root / "learners/ada", progress)


def there(root: Path) -> set[str]:
    "The files of a project, without those of git's own."
    return {str(f.relative_to(root)) for f in root.rglob("*") if not f.is_dir() and ".git" not in f.relative_to(root).parts}


def command(root: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    "`mlops-course wipe` as a person types it, who is ada."
    ours = {name: text for name, text in os.environ.items() if name not in ("MLOPS_COURSE_LAB", "PLOOMBER_ENV_FILENAME")}
    ours |= {"MLOPS_COURSE_LEARNER": "ada", **variables}
    return subprocess.run(
        [COMMAND, "wipe", *words], cwd=root, env=ours, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )


# what is deleted


def test_what_the_course_has_made_is_deleted_and_the_rest_is_there(root):
    assert wipe.delete(planned(root)) == []

    gone = {"platform/redis/run_env/password", "platform/redis/run_env/data/dump.rdb", "out/dev/raw/bookings.parquet", ".ruff_cache/x"}
    assert there(root) == set(FILES) - gone
    assert not (root / "out/dev").exists() and not (root / ".ruff_cache").exists()
    assert planned(root).places == [] and wipe.remains(planned(root), {}) == []


def test_a_learner_may_have_her_progress_deleted_and_only_hers(root):
    wipe.delete(planned(root, progress=True))

    assert {name for name in there(root) if "progress" in name} == {"learners/bob/progress.jsonl"}
    assert not (root / "out").exists()


def test_a_plan_changes_nothing(root):
    before = there(root)

    assert list(wipe.lines(planned(root, progress=True)))

    assert there(root) == before


# what is not


def test_what_git_knows_stays_wherever_it_is(root):
    put(root / "out/dev/notes.md", "committed by somebody")
    put(root / "platform/redis/run_env/mine.conf", "too")
    git(root, "add", "-f", "out/dev/notes.md", "platform/redis/run_env/mine.conf")

    assert wipe.delete(planned(root)) == []

    assert {"out/dev/notes.md", "platform/redis/run_env/mine.conf"} <= there(root)


@pytest.mark.parametrize("program", ["#!/bin/sh\necho 'dubious ownership' >&2; exit 128\n", None])
def test_where_git_does_not_answer_nothing_is_deleted(root, tmp_path, monkeypatch, program):
    if program:
        put(tmp_path / "bin/git", program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    with pytest.raises(UserError, match="nothing is deleted"):
        planned(root)


def test_variables_that_git_gives_to_its_hooks_do_not_lead_it_elsewhere(root, tmp_path, monkeypatch):
    git(tmp_path / "neighbours", "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "neighbours/.git"))

    assert root / "settings.ini" in wipe.known_to_git(root)


def test_without_git_the_folders_of_the_course_are_wiped_all_the_same(root):
    (root / ".git").rename(root.with_name("git"))

    wipe.delete(planned(root))

    assert "platform/redis/run_env/.gitkeep" in there(root) and not (root / "out/dev").exists()


@pytest.mark.parametrize("link", ["out", "out/dev", "out/dev/raw", "platform/redis/run_env", "platform/redis", "platform"])
def test_no_link_is_followed(root, tmp_path, link):
    "A folder was moved to another disk, and a link stands where it was: what is there may be anything."
    (root / link).rename(tmp_path / "elsewhere")
    (root / link).symlink_to(tmp_path / "elsewhere")
    before = there(tmp_path / "elsewhere")

    plan = planned(root)
    wipe.delete(plan)

    assert there(tmp_path / "elsewhere") == before
    assert any("link" in why for why in plan.left.values()) or link == "out/dev/raw"


def test_links_below_a_place_are_deleted_and_what_they_name_is_not(root, tmp_path):
    for name, target in {"folder": "neighbours", "file": "neighbours/data.csv", "lost": "nowhere", "known": "project/settings.ini"}.items():
        (root / "out/dev" / name).symlink_to(tmp_path / target)
    os.link(tmp_path / "neighbours/data.csv", root / "out/dev/hard")

    assert wipe.delete(planned(root)) == []

    assert not (root / "out/dev").exists()
    assert (tmp_path / "neighbours/data.csv").read_text() == "not of this project" and (root / "settings.ini").exists()


def test_a_link_that_comes_in_the_middle_of_it_is_not_followed(root, tmp_path):
    plan, swapped = planned(root), root / "out/dev/raw"
    swapped.rename(root / "out/aside")
    swapped.symlink_to(tmp_path / "neighbours")
    for each in wipe.entries(plan, root / "out"):
        if each.path == root / "out/aside/bookings.parquet":
            (root / "out/dev").rename(root / "out/then")
            (root / "out/dev").symlink_to(tmp_path)

    wipe.delete(plan)

    assert (tmp_path / "neighbours/data.csv").exists() and not (root / "out/dev").exists()


@pytest.mark.parametrize("out", [".", "..", "notebooks", "platform", "../neighbours", "/"])
def test_a_folder_that_is_not_the_courses_alone_is_left(root, tmp_path, out):
    plan = planned(root, root / out)
    before = there(root) | there(tmp_path / "neighbours")

    wipe.delete(plan)

    assert Path(os.path.abspath(root / out)) in plan.left
    assert before - (there(root) | there(tmp_path / "neighbours")) <= {
        name for name in FILES if name.startswith(("out/dev", "platform/redis/run_env/", ".ruff"))
    }


def test_an_environment_may_have_its_out_elsewhere_in_the_project(root):
    put(root / "build/mine/scores.parquet")

    wipe.delete(planned(root, root / "build/mine"))

    assert not (root / "build/mine").exists()


def test_a_disk_that_is_mounted_in_between_is_left_and_said(root):
    with disks.disk(root / "out/dev/disk", "size=64k"):
        put(root / "out/dev/disk/file")

        refused = wipe.delete(planned(root))

        assert (root / "out/dev/disk/file").exists() and not (root / "out/dev/raw").exists()
        assert any(line.startswith("out/dev/disk: ") for line in refused)
        assert any("disk" in line for line in wipe.remains(planned(root), {}))


# what is left, and the command


def test_files_processes_and_ports_that_are_left_are_named(root):
    port = free_port()
    folder = root / "out/dev"
    listening = "import http.server, sys; http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), None).serve_forever()"
    supervision.start(folder, Service(name="left", command=("python", "-c", listening, str(port)), port=port))
    try:
        left = wipe.remains(planned(root), {port: "left"})
    finally:
        supervision.stop(folder)

    assert any("bookings.parquet" in line for line in left)
    assert any(line.startswith("process ") for line in left)
    assert any(line.startswith(f"port {port} of left: ") for line in left)
    assert not any(line.startswith(("process", "port")) for line in wipe.remains(planned(root), {port: "left"}))


def test_the_command_ends_what_runs_deletes_and_proves_it(root):
    port = free_port()
    listening = "import http.server, sys; http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), None).serve_forever()"
    supervision.start(root / "out/dev", Service(name="tiny", command=("python", "-c", listening, str(port)), port=port))
    before = there(root)

    dry, asked = command(root, "--dry-run"), command(root)
    assert dry.returncode == 0 and "tiny runs" in dry.stdout and "platform/redis/run_env" in dry.stdout
    assert asked.returncode == 1 and "--yes" in asked.stderr
    assert there(root) >= before and supervision.living(root)

    done = command(root, "--yes")
    assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith("Wiped"), done.stdout + done.stderr
    assert not supervision.port_holder(port) and not supervision.living(root)
    assert "nothing is left to wipe" in command(root, "--yes").stdout
    assert {"learners/ada/progress.jsonl", "notebooks/00.ipynb"} <= there(root)


def test_a_build_that_runs_is_not_wiped_below_its_feet(root):
    waiting = "import sys, time; from pathlib import Path; from mlops_course import stages\n"
    waiting += "with stages.building(Path('out/dev')):\n    print('builds', flush=True); time.sleep(60)"
    build = subprocess.Popen([sys.executable, "-c", waiting], cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        assert build.stdout.readline() == "builds\n"
        refused = command(root, "--yes")
    finally:
        build.kill()
        build.wait()

    assert refused.returncode == 1 and "a build of out/dev" in refused.stderr
    assert (root / "out/dev/raw/bookings.parquet").exists()


def test_a_terminal_of_a_service_does_not_end_itself(root):
    refused = command(root, "--yes", **{supervision.MARK: str(root / "out/dev")})

    assert refused.returncode == 1 and "wipe from another one" in refused.stderr
    assert (root / "out/dev/raw/bookings.parquet").exists()
