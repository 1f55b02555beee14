"""The online service as a process: what it stands on fails, changes or comes back, and it is told to end."""

import os
import re
import resource
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import company
import httpx
import psutil
import pytest
import yaml
from browser import CHROMIUM, MISSING, free_port, page
from company import CLOCK, KNOWN, UNKNOWN
from online import Online, command, refused, wait_for
from rides import RIDES

from mlops_course import project, registry

REDIS = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not here: apt-get install redis-server")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a test change another process's limits")
DEADLINE = 0.5  # seconds for an answer, whatever the store does


@pytest.fixture(scope="module")
def ground(template, tmp_path_factory) -> Path:
    return company.copy(template, tmp_path_factory.mktemp("ground") / "company")


@pytest.fixture(scope="module")
def keep(ground, tmp_path_factory):
    "Services that tests share, because each takes seconds to start. One that a test has left unwell is replaced."
    kept = {}

    def kept_or_started(name: str, make=lambda folder: {}, **settings) -> Online:
        if name in kept and not (kept[name].process.poll() is None and kept[name].ready()):
            kept.pop(name).kill()
        if name not in kept:
            folder = company.copy(ground, tmp_path_factory.mktemp(name) / "company")
            kept[name] = Online(folder, **{**settings, **make(folder)})
            wait_for(kept[name].ready, 120)
        return kept[name]

    yield kept_or_started
    for online in kept.values():
        online.kill()


@pytest.fixture
def online(keep) -> Online:
    "A service that asks the store for each request, and forgets soon."
    return keep("shared", cache_seconds=0, stale_if_error_seconds=3, log_waiting=2_000)


@pytest.fixture
def started(ground, tmp_path):
    "Starts services of the test's own, which are ended with it."
    running = []

    def start(folder: Path | None = None, **settings) -> Online:
        running.append(Online(folder or company.copy(ground, tmp_path / "company"), **settings))
        return running[-1]

    yield start
    for each in running:
        each.kill()


# --- the online store ------------------------------------------------------------------------------


@contextmanager
def locked(folder: Path):
    "Somebody writes to the store, and does not come to an end."
    with closing(sqlite3.connect(folder / "features/online.db", isolation_level=None, timeout=60)) as db:
        db.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            db.execute("ROLLBACK")


@contextmanager
def moved(folder: Path, name: str):
    os.replace(folder / name, folder / "moved away")
    try:
        yield
    finally:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink(missing_ok=True)
        os.replace(folder / "moved away", folder / name)


def answers_without_its_store(online: Online, trouble) -> None:
    "What holds whichever way the store fails: degraded in time, then refused in time, then well again."
    good = online.ask(KNOWN)
    before = online.meter("serving_degraded_total")
    with trouble:
        answers = [online.send(KNOWN) for _ in range(15)]
        seconds = [answer.elapsed.total_seconds() for answer in answers]
        assert {answer.status_code for answer in answers} == {200}
        assert all(answer.json()["degraded"] for answer in answers[1:])  # a moment may pass until it is noticed
        assert answers[-1].json()["candidates"] == good["candidates"]
        assert statistics.median(seconds) < DEADLINE  # this machine may be busy with something else now and then
        assert online.client.get("/ready").status_code == 503
        assert "the feature store does not answer" in online.trouble()
        assert online.meter("serving_store_up") == 0
        assert online.meter("serving_degraded_total") >= before + 14

        late = wait_for(lambda: (answer := online.send(KNOWN)).status_code != 200 and answer)
        refusals = [late, *(online.send(KNOWN) for _ in range(5))]
        assert all("nothing is remembered of these drivers" in refused(answer, 503) for answer in refusals)
        assert statistics.median(answer.elapsed.total_seconds() for answer in refusals) < DEADLINE
        assert online.client.get("/health").status_code == 200
    wait_for(online.ready)
    assert {**online.ask(KNOWN), "request_id": ""} == {**good, "request_id": ""}
    assert online.meter("serving_store_up") == 1


def test_a_store_that_hangs_is_bridged_for_a_while_with_the_last_known_features(online):
    answers_without_its_store(online, locked(online.folder))


@pytest.mark.parametrize("what", ["features/online.db", "features"])
def test_a_store_that_is_gone_is_bridged_for_a_while_with_the_last_known_features(online, what):
    answers_without_its_store(online, moved(online.folder, what))


