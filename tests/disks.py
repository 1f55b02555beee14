"""A real disk of a few kilobytes, so that it can be full."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def disk(folder: Path, options: str) -> Iterator[None]:
    "Mount a disk in memory at `folder`, with the options of `mount`, such as size=64k."
    if os.geteuid() != 0:
        pytest.skip("a disk is mounted by root")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    "Change the options of such a disk: its size, or `ro`."
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def fill(folder: Path, leave: int) -> Path:
    "Fill a disk but for so many bytes, by a file that can be removed."
    file = folder / "filler"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    with open(file, "wb") as opened:
        opened.write(bytes(max(free - leave, 0)))
    return file
