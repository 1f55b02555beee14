"""Feast's registry in PostgreSQL and its online store in Redis: the answers are those of files, and each server may be killed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import checkouts
import company
import pandas as pd
import psutil
import pytest
import yaml
from company import CLOCK, EMPTY, KNOWN, PARTIAL, STALE, TWINS, UNKNOWN
from online import Online, refused, wait_for
from rides import CONTRACT, RIDES
from test_monitoring import SETTINGS, Watch, usual

from mlops_course import drift, features, programs, project, references, remote, services, stack, supervision
from mlops_course.monitoring import MonitoringSettings
from mlops_course.passwords import password, run_env
from mlops_course.stack import Local

pytestmark = [
    pytest.mark.skipif(
        not (programs.locate("redis-server") and programs.locate("postgres")), reason="apt-get install redis-server postgresql"
    ),
    pytest.mark.patient,
]
EVERYBODY = [*KNOWN, *TWINS, PARTIAL, EMPTY, STALE, UNKNOWN]


class Servers(NamedTuple):
    "The platform of a project of the tests' own, and what its environment says of features."

    platform: Local
    features: dict

    def pid(self, name: str) -> int | None:
        return next(state.pid for state in supervision.states(self.platform.folder) if state.name == name)

    def up(self, *names: str) -> None:
        assert [outcome for outcome in stack.up(self.platform, names) if not outcome.look] == []

    def killed(self, name: str) -> None:
        "Kill -9 a service, and come back when another process of it is well."
        before = self.pid(name)
        psutil.Process(before).kill()
        wait_for(lambda: self.pid(name) not in (None, before) and stack.health(self.platform, (name,))[name][0] == "healthy", 240)

    def build(self, folder: Path, online: dict | None = None) -> features.FeatureSettings:
        "The company's store on the servers."
        return company.make_store(folder, online or self.features["online_store"], self.features["registry"])


@pytest.fixture(scope="module")
def servers(tmp_path_factory) -> Iterator[Servers]:
    place, ours = tmp_path_factory.mktemp("project"), project.root()
    for name in ("pipeline.yaml", "settings.ini", "env.test.yaml", "env.platform.yaml"):
        shutil.copy2(ours / name, place / name)
    shutil.copytree(ours / "projects", place / "projects")
    shutil.copytree(ours / "platform", place / "platform", ignore=lambda folder, names: names if folder.endswith("run_env") else [])
    settings = checkouts.platform_on_free_ports(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        made = Servers(Local(), settings["features"])
        try:
            made.up("postgres", "redis")
            yield made
        finally:
            supervision.stop(made.platform.folder)


def answers(store) -> list:
    return features.newest(store, EVERYBODY, CONTRACT, CLOCK)


# --- the same answers --------------------------------------------------------------------------------


def test_servers_give_the_answers_of_files_to_the_last_bit_also_after_corrections(servers, tmp_path):
    (tmp_path / "files").mkdir()
    files, on_servers = company.make_store(tmp_path / "files"), servers.build(tmp_path)

    assert answers(on_servers) == answers(files)
    for hours, value in [(1, 0.1), (1, 0.2), (3, 0.3)]:  # newer, of the same time, older
        for store in (files, on_servers):
            company.put(store, KNOWN[:2], [value, value, 1.0], CLOCK - timedelta(hours=hours))
        assert answers(on_servers) == answers(files)
    asked = pd.DataFrame({CONTRACT.entity: EVERYBODY, CONTRACT.time: pd.Timestamp(CLOCK).as_unit("us")})
    pd.testing.assert_frame_equal(features.historical(on_servers, asked, CONTRACT), features.historical(files, asked, CONTRACT))
    online = [features.online(store, EVERYBODY, CONTRACT, CLOCK) for store in (on_servers, files)]
    pd.testing.assert_frame_equal(*online, check_exact=True)


def test_what_feast_reads_of_redis_is_what_the_live_service_reads(servers, tmp_path):
    store = servers.build(tmp_path)

    response = store.get_online_features(features.references(CONTRACT), [{CONTRACT.entity: who} for who in EVERYBODY]).to_df()

    ours = pd.DataFrame([row.values for row in answers(store)], columns=list(CONTRACT.features))
    assert ours.astype(float).equals(response[list(CONTRACT.features)].astype(float))


READ = """
import sys; sys.path.insert(0, {tests!r}); from pathlib import Path; import company; from mlops_course import features
def shown(folder):
    store = features.open_store(Path(folder) / "features")
    rows = features.newest(store, company.KNOWN[:1], company.CONTRACT, company.CLOCK)
    intervals = store.get_feature_view("statistics").materialization_intervals
    return [str(row.known) for row in rows] + [time.astimezone(company.UTC).isoformat() for pair in intervals for time in pair]