class Redis:
    "A server of its own, in memory."

    def __init__(self):
        self.port = free_port()
        self.start()

    def start(self) -> None:
        words = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        wait_for(answers)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def fill(self, folder: Path) -> None:
        company.make_store(folder, {"type": "redis", "connection_string": f"127.0.0.1:{self.port}"})

    @contextmanager
    def stopped(self):
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    @contextmanager
    def killed(self, folder: Path):
        self.kill()
        try:
            yield
        finally:
            self.start()
            self.fill(folder)


@pytest.fixture(scope="module")
def redis():
    server = Redis()
    yield server
    server.kill()


@pytest.fixture
def with_redis(keep, redis) -> Online:
    return keep("redis", make=lambda folder: redis.fill(folder) or {}, cache_seconds=0, stale_if_error_seconds=3)


@REDIS
def test_in_redis_too_a_time_is_the_same_moment_in_every_zone_and_nobody_is_known_since_1970(redis, tmp_path):
    redis.fill(tmp_path)
    code = f"from pathlib import Path; from mlops_course.features import newest, open_store; store = open_store(Path({str(tmp_path)!r}) / 'features')"
    code += "; from mlops_course.contracts import read_project; contract = read_project('projects/ride_hailing.yaml').contract"
    code += f"; print([str(row.known) for row in newest(store, {[KNOWN[0], UNKNOWN]}, contract)])"

    printed = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], env=os.environ | {"TZ": zone}, capture_output=True, text=True, check=True
        )
        for zone in ("America/New_York", "Asia/Kathmandu")
    ]

    assert [done.stdout.strip() for done in printed] == [str([str(CLOCK - timedelta(hours=2)), "None"])] * 2


@REDIS
def test_a_redis_that_hangs_is_bridged_for_a_while_with_the_last_known_features(redis, with_redis):
    answers_without_its_store(with_redis, redis.stopped())


@REDIS
def test_a_redis_that_is_killed_is_bridged_for_a_while_with_the_last_known_features(redis, with_redis):
    answers_without_its_store(with_redis, redis.killed(with_redis.folder))


@REDIS
def test_a_store_that_hangs_does_not_keep_the_service_from_ending(redis, with_redis):
    with_redis.ask(KNOWN)
    with redis.stopped():
        with_redis.send(KNOWN)

        assert with_redis.terminate() < 15
    assert "Traceback" not in with_redis.out.read_text(encoding="utf-8")


# --- the registry and the champion -------------------------------------------------------------------


def test_a_registry_that_is_gone_is_no_reason_to_stop(online):
    before = online.ask(KNOWN)
    with moved(online.folder, "mlflow"):
        wait_for(online.trouble)
        assert online.ready()
        assert "MLflow's tables cannot be read" in online.trouble()
        assert online.meter("serving_registry_up") == 0
        assert online.ask(KNOWN)["candidates"] == before["candidates"]
    wait_for(lambda: not online.trouble())
    assert online.meter("serving_registry_up") == 1


def test_a_service_that_starts_without_its_registry_takes_the_model_that_it_kept(ground, started, tmp_path):
    folder = company.copy(ground, tmp_path / "company")
    registry.save_copy(registry.connect(folder / "mlflow", RIDES.name), "champion", folder / "serving/model")  # as an earlier service did
    with moved(folder, "mlflow"):
        online = started(folder)
        wait_for(online.ready, 120)
        assert online.model()["from"] == "copy"
        assert "MLflow's tables cannot be read" in online.trouble()
        assert online.ask(KNOWN)["prediction"] in KNOWN
    wait_for(lambda: online.model()["from"] == "registry")
    assert online.trouble() == ""


def stored(folder: Path, version: str) -> Path:
    "The file of a version's model."
    client = registry.connect(folder / "mlflow", RIDES.name)
    return Path(client.get_run(registry.version_of(client, version).run_id).info.artifact_uri) / "model/model.skops"


@contextmanager
def damaged(file: Path):
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        yield
    finally:
        file.write_bytes(good)


