"""JupyterLab in a real browser: started on a copy of the project, driven as a learner would."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "needs a Chromium: on Debian `apt install chromium`"


def free_port() -> int:
    "A port of loopback that nobody uses."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def jupyterlab(folder: Path, bin: Path, variables: dict[str, str]) -> Iterator[str]:
    "JupyterLab as `make lab` starts it in `folder`, on loopback: the address that it opens. It ends with the block."
    port = free_port()
    set_up(folder, bin)
    variables = {**variables, "BROWSER": "true", "JUPYTER_PORT": str(port), "JUPYTER_TOKEN": "let-me-in"}
    for name in ("SETTINGS", "WORKSPACES"):  # not those of the person who runs the tests
        variables.setdefault(f"JUPYTERLAB_{name}_DIR", str(folder / "out/jupyterlab"))
    with open(folder / "out/jupyterlab.log", "w+") as log:
        server = subprocess.Popen(["make", "lab"], cwd=folder, env=variables, stdout=log, stderr=log, start_new_session=True)
        try:
            answers(f"http://127.0.0.1:{port}/api", server)
            log.seek(0)
            shown = re.search(rf"http://127\.0\.0\.1:{port}/lab\S*", log.read())[0]
            yield shown.replace("token=...", "token=let-me-in")  # it shows no token that it was given
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(20)


def set_up(folder: Path, bin: Path) -> None:
    "What `make` takes for a finished set-up: the programs of this one."
    (folder / ".venv/bin").mkdir(parents=True, exist_ok=True)
    (folder / "out").mkdir(exist_ok=True)
    for name in ("python", "jupyter"):
        (folder / ".venv/bin" / name).unlink(missing_ok=True)
        (folder / ".venv/bin" / name).symlink_to(bin / name)
    (folder / ".venv/ready").write_text(f"{folder}\n{bin / 'python'}\n")


def answers(address: str, server: subprocess.Popen) -> None:
    "Wait until a server answers. Raises `TimeoutError` if it has ended, or is silent for two minutes."
    until = time.monotonic() + 120
    while time.monotonic() < until and server.poll() is None:
        try:
            return build_opener(ProxyHandler({})).open(address, timeout=2).close()  # loopback needs no proxy
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"no answer from {address}")


@contextmanager
def page(folder: Path) -> Iterator:
    "A page of a headless browser that reaches nothing but loopback; it notes requests to other hosts in `outside`."
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as tools:
        browser = tools.chromium.launch_persistent_context(
            str(folder / "browser"), executable_path=CHROMIUM, args=quiet, viewport={"width": 1360, "height": 900}
        )
        opened = browser.new_page()
        opened.outside = []
        opened.on(
            "request", lambda r: opened.outside.append(r.url) if not r.url.startswith(("http://127.0.0.1", "data:", "blob:")) else None
        )
        try:
            yield opened
        finally:
            browser.close()


def open_lesson(page, address: str, name: str) -> None:
    "Open a lesson beside the one that JupyterLab opens on, and wait until its cells and its kernel are there."
    page.goto(f"{address.replace('00_start_here', name)}&reset", wait_until="domcontentloaded")
    page.wait_for_function("() => document.querySelectorAll('.jp-Notebook .jp-CodeCell').length > 5", timeout=90_000)
    page.get_by_text("| Idle").wait_for(timeout=90_000)


def run_all(page, seconds: float) -> None:
    "Run all cells by the menu and wait until the last of them has run. What an earlier run left is cleared before."
    page.get_by_role("menuitem", name="Edit", exact=True).click()
    page.get_by_role("menuitem", name="Clear Outputs of All Cells", exact=True).click()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(
        """() => {
            const cells = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')];
            const open = cells.filter(c => !c.querySelector('.jp-InputPlaceholder'));  // a folded cell shows no number
            return open.length && open.every(c => /\\[\\d+\\]/.test(c.querySelector('.jp-InputPrompt')?.textContent));
        }""",
        timeout=seconds * 1000,
    )
    idle(page)


def idle(page) -> None:
    "Wait until the kernel has nothing to do, also in folded cells: it is idle for two seconds."
    until, seen = time.monotonic() + 60, 0
    while seen < 4:
        assert time.monotonic() < until, "the kernel does not come to rest"
        page.wait_for_timeout(500)
        seen = seen + 1 if page.get_by_text("| Idle").is_visible() else 0


def cursor_in(page, place) -> None:
    "Click into `place` until the cursor stays there: while JupyterLab lays a page out, it moves things and takes the focus away."
    until = time.monotonic() + 60
    while True:
        place.click()
        page.wait_for_timeout(1000)
        if place.evaluate("place => place.contains(document.activeElement)"):
            return
        assert time.monotonic() < until, "the cursor does not stay"


def errors(page) -> list[str]:
    "What the outputs say that is an error."
    return page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]').all_inner_texts()