"""
WRITE = "company.make_store(Path({folder!r}), {online!r}, {registry!r}); "


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kathmandu"])
def test_a_time_is_the_same_moment_whatever_zone_writes_and_reads_it(servers, tmp_path, zone):
    written = servers.build(tmp_path)
    code = READ.format(tests=str(Path(company.__file__).parent))
    write = WRITE.format(folder=str(tmp_path), online=servers.features["online_store"], registry=servers.features["registry"])

    def elsewhere(what: str) -> str:
        words = [sys.executable, "-W", "ignore", "-c", f"{code}\n{what}print(shown({str(tmp_path)!r}))"]
        done = subprocess.run(words, env=os.environ | {"TZ": zone}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.splitlines()[-1]

    week = [moment.isoformat() for moment in (CLOCK - timedelta(hours=168), CLOCK)]
    expected = [str(CLOCK - timedelta(hours=2)), *week]
    assert elsewhere("") == elsewhere(write) == str(expected)
    assert answers(features.open_store(tmp_path / "features")) == answers(written), "written there, read here"


# --- a build beside the one that answers ---------------------------------------------------------------


def test_a_build_replaces_all_of_the_old_one_and_the_old_one_answers_until_then(servers, tmp_path, monkeypatch):
    old = servers.build(tmp_path)
    before = answers(old)
    fewer = company.statistics()[lambda rows: rows[CONTRACT.entity] != KNOWN[0]]
    monkeypatch.setattr(company, "statistics", lambda: fewer)

    new = servers.build(tmp_path)

    assert answers(old) == before, "who has opened the old one may end what was begun"
    assert answers(new)[0].known is None and answers(new)[1:] == before[1:]
    assert {old.project, new.project} == {"company_blue", "company_green"}
    for _ in range(2):  # each colour again
        new = servers.build(tmp_path)
    assert answers(new)[0].known is None and answers(new)[1:] == before[1:]
    assert {each.name for each in new.list_projects()} >= {"company_blue", "company_green"}
    client = new.provider.online_store._get_client(new.config.online_store)
    assert all(key.endswith((b"company_blue", b"company_green")) for key in client.scan_iter())


def test_a_build_that_fails_leaves_the_old_one_as_it_was(servers, tmp_path, monkeypatch):
    old = servers.build(tmp_path)
    before, text = answers(old), (tmp_path / "features/feature_store.yaml").read_bytes()
    monkeypatch.setattr("feast.FeatureStore.materialize", lambda *args, **more: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        servers.build(tmp_path)

    assert (tmp_path / "features/feature_store.yaml").read_bytes() == text
    assert answers(features.open_store(tmp_path / "features")) == before


# --- passwords -----------------------------------------------------------------------------------------


def test_no_password_is_in_a_file_of_the_store_in_its_settings_or_in_what_is_said(servers, tmp_path):
    store = servers.build(tmp_path)
    answers(store)
    secrets = [password(run_env(name)) for name in ("redis", "postgres")]
    shown = [
        repr(store.config),
        repr(store.config.registry),
        repr(store.provider.online_store._client),
        *map(str, psutil.process_iter(["cmdline"])),
    ]

    written = (tmp_path / "features/feature_store.yaml").read_text(encoding="utf-8")

    assert [secret for secret in secrets for text in [written, *shown] if secret in text] == []


@pytest.mark.parametrize(("file", "who"), [("redis/run_env/password", "Redis"), ("postgres/run_env/pgpass", "PostgreSQL")])
def test_a_password_that_others_may_read_is_refused(servers, tmp_path, file, who):
    path = project.root() / "platform" / file
    path.chmod(0o644)
    try:
        with pytest.raises(project.UserError, match=rf"others may read platform/{file}, .*chmod 600"):
            servers.build(tmp_path)
    finally:
        path.chmod(0o600)


def test_servers_that_are_not_there_are_said_in_a_line_with_what_starts_them(servers, tmp_path):
    nobody = f"127.0.0.1:{services.free_port()}"
    elsewhere = {**servers.features["registry"], "path": f"postgresql+psycopg://mlops@{nobody}/feast"}

    with pytest.raises(project.UserError, match=r"^the feature store's Redis does not answer: .*run.sh feast up`"):
        servers.build(tmp_path, {**servers.features["online_store"], "connection_string": nobody})
    with pytest.raises(project.UserError, match=r"^the feature store's PostgreSQL does not answer: .*run.sh feast up`"):
        company.make_store(tmp_path, servers.features["online_store"], elsewhere)


# --- each of them is killed ----------------------------------------------------------------------------


@pytest.fixture
def company_on_servers(servers, tmp_path) -> Path:
    "A company whose features, runs and models are on servers, with a reference for drift."
    servers.up("mlflow")
    address = services.services_of(servers.platform.environment)["mlflow"].address
    folder = tmp_path / "company"
    folder.mkdir()
    servers.build(folder)
    remote.point(folder / "no models", address)
    company.make_registry(folder)
    config = {"name": "company", "out": str(folder), "clock": CLOCK.isoformat(), "mlflow": {"uri": address}}
    (folder / "env.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    settings = MonitoringSettings(**SETTINGS)
    made = drift.reference_of(usual(), settings, pd.Timestamp(CLOCK), CONTRACT)
    references.keep_reference(folder, "1", made, settings, RIDES)
    return folder


def test_each_server_is_killed_under_load_and_no_answer_and_no_label_is_lost(servers, company_on_servers):
    online, watch = Online(company_on_servers, cache_seconds=0, stale_if_error_seconds=60), Watch(company_on_servers)
    sent = []

    def label(some) -> None:
        trips = [(name, answer.json()["prediction"], len(name) % 2) for name, answer, _ in some if answer.status_code == 200]
        assert sum(watch.tell(*trips).values()) == len(trips)
        sent.extend(trips)

    try:
        wait_for(lambda: online.ready() and watch.ready(), 240)
        with online.load(KNOWN, threads=2) as responses:
            for name in ("redis", "postgres", "mlflow"):
                count = len(responses)
                wait_for(lambda known=count: len(responses) > known + 20)
                servers.killed(name)
                label(responses[-20:])
                wait_for(lambda: online.ready() and not online.trouble(), 240)
            label(responses[-20:])

        assert any(answer.json()["degraded"] for _, answer, _ in responses if answer.status_code == 200)
        refusals = [answer for _, answer, _ in responses if answer.status_code != 200]
        assert all("the feature store does not answer" in refused(answer, 503) for answer in refusals)
        answered = sorted(name for name, answer, _ in responses if answer.status_code == 200)
        wait_for(lambda: sorted(online.logged()) == answered)
        wait_for(lambda: watch.predictions() == len(answered))
        wait_for(lambda: watch.labels("joined") == len(set(sent)))
    finally:
        for each in (online, watch):
            each.kill()
