"""A small project of its own for the platform's services: their files, free ports, and nothing that any of them keeps."""

import re
from pathlib import Path

from mlops_course import project, recipes
from mlops_course.services import SERVICES, free_port


def checkout(folder: Path) -> Path:
    "The files of the project that the platform reads, copied to a folder."
    root = project.root()
    around = [root / name for name in ("pipeline.yaml", "settings.ini", "env.platform.yaml", "env.yaml")]
    for file in [*around, *filter(Path.is_file, (root / "platform").glob("*/*")), *(root / "platform/prometheus/rules").iterdir()]:
        copy = folder / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    for name in recipes.RECIPES:
        (folder / "platform" / name / "run_env").mkdir(parents=True)
        (folder / "platform" / name / "run_env/.gitkeep").touch()
    return folder


def on_free_ports(folder: Path) -> None:
    "Give each service of a checkout a port that nobody has."
    file = folder / "env.platform.yaml"
    text = file.read_text(encoding="utf-8")
    for name, service in SERVICES.items():
        port = str(free_port())
        placed = text.replace(f"127.0.0.1:{service.port}", f"127.0.0.1:{port}")
        stated = re.sub(rf"^{name}:\n  port: \d+", f"{name}:\n  port: {port}", placed, flags=re.MULTILINE)
        text = stated if stated != text else f"{text}\n{name}: {{port: {port}}}\n"
    file.write_text(text, encoding="utf-8")