def test_a_new_champion_whose_file_is_damaged_never_takes_the_place_of_a_good_one(online):
    before, client = online.ask(KNOWN), registry.connect(online.folder / "mlflow", RIDES.name)
    with damaged(stored(online.folder, "2")):
        client.set_registered_model_alias(RIDES.name, "champion", "2")
        try:
            wait_for(online.trouble)
            assert online.ready()
            assert "version 2 of driver-completion is not what was registered" in online.trouble()
            assert online.model()["version"] == "1"
            assert online.ask(KNOWN)["candidates"] == before["candidates"]
        finally:
            client.set_registered_model_alias(RIDES.name, "champion", "1")
    wait_for(lambda: not online.trouble())


def test_a_service_that_starts_with_a_damaged_model_lives_says_why_and_recovers(ground, started, tmp_path):
    folder = company.copy(ground, tmp_path / "company")
    with damaged(stored(folder, "1")):
        online = started(folder)
        wait_for(online.alive, 120)
        wait_for(lambda: "is not what was registered" in online.trouble())
        assert online.client.get("/ready").status_code == 503
        assert "no model is ready" in refused(online.send(KNOWN), 503)
    wait_for(online.ready)
    assert online.ask(KNOWN)["version"] == "1"


def test_champions_come_and_go_under_load_without_one_failed_request(online):
    client = registry.connect(online.folder / "mlflow", RIDES.name)
    with online.load(KNOWN) as responses:
        for change, version in ((lambda: registry.promote(client, "2"), "2"), (lambda: registry.rollback(client), "1")):
            wait_for(lambda: len(responses) > 20)
            change()
            wait_for(lambda expected=version: online.model()["version"] == expected)
            count = len(responses)
            wait_for(lambda known=count: len(responses) > known + 20)

    answers = [answer.json() for _, answer, _ in responses if answer is not None and answer.status_code == 200]
    assert len(answers) == len(responses)
    assert {answer["version"] for answer in answers} == {"1", "2"}
    scores = {(answer["version"], tuple(c["score"] for c in answer["candidates"])) for answer in answers}
    assert len(scores) == 2, "an answer mixes the scores of two models"


# --- the prediction log -------------------------------------------------------------------------------


@LINUX
def test_a_full_disk_is_bridged_by_memory_then_refused_and_no_answer_is_lost(online):
    online.ask(KNOWN, "before the disk was full")
    wait_for(lambda: "before the disk was full" in online.logged())
    already = set(online.logged())
    process, [file] = psutil.Process(online.process.pid), (online.folder / "serving/predictions").glob("*.jsonl")
    hard = process.rlimit(resource.RLIMIT_FSIZE)[1]
    process.rlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 3_000, hard))  # the kernel refuses more, as on a full disk
    try:
        with online.load(KNOWN[:2]) as answers:
            wait_for(lambda: answers and answers[-1][1].status_code == 503, 120)
        assert "log cannot be written" in refused(online.send(KNOWN), 503)
        assert online.client.get("/ready").status_code == 503
        assert "the prediction log cannot be written" in online.trouble()
        assert online.meter("serving_log_waiting") >= 2_000
        assert set(online.logged()) >= already
    finally:
        process.rlimit(resource.RLIMIT_FSIZE, (hard, hard))
    wait_for(online.ready)
    wait_for(lambda: online.meter("serving_log_waiting") == 0)
    online.ask(KNOWN, "after the disk was full")
    wait_for(lambda: "after the disk was full" in online.logged())

    answered = [name for name, answer, _ in answers if answer.status_code == 200]
    assert {answer.status_code for _, answer, _ in answers} == {200, 503}
    logged = [name for name in online.logged() if name not in already]
    assert not online.torn()
    assert sorted(name for name in logged if name != "after the disk was full") == sorted(answered)


@pytest.fixture
def guarded(keep) -> Online:
    "A service that other machines could reach; it writes its log when it ends."
    return keep("guarded", key="open sesame", host="0.0.0.0", log_seconds=3_600)


def test_where_other_machines_can_reach_it_a_caller_shows_the_key(guarded):
    body = {"request_id": "with or without", "driver_ids": KNOWN}

    for key in ({}, {"X-API-Key": "wrong"}):
        assert "X-API-Key" in refused(httpx.post(f"{guarded.client.base_url}/inference", trust_env=False, json=body, headers=key), 401)
    assert guarded.ask(KNOWN)["prediction"] in KNOWN
    assert "open sesame" not in guarded.out.read_text() + (guarded.folder / "logs/serving.jsonl").read_text()


