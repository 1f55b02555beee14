"""A lesson that was opened, run and saved differs from the course's by what was typed and what came out, and by nothing else."""

import json
import os
import warnings
from configparser import ConfigParser
from copy import deepcopy
from pathlib import Path


def clean_lesson(model, path, contents_manager, **_):
    "Save a lesson as `nbdev_clean` writes it. Other notebooks stay as they are; after an error here Jupyter saves what it has."
    folder = Path(contents_manager.root_dir, path).resolve().parent
    settings = ConfigParser(interpolation=None)
    settings.read(folder.parent / "settings.ini", encoding="utf-8")
    ours = settings.defaults()
    if model["type"] != "notebook" or ours.get("nbs_path") != folder.name or not (folder.parent / "pipeline.yaml").is_file():
        return
    from nbdev.clean import clean_nb  # nbdev's own hook looks for settings around the server's folder, and leaves a file beside the lesson

    kept = {name: ours[name].split() for name in ("allowed_metadata_keys", "allowed_cell_metadata_keys")}
    content = deepcopy(model["content"])  # whole or not at all
    clean_nb(content, **kept)
    if os.environ.get("MLOPS_COURSE_AUTHOR") != "1":
        fold_as_stored(content["cells"], Path(contents_manager.root_dir, path))
    model["content"] = content


def fold_as_stored(cells, file):
    "Which cells are folded is the author's: a reader who opens one has changed nothing."
    try:
        stored = {cell["id"]: cell["metadata"] for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]}
    except (OSError, ValueError, LookupError, TypeError):  # a new notebook, or none any more
        return
    for cell in cells:
        before = stored.get(cell.get("id"), cell["metadata"])
        cell["metadata"].pop("jupyter", None)
        cell["metadata"].update({"jupyter": before["jupyter"]} if "jupyter" in before else {})


warnings.filterwarnings("ignore", "Overriding existing pre_save_hook")  # Jupyter reads its settings more than once
c.ContentsManager.pre_save_hook = clean_lesson  # noqa: F821
