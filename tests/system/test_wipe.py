"""A copy of the project in which databases, a page and tests' traces are, is wiped: what git has is all that stays."""

import shutil
import subprocess

import psutil
import pytest
import yaml
from browser import free_port

from mlops_course import supervision

pytestmark = [
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis is not here: apt-get install redis-server"),
    pytest.mark.patient,
]
NAMES = ("redis", "postgres")


@pytest.fixture
def platform(workshop):
    "A copy that git knows, with a database and a store that run, hold something and have a password."
    for words in (["init", "-q"], ["add", "-f", "."]):
        subprocess.run(["git", *words], cwd=workshop.folder, check=True)
    file = workshop.folder / "env.platform.yaml"
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    settings |= {name: {**settings.get(name, {}), "port": free_port()} for name in NAMES}
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    workshop.ports = [settings[name]["port"] for name in NAMES]
    try:
        for name in NAMES:
            code, output = workshop.call("mlops-course", "platform", name, "up", "--env", "env.platform.yaml")
            assert code == 0, output
        yield workshop
    finally:
        supervision.stop_all(workshop.folder / "out")


def left(folder) -> list[str]:
    "What is there that git does not know, but for Python's own."
    there = {path for path in folder.rglob("*") if not path.is_dir() and not {".git", "__pycache__"} & set(path.parts)}
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=folder, check=True, capture_output=True, text=True).stdout
    return sorted(str(path.relative_to(folder)) for path in there - {folder / name for name in listed.split("\0")})


def test_a_platform_that_runs_is_wiped_with_all_that_it_holds(platform):
    folder, before = platform.folder, [process.pid for process in psutil.process_iter()]
    assert {"platform/redis/run_env/password", "platform/postgres/run_env/password"} <= set(left(folder))

    code, output = platform.call("mlops-course", "wipe", "--yes")

    assert code == 0 and output.splitlines()[-1].startswith("Wiped"), output
    assert "redis runs" in output and "postgres runs" in output
    assert left(folder) == [], "what git knows is all that is there"
    assert [supervision.port_holder(port) for port in platform.ports] == ["", ""]
    ours = [p for p in psutil.process_iter(["cmdline"]) if p.pid in before and str(folder) in " ".join(p.info["cmdline"] or [])]
    assert ours == []
    assert "nothing is left to wipe" in platform.call("mlops-course", "wipe", "--yes")[1]