def test_told_to_end_under_load_it_finishes_what_it_has_begun_and_its_log_is_complete(guarded):
    with guarded.load(KNOWN) as answers:
        wait_for(lambda: len(answers) > 200)
        seconds = guarded.terminate()

    answered = [name for name, answer, _ in answers if answer is not None]
    assert {answer.status_code for _, answer, _ in answers if answer is not None} == {200}
    logged = guarded.logged()
    assert set(answered) <= set(logged)
    assert len(logged) == len(set(logged)) and not guarded.torn()
    assert seconds < 15
    assert "Traceback" not in guarded.out.read_text(encoding="utf-8")


def test_killed_under_load_it_loses_the_last_moment_and_a_restart_mends_the_rest(started):
    online = started(log_seconds=0.1)
    wait_for(online.ready, 120)
    began = time.monotonic()
    with online.load(KNOWN) as answers:
        wait_for(lambda: len(answers) > 200 and time.monotonic() > began + 4)
        online.process.kill()
        killed = time.monotonic()
    [file] = (online.folder / "serving/predictions").glob("*.jsonl")
    with open(file, "ab") as opened:
        opened.write(b'{"time":"2026-03-16T00:00:0')  # what a kill may leave of a line, and only rarely does

    again = started(online.folder)
    wait_for(again.ready, 120)

    logged = again.logged()
    lost = {name: when for name, answer, when in answers if answer is not None and name not in logged}
    assert len(logged) == len(set(logged)) > 0 and not again.torn()
    assert all(when > killed - 0.1 - 1.5 for when in lost.values()), "an answer older than log_seconds and a margin is lost"
    last = next(answer for name, answer, _ in reversed(answers) if name == logged[-1])
    assert again.ask(KNOWN, logged[-1]) == last.json(), "a request that is sent again gets its answer again"
    assert again.logged() == logged


def test_killed_while_its_bandit_learns_it_learns_each_label_once(ground, started, tmp_path):
    folder = company.copy(ground, tmp_path / "company")
    arms = {"bandit": {"share": 1, "policy": "thompson", "epsilon": 0}}
    environment = yaml.safe_load((folder / "env.yaml").read_text(encoding="utf-8"))
    environment["serving"] = {**environment.get("serving", {}), "experiment": {"name": "march", "arms": arms}}
    (folder / "env.yaml").write_text(yaml.safe_dump(environment), encoding="utf-8")
    online, sent = started(folder), 0
    for _ in range(3):
        wait_for(online.ready, 120)
        with online.load(KNOWN[:3]) as answers:
            wait_for(lambda answers=answers: len(answers) > 150)
        known = [answer.json() for _, answer, _ in answers if answer is not None]
        answered = {each["request_id"] for each in known}
        wait_for(lambda answered=answered, online=online: answered <= set(online.logged()))
        ends = [
            {"request_id": a["request_id"], "driver_id": a["prediction"], "trip_completed": int(a["prediction"] == KNOWN[2])} for a in known
        ]
        outcomes = online.client.post("/labels", json=ends).json()
        sent += len(ends)
        assert outcomes.get("conflict", 0) == 0
        online.process.kill()
        online = started(folder)

    wait_for(online.ready, 120)
    wait_for(lambda: online.model()["learned"]["bandit"] == sent)
    again = online.client.post("/labels", json=ends).json()
    assert again == {"duplicate": len(ends)}
    assert online.meter('serving_learned_labels{arm="bandit"}') == sent


# --- started and looked at ------------------------------------------------------------------------------


def failed(*words: str, **settings) -> str:
    "What a command says that ends at once with an error: one line."
    done = subprocess.run(words, cwd=project.root(), capture_output=True, text=True, timeout=120, check=False, **settings)
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.strip().splitlines()
    return line


def test_a_port_that_is_taken_is_said_in_a_line(ground):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = failed(*command(ground, "--port", str(port)))

    assert f"port {port} of 127.0.0.1 cannot be used" in line and "--port" in line


