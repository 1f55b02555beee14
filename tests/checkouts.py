"""A small project of its own for the platform's services: their files, free ports, and nothing that any of them keeps."""

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from mlops_course import project, recipes, stages, supervision
from mlops_course.services import ADDRESSES, SERVICES


def checkout(folder: Path) -> Path:
    "The files of the project that the platform reads, copied to a folder."
    root = project.root()
    around = [root / name for name in ("pipeline.yaml", "settings.ini", "env.platform.yaml", "env.yaml")]
    around += (root / "projects").glob("*.yaml")
    around += [root / task["source"] for task in stages.tasks().values()]
    for file in [
        *around,
        *filter(Path.is_file, [*(root / "platform").glob("*"), *(root / "platform").glob("*/*")]),
        *(root / "platform/prometheus/rules").iterdir(),
    ]:
        copy = folder / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    for name in recipes.RECIPES:
        (folder / "platform" / name / "run_env").mkdir(parents=True)
        (folder / "platform" / name / "run_env/.gitkeep").touch()
    return folder


def with_programs(folder: Path) -> None:
    "Let a copy of the project use what `platform/get.sh` has brought to the project itself."
    (folder / "out").mkdir(exist_ok=True)
    (folder / "out/programs").symlink_to(project.root() / "out/programs")


def quiet_port() -> int:
    "A free port that stays free until it is wanted: it is below those that the system gives to clients."
    return next(port for port in iter(lambda: random.randrange(12_000, 29_000), None) if not supervision.taken(port))


def on_free_ports(settings: dict[str, Any]) -> dict[str, Any]:
    "The settings of an environment, with a port for each service that nobody has."
    for name, service in SERVICES.items():
        port = quiet_port()
        if service.port is None:
            continue
        if name in ADDRESSES:
            *path, last = ADDRESSES[name]
            section = settings
            for part in path:
                section = section[part]
            section[last] = section[last].replace(f"127.0.0.1:{service.port}", f"127.0.0.1:{port}")
        else:
            settings[name] = {**settings.get(name, {}), "port": port}
    return settings


def platform_on_free_ports(folder: Path, file: str = "env.platform.yaml", **changes: Any) -> dict[str, Any]:
    "The environment of the platform with `changes` and free ports, as a file of a copy of the project."
    settings = yaml.safe_load((folder / "env.platform.yaml").read_text(encoding="utf-8"))
    settings = on_free_ports({**settings, **changes})
    (folder / file).write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return settings


def marked(folder: Path) -> list[str]:
    "The names of all living processes of the services of a copy of the project."
    names = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(supervision.MARK, "").startswith(str(folder)) and process.status() != psutil.STATUS_ZOMBIE:
                names.append(process.name())
    return names
