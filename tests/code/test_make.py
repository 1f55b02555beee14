"""The Makefile and platform/setup.sh: which environment, whose Python, whose settings. A Python of a few lines stands in for the real
one, so that nothing is installed; tests/system/test_setup.py sets up in earnest, once."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlops_course import project

PARTS = ["requirements.lock", "settings.ini", "setup.py", "pyproject.toml", "platform/setup.sh", "Makefile"]
SHOW = """show: ; @for name in $(NAMES); do printenv $$name || echo -; done
live: show"""
PYTHON = """#!/bin/sh
case "$*" in
*version_info*) exit 0;;
*"import ensurepip"*) exit 0;;
*_base_executable*) echo "$0";;
*fcntl*) exec {python} "$@";;
*"venv --clear"*)
    for folder; do :; done
    rm -rf "$folder"/*; mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python"; echo made >>{log};;
*"pip install"*)
    env | grep -E '^(PIP|UV|PYTHON|VIRTUAL)' | sort >{log}.pip
    printf '#!/bin/sh\\n[ "$*" = "cache dir" ] && echo {cache}\\nenv | grep ^UV_ | sort >{log}.uv; exit 0\\n' >"$(dirname "$0")/uv"
    chmod +x "$(dirname "$0")/uv";;
esac
"""


class Checkout:
    "What set-up needs of a checkout, and a Python that only writes down what it is asked for."

    def __init__(self, folder: Path):
        self.folder, self.log, self.cache = folder / "checkout", folder / "log", folder / "cache"
        for name in PARTS:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(project.root() / name, self.folder / name)
        shutil.copytree(project.root() / "platform/jupyter", self.folder / "platform/jupyter")
        self.python = self.add_python("python3.fake")

    def add_python(self, name: str) -> Path:
        python = self.folder.parent / name
        python.write_text(PYTHON.format(python=sys.executable, log=self.log, cache=self.cache))
        python.chmod(0o755)
        return python

    def make(self, *words: str, **variables: str | None) -> subprocess.CompletedProcess:
        "Call make; a variable that is None is taken away."
        ours = {
            name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PLOOMBER_ENV", "ENV", "PIP", "UV"))
        }
        ours = {name: value for name, value in {**ours, **variables}.items() if value is not None}
        return subprocess.run(["make", *words], cwd=self.folder, env=ours, capture_output=True, text=True, check=False)

    def setup(self, **variables: str | None) -> str:
        "What `make setup` says, by the Python that is not one."
        done = self.make("setup", f"PYTHON={self.python}", **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def shown(self, names: str, *words: str, **variables: str | None) -> list[str]:
        "Values of variables in a recipe; - for one that is not there."
        done = self.make("-s", "--eval", SHOW, f"NAMES={names}", *words, "show", **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def made(self) -> int:
        "How often .venv was made from the ground."
        return len(self.log.read_text().splitlines()) if self.log.is_file() else 0


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return Checkout(tmp_path)


# Which environment


@pytest.mark.parametrize(
    ("words", "variables", "chosen"),
    [
        ([], {}, "env.yaml"),
        ([], {"PLOOMBER_ENV_FILENAME": "env.test.yaml"}, "env.test.yaml"),
        ([], {"PLOOMBER_ENV_FILENAME": ""}, "env.yaml"),
        (["ENV=env.seed.yaml"], {"PLOOMBER_ENV_FILENAME": "env.test.yaml"}, "env.seed.yaml"),
        (["ENV=env.seed.yaml"], {"ENV": "production"}, "env.seed.yaml"),
        (["ENV=env.my own.yaml"], {}, "env.my own.yaml"),
        (["ENV="], {}, "env.yaml"),
        (["ENV=test"], {}, "test"),
        ([], {"ENV": "production"}, "env.yaml"),
        ([], {"ENV": "/etc/kshrc"}, "env.yaml"),
        ([], {"ENV": "env.here.yaml"}, "env.here.yaml"),
        ([], {"ENV": "env.here.yaml", "PLOOMBER_ENV_FILENAME": "env.test.yaml"}, "env.test.yaml"),
        (["-e"], {"ENV": "production", "PLOOMBER_ENV_FILENAME": "env.test.yaml"}, "env.test.yaml"),
    ],
)
def test_the_environment_is_that_of_the_command_line_or_of_ploombers_variable(checkout, words, variables, chosen):
    (checkout.folder / "env.here.yaml").touch()

    assert checkout.shown("PLOOMBER_ENV_FILENAME", *words, **variables) == [chosen]


@pytest.mark.parametrize(("value", "reason"), [("production", "does not count"), ("env.here.yaml", "this environment is taken")])
def test_an_exported_env_is_never_silent(checkout, value, reason):
    (checkout.folder / "env.here.yaml").touch()

    stderr = checkout.make("help", ENV=value).stderr

    assert f"the variable ENV says {value}: " in stderr and reason in stderr and len(stderr.splitlines()) == 1


@pytest.mark.parametrize(("words", "chosen"), [([], "env.live.yaml"), (["ENV=env.mine.yaml"], "env.mine.yaml")])
def test_the_live_company_is_another_one_only_when_asked_for(checkout, words, chosen):
    (checkout.folder / "bin").mkdir()
    (checkout.folder / "bin/mlops-course").write_text('#!/bin/sh\necho "$PLOOMBER_ENV_FILENAME" "$@"\n')
    (checkout.folder / "bin/mlops-course").chmod(0o755)
    checkout.setup()

    done = checkout.make("-s", "live", *words, PLOOMBER_ENV_FILENAME="env.test.yaml", PATH=f"{checkout.folder}/bin:{os.environ['PATH']}")

    assert done.stdout == f"{chosen} live\n"


def test_a_port_that_is_typed_reaches_the_service_and_one_that_is_exported_does_not(checkout):
    (checkout.folder / "bin").mkdir()
    (checkout.folder / "bin/mlops-course").write_text('#!/bin/sh\necho "$@"\n')
    (checkout.folder / "bin/mlops-course").chmod(0o755)
    checkout.setup()
    path = {"PATH": f"{checkout.folder}/bin:{os.environ['PATH']}"}

    assert [checkout.make("-s", name, "PORT=8173", **path).stdout for name in ("serve", "ui")] == [
        "serve --port 8173\n",
        "ui --port 8173\n",
    ]
    assert checkout.make("-s", "serve", PORT="8080", **path).stdout == "serve\n"


# Whose settings


def test_what_is_set_for_another_python_or_jupyter_does_not_reach_a_command(checkout):
    foreign = ["PYTHONHOME", "PYTHONPATH", "PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONSTARTUP", "JUPYTER_PATH", "JUPYTER_CONFIG_PATH"]

    values = checkout.shown(" ".join(["JUPYTER_PREFER_ENV_PATH", *foreign]), **dict.fromkeys(foreign, "/foreign"))

    assert values == ["1", *["-"] * len(foreign)]


@pytest.mark.parametrize("home", [None, "", "/proc/nowhere"])
def test_without_a_home_that_can_be_written_there_is_one_in_the_environment(checkout, home):
    assert checkout.shown("HOME", HOME=home) == [f"{checkout.folder}/.venv/home"]


def test_without_a_home_nothing_is_kept_in_another_folder_either(checkout):
    names = "XDG_DATA_HOME XDG_CONFIG_HOME XDG_CACHE_HOME JUPYTER_RUNTIME_DIR JUPYTER_DATA_DIR IPYTHONDIR MPLCONFIGDIR"

    assert checkout.shown(names, HOME="/proc/nowhere", **dict.fromkeys(names.split(), "/proc")) == ["-"] * 7


def test_a_home_that_can_be_written_is_kept(checkout, tmp_path):
    assert checkout.shown("HOME", HOME=str(tmp_path)) == [str(tmp_path)]


def test_settings_of_pip_and_uv_say_where_packages_come_from_and_nothing_else(checkout):
    kept = {
        "PIP_INDEX_URL": "a",
        "PIP_CERT": "b",
        "UV_INDEX_URL": "c",
        "UV_HTTP_TIMEOUT": "9",
        "UV_INDEX_OWN_PASSWORD": "d",
        "PIP_FIND_LINKS": "e",
    }
    dropped = ["PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV", "PIP_CONSTRAINT", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_EXCLUDE_NEWER"]
    dropped += ["PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "UV_TARGET", "UV_NO_BINARY", "UV_PROJECT_ENVIRONMENT"]

    checkout.setup(**kept, **dict.fromkeys(dropped, "foreign"), PIP_USER="1")

    seen = dict(line.split("=", 1) for line in Path(f"{checkout.log}.pip").read_text().splitlines())
    assert "foreign" not in seen.values() and seen["PIP_USER"] == "0"
    assert kept.items() <= seen.items()


def test_a_cache_that_cannot_be_written_is_replaced_by_one_in_the_environment(checkout):
    checkout.cache.write_text("a file, so that no folder can be made of it")

    checkout.setup()

    assert f"UV_CACHE_DIR={checkout.folder}/.venv/cache\n" in Path(f"{checkout.log}.uv").read_text()


# Whose Python, and where


def test_setting_up_twice_is_once(checkout):
    assert "Setting up the environment in .venv, once" in checkout.setup()
    assert checkout.setup() == ""

    assert "Nothing to be done" in checkout.make("setup").stdout
    assert checkout.made() == 1


@pytest.mark.parametrize("how", ["moved", "copied"])
@pytest.mark.parametrize("name", ["other", "sp ace é'#$x"])
def test_an_environment_that_was_made_in_another_folder_is_made_anew_once(checkout, how, name):
    checkout.setup()
    before, checkout.folder = checkout.folder, checkout.folder.with_name(name)
    before.rename(checkout.folder) if how == "moved" else shutil.copytree(before, checkout.folder)

    assert checkout.setup() == f".venv was made in {before}, and this is {checkout.folder}: making it anew, a minute or two ...\n"
    assert checkout.setup() == ""
    assert checkout.made() == 2


def test_an_environment_whose_python_is_gone_is_made_anew(checkout):
    checkout.setup()
    (checkout.folder / ".venv/bin/python").unlink()
    (checkout.folder / ".venv/bin/python").symlink_to("/nowhere/python3.11")

    assert f"The Python of .venv, {checkout.python}, is gone: making it anew" in checkout.setup()


def test_another_python_that_is_asked_for_is_not_ignored(checkout):
    checkout.setup()
    before, checkout.python = checkout.python, checkout.add_python("python3.other")

    assert f".venv was made by {before}, and {checkout.python} was asked for: making it anew" in checkout.setup()
    assert checkout.made() == 2


def test_a_python_that_somebody_has_exported_is_no_order(checkout):
    checkout.setup()

    assert "Nothing to be done" in checkout.make("setup", PYTHON="/usr/bin/python2.7").stdout


def test_a_set_up_that_was_interrupted_begins_again(checkout):
    checkout.setup()
    (checkout.folder / ".venv/ready").unlink()

    assert "Setting up the environment in .venv, once" in checkout.setup()
    assert checkout.made() == 2


def test_changed_requirements_bring_the_environment_up_to_date_without_making_it_anew(checkout):
    checkout.setup()
    later = (checkout.folder / ".venv/ready").stat().st_mtime + 10
    os.utime(checkout.folder / "requirements.lock", (later, later))

    assert checkout.setup() == "Bringing .venv up to date ...\n"
    assert checkout.made() == 1


def test_a_python_that_is_too_old_or_has_no_venv_is_passed_over(checkout):
    folder = checkout.folder.parent / "path"
    folder.mkdir()
    (folder / "python3").write_text("#!/bin/sh\nexit 1\n")
    (folder / "python3.13").write_text('#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; esac\n')
    for name in ("python3", "python3.13"):
        (folder / name).chmod(0o755)
    checkout.add_python("path/python3.12")

    done = checkout.make("setup", PATH=f"{folder}:/usr/bin:/bin")

    assert done.returncode == 0, done.stdout + done.stderr
    assert (checkout.folder / ".venv/ready").read_text() == f"{checkout.folder}\n{folder}/python3.12\n"


def test_what_takes_long_is_said_while_it_is_done_also_to_a_pipe(checkout):
    checkout.python.write_text(checkout.python.read_text().replace('rm -rf "$folder"/*;', 'sleep 2.5; rm -rf "$folder"/*;'))

    first, second = checkout.setup().splitlines()

    assert first == "Setting up the environment in .venv, once, a minute or two ..."
    assert second.startswith("  a virtual environment of ") and second.endswith(" .")


def test_an_environment_that_is_a_link_is_made_where_it_leads(checkout, tmp_path):
    (tmp_path / "disk").mkdir()
    (checkout.folder / ".venv").symlink_to(tmp_path / "disk")

    checkout.setup()

    assert (tmp_path / "disk/ready").is_file() and (checkout.folder / ".venv").is_symlink()


def test_an_environment_that_is_a_link_to_nothing_is_one_clear_line(checkout, tmp_path):
    (checkout.folder / ".venv").symlink_to(tmp_path / "disk")

    done = checkout.make("setup", f"PYTHON={checkout.python}")

    assert done.stdout == f".venv is a link to {tmp_path}/disk, which is not there: make that folder, or remove the link\n"
    assert done.returncode != 0 and not (tmp_path / "disk").exists()


def test_a_file_where_the_environment_should_be_is_one_clear_line(checkout):
    (checkout.folder / ".venv").touch()

    done = checkout.make("setup", f"PYTHON={checkout.python}")

    assert done.returncode != 0 and len(done.stdout.splitlines()) == 1 and ".venv cannot be written" in done.stdout


def test_two_at_the_same_time_make_one_environment(checkout):
    command = ["make", "setup", f"PYTHON={checkout.python}"]
    both = [subprocess.Popen(command, cwd=checkout.folder, stdout=subprocess.PIPE, text=True) for _ in range(2)]

    outputs = [work.communicate(timeout=60)[0] for work in both]

    assert [work.returncode for work in both] == [0, 0], outputs
    assert checkout.made() == 1


def test_make_works_from_another_folder_and_with_many_jobs(checkout, tmp_path):
    done = subprocess.run(
        ["make", "-j8", "-C", str(checkout.folder), "setup", "clean", f"PYTHON={checkout.python}"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0 and (checkout.folder / ".venv/ready").is_file(), done.stderr


# Cleaning, and line ends


def test_clean_empties_a_folder_on_another_disk_and_keeps_the_link(checkout, tmp_path):
    (tmp_path / "disk/dev/.hidden").mkdir(parents=True)
    (tmp_path / "disk/.note").touch()
    (checkout.folder / "out").symlink_to(tmp_path / "disk")

    assert checkout.make("clean").returncode == 0

    assert list((tmp_path / "disk").iterdir()) == [] and (checkout.folder / "out").is_symlink()


def test_a_checkout_of_a_git_that_writes_crlf_has_none(tmp_path):
    subprocess.run(["git", "clone", "-q", "-c", "core.autocrlf=true", str(project.root()), str(tmp_path / "clone")], check=True)

    files = [path for path in (tmp_path / "clone").rglob("*") if path.is_file() and ".git" not in path.parts and path.suffix != ".png"]

    assert len(files) > 100 and [path.name for path in files if b"\r\n" in path.read_bytes()] == []