@pytest.mark.parametrize(
    ("names", "why"),
    [(["one", "other"], "port {port} of 127.0.0.1"), (["one", "one"], "(one|the service serving of {folder}) runs already: process ")],
)
def test_of_two_services_that_start_at_the_same_time_on_a_port_or_a_folder_one_runs_and_one_says_why_not(ground, tmp_path, names, why):
    folders, port = {name: company.copy(ground, tmp_path / name) for name in set(names)}, free_port()
    both = [
        subprocess.Popen(
            command(folders[name], "--port", str(port)),
            cwd=project.root(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for name in names
    ]
    try:
        wait_for(lambda: any(each.poll() is not None for each in both), 120)
        [loser] = [each for each in both if each.poll() is not None]
        output = loser.communicate()

        assert loser.returncode == 1
        assert [len(text.strip().splitlines()) for text in output] == [0, 1]
        assert re.search(why.format(port=port, folder=re.escape(project.shown(folders[names[0]]))), output[1])
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), 120)
    finally:
        for each in both:
            each.kill()
            each.communicate()


@pytest.mark.parametrize("way", ["the same name", "another name", "another folder with the same log"])
def test_a_second_service_on_a_log_says_who_has_it_and_touches_nothing(online, tmp_path, way):
    folder = tmp_path / "other"
    if way == "another folder with the same log":
        folder.mkdir()
        (folder / "serving").symlink_to(online.folder / "serving")
    elif way == "another name":
        folder.symlink_to(online.folder)
    else:
        folder = online.folder
    online.ask(KNOWN, f"before {way}")
    wait_for(lambda: f"before {way}" in online.logged())
    [file] = (online.folder / "serving/predictions").glob("*.jsonl")
    before = file.read_bytes()
    with open(file, "ab") as opened:
        opened.write(b'{"time":"2026-03-16T00:00:0')  # a line that the first one is about to finish

    lines = [failed(*command(online.folder, "--folder", str(folder), "--port", str(port))) for port in (free_port(), online.port)]

    assert file.read_bytes().startswith(before) and online.torn()
    assert f"runs already: process {online.process.pid} (mlops-course serve" in lines[0]
    assert str(online.process.pid) in lines[1]
    assert online.ready()
    online.ask(KNOWN, f"after {way}")
    wait_for(lambda: f"after {way}" in online.logged())
    assert not online.torn()


def answers(address: str) -> bool:
    try:
        return httpx.get(address, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("last", ["starts", "answers"])
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_in_a_terminal_it_says_that_it_starts_and_where_it_answers_and_ends_with_one_line(ground, tmp_path, last, end):
    port = free_port()
    work = subprocess.Popen(
        command(company.copy(ground, tmp_path / "company"), "--port", str(port)),
        cwd=project.root(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        lines = [work.stdout.readline()]
        if last == "answers":
            lines.append(work.stdout.readline())
            result = httpx.post(f"http://127.0.0.1:{port}/inference", json={"request_id": "at once", "driver_ids": KNOWN}, trust_env=False)
            assert result.status_code == 200, "a line that says where must be true"
        work.send_signal(end)
        rest = work.communicate(timeout=60)[0]
    finally:
        work.kill()
        work.communicate()

    assert lines[0] == f"serving of {tmp_path}/company starts on port {port}: about ten seconds ...\n"
    assert lines[1:] in ([], [f"serving on http://127.0.0.1:{port} (/docs describes it, Ctrl-C ends it)\n"])
    assert (work.returncode, rest) == (0, "serving has ended\n")


def test_without_a_model_that_has_passed_the_gate_it_says_so_in_a_line(ground, tmp_path):
    folder = company.copy(ground, tmp_path / "company")
    registry.connect(folder / "mlflow", RIDES.name).delete_registered_model_alias(RIDES.name, "champion")

    assert "has passed the gate yet: `make run ENV=" in failed(*command(folder, "--port", str(free_port())))


def test_beyond_loopback_it_does_not_start_without_a_key(ground):
    assert "MLOPS_COURSE_API_KEY" in failed(*command(ground, "--host", "0.0.0.0"))


@pytest.mark.skipif(CHROMIUM is None, reason=MISSING)
def test_the_interactive_page_opens_without_the_internet(online, tmp_path):
    with page(tmp_path) as opened:
        opened.goto(f"{online.client.base_url}/docs")
        opened.locator(".opblock-summary-path", has_text="/inference").wait_for(timeout=60_000)
        shown = opened.locator("body").inner_text()
        outside = opened.outside

    assert "Driver completion" in shown
    assert outside == []
