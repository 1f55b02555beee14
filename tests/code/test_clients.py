"""The way to our own services: the key is shown, no proxy hears it, and whoever else answers there is named in one line."""

import asyncio
import json
import os
import re
import socket
import stat
import threading
import time
from contextlib import closing, contextmanager, suppress

import pytest
from typer.testing import CliRunner

from mlops_course import cli, project, receiver, web
from mlops_course.project import UserError

PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    "No key is set, and what a command says of its environment is gone with the test."
    monkeypatch.delenv(web.KEY, raising=False)
    monkeypatch.setenv("PLOOMBER_ENV_FILENAME", "env.test.yaml")


@contextmanager
def stranger(*pieces: bytes, pause: float = 0):
    "A server that says its pieces to whoever calls, with pauses, and hangs up. Its address, and what it has heard."
    heard, over = [], threading.Event()

    def talk(connection):
        with closing(connection), suppress(OSError):
            connection.settimeout(5)
            heard.append(connection.recv(100_000))
            for piece in pieces:
                connection.sendall(piece)
                if over.wait(pause):
                    return

    def serve():
        while not over.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=[connection], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heard
        over.set()


def http(status: str, body: bytes = b"", kind: str = "application/json", **headers: str) -> bytes:
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


def ordered(address: str, **variables: str):
    "`mlops-course retrain` on a service at an address."
    host, _, port = address.removeprefix("http://").rpartition(":")
    return CliRunner().invoke(cli.app, ["retrain", "a reason", "--env", "env.test.yaml", "--host", host, "--port", port], env=variables)


# Strangers

STRANGERS = {
    "HTML": http("200 OK", b"<html>a router</html>", "text/html"),
    "HTML that says that it is JSON": http("202 Accepted", b"<html>"),
    "nothing": http("202 Accepted"),
    "a list": http("202 Accepted", b"[1, 2]"),
    "a text": http("202 Accepted", b'"case"'),
    "a number": http("202 Accepted", b"3"),
    "null": http("202 Accepted", b"null"),
    "another shape": http("202 Accepted", b'{"case": "three"}'),
    "a case that is no number": http("202 Accepted", b'{"case": true}'),
    "another success": http("200 OK", b'{"case": 3}'),
    "no such page": http("404 Not Found", b'{"detail": "Not Found"}'),
    "serving": http("404 Not Found", b'{"prediction": null, "error": "Not Found", "request_id": null}'),
    "another method": http("405 Method Not Allowed", b'{"error": "Method Not Allowed"}'),
    "a redirect": http("302 Found", b"", Location="http://127.0.0.1:1/"),
    "a permanent redirect": http("308 Permanent Redirect", b"{}", Location="http://127.0.0.1:1/"),
    "a proxy's login": http("407 Proxy Authentication Required", b"<html>", "text/html"),
    "no words": http("500 Internal Server Error", b'{"error": ["a", "list"]}'),
    "no UTF-8": http("202 Accepted", b'{"case": "\xff\xfe'),
    "no HTTP": b"220 mail.example.org ESMTP\r\n",
    "nonsense": b"\x00\x01\x02\xff" * 100,
    "half a head": b"HTTP/1.1 202 Acc",
    "half a body": b'HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\n{"case"',
    "a wrong length": b"HTTP/1.1 202 Accepted\r\nContent-Length: -1\r\n\r\n{}",
    "a long head": b"HTTP/1.1 202 Accepted\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    "nobody": b"",
    "a deep nest": http("202 Accepted", b"[" * 100_000),
    "more than a machine can keep": b"HTTP/1.1 202 Accepted\r\n\r\n" + b"x" * 21_000_000,
    "gzip that is none": http("202 Accepted", b"{}", **{"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_whoever_else_answers_is_named_in_one_line(name):
    with stranger(STRANGERS[name]) as (address, _):
        answer = ordered(address)

    (line,) = answer.output.strip().splitlines()
    assert answer.exit_code == 1 and not isinstance(answer.exception, Exception)
    assert address in line and any(advice in line for advice in ("mlops-course retrain-on-alert", "--port", "another port"))


def test_a_refusal_of_ours_is_told_in_the_service_s_words_and_without_what_a_terminal_obeys():
    with stranger(http("422 Unprocessable", json.dumps({"error": "reason: too\n\x1b[31mlong"}).encode())) as (address, _):
        (line,) = ordered(address).output.strip().splitlines()

    assert line == f"{address} has refused: reason: too  [31mlong"


@pytest.mark.parametrize("piece", [b"", b"H", b"HTTP/1.1 202 Accepted\r\nContent-Length: 1000\r\n\r\n", b"x"])
def test_a_service_that_is_slow_or_never_ends_costs_seconds(piece):
    with stranger(*[piece or b"H"] + [b"x"] * 100, pause=0.1) as (address, _):
        began = time.monotonic()
        with pytest.raises(web.NoAnswer, match="has not answered within 0.5 seconds|does not answer"):
            web.ask(address, "/model", seconds=0.5)

    assert time.monotonic() - began < 3


def test_an_order_that_is_not_answered_in_time_may_have_been_taken(monkeypatch):
    quick = web.ask
    monkeypatch.setattr(web, "ask", lambda *given: quick(*given, seconds=0.3))
    with stranger(b"H", b"T", pause=5) as (address, _), pytest.raises(UserError, match="perhaps it has the order.*mlops-course status"):
        receiver.ask(address, "a reason")


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8172", "", "ftp://127.0.0.1", "http://", "http://127.0.0.1:99999", "http://[", "htp:/x", "http://a b"]
)
def test_what_is_no_address_is_a_message(address):
    with pytest.raises(UserError, match="does not answer"):
        web.ask(address, "/model", seconds=2)
    assert receiver.serving_version(address) is None


@pytest.mark.parametrize("body", [b"[]", b"null", b"3", b"<html>", b'{"version": "3"}'])
def test_serving_says_its_version_or_nothing(body):
    with stranger(http("200 OK", body)) as (address, _):
        assert receiver.serving_version(address) == ("3" if b"version" in body else None)


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "http://127.0.0.1:1"), ("0.0.0.0", "http://127.0.0.1:1"), ("::1", "http://[::1]:1"), ("::", "http://[::1]:1")],
)
def test_a_service_is_found_where_it_listens(host, address):
    assert web.address_of(host, 1) == address


# Proxies


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks4", "nonsense"])
def test_no_proxy_hears_of_an_order_or_of_the_key(monkeypatch, scheme):
    with stranger(http("202 Accepted", b'{"case": 7}')) as (address, heard), stranger(http("502 Bad Gateway")) as (proxy, overheard):
        variables = dict.fromkeys(PROXIES, proxy.replace("http", scheme))
        answer = ordered(address, **variables, **{web.KEY: "a secret", "NO_PROXY": "", "no_proxy": ""})

    assert answer.exit_code == 0 and answer.output.startswith("case 7")
    assert overheard == [] and b"X-API-Key: a secret" in heard[0]


def test_no_client_goes_through_a_proxy_and_each_shows_the_key(monkeypatch):
    monkeypatch.setenv(web.KEY, "a secret")
    for name in PROXIES:
        monkeypatch.setenv(name, "socks5://127.0.0.1:1")

    async def asked(address):
        async with web.async_client(address) as session:
            return await web.answer(session, "/model")

    with stranger(http("200 OK", b"{}", Connection="close")) as (address, heard):
        with web.client(address) as client:
            assert client.get("/model").status_code == 200
        assert asyncio.run(asked(address)) == (200, b"{}")
        assert web.ask(address, "/model") == (200, {})

    assert [b"a secret" in words for words in heard] == [True] * 3


def test_lessons_and_modules_have_no_client_but_those_of_three_pages():
    makers = re.compile(r"httpx\.(Async)?Client\((?!transport=)|httpx\.(get|post)\(|aiohttp\.ClientSession\(|urlopen\(|import requests")
    lessons = (project.root() / "notebooks").glob("*.ipynb")
    # MLflow's server and Airflow are none of ours, and do not see our key
    known = {"94_web.ipynb", "960_registry_server.ipynb", "968_airflow_client.ipynb"}

    assert {lesson.name for lesson in lessons if makers.search(lesson.read_text(encoding="utf-8"))} == known


def test_the_key_does_not_follow_a_redirect(monkeypatch):
    monkeypatch.setenv(web.KEY, "a secret")
    with stranger(http("200 OK", b"{}")) as (other, heard), stranger(http("307 Temporary", b"{}", Location=f"{other}/x")) as (address, _):
        assert web.ask(address, "/model") == (307, {})

    assert heard == []


# Keys


@pytest.mark.parametrize(
    "key", ["schlüssel", "one\ntwo", "one\r\nX-Admin: 1", "one\n", " one", "one ", "\t", "\x7f", "€", "k" * 1_001, os.fsdecode(b"\xff\xfe")]
)
def test_a_key_that_no_header_can_carry_is_a_message_at_the_start(tmp_path, monkeypatch, key):
    monkeypatch.setenv(web.KEY, key)

    for use in (lambda: web.key_for("127.0.0.1"), web.key_shown, lambda: web.keep_key(tmp_path)):
        with pytest.raises(UserError, match=f"variable {web.KEY} has a key that no header can carry") as error:
            use()
        assert len(key) < 5 or key not in str(error.value)
    with stranger() as (address, heard):
        answer = ordered(address, **{web.KEY: key})
    assert answer.exit_code == 1 and web.KEY in answer.output and heard == []


@pytest.mark.parametrize("key", ["a", "a key of the test", "!#$%&'*+-.^_`|~:;,/?@[]{}()=<>\\\"", "k" * 1_000])
def test_any_other_key_will_do(monkeypatch, key):
    monkeypatch.setenv(web.KEY, key)

    assert web.key_for("0.0.0.0") == key and web.key_shown() == {"X-API-Key": key}


def test_an_empty_key_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv(web.KEY, "")

    assert web.key_for("127.0.0.1") is None and web.key_shown(tmp_path) == {}
    with pytest.raises(UserError, match="set a key"):
        web.key_for("0.0.0.0")


def test_the_key_of_a_run_is_the_user_s_or_new_each_time_and_for_its_owner_alone(tmp_path, monkeypatch):
    old = os.umask(0)
    try:
        files = [web.keep_key(tmp_path) for _ in range(2)]
        keys = [web.keep_key(tmp_path).read_text() for _ in range(2)]
        assert files[0] == files[1] and stat.S_IMODE(files[0].stat().st_mode) == 0o600
        assert keys[0] != keys[1] and len(keys[0]) == 64
        monkeypatch.setenv(web.KEY, "mine")
        assert web.keep_key(tmp_path).read_text() == "mine"
        assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
        assert [path.name for path in files[0].parent.iterdir()] == ["key"]
    finally:
        os.umask(old)


def test_an_order_from_another_terminal_shows_the_key_of_the_run(tmp_path, monkeypatch):
    key = web.keep_key(tmp_path).read_text()
    with stranger(http("202 Accepted", b'{"case": 1}', Connection="close")) as (address, heard):
        assert receiver.ask(address, "a reason", tmp_path) == 1
        monkeypatch.setenv(web.KEY, "mine")
        assert receiver.ask(address, "a reason", tmp_path) == 1
        monkeypatch.delenv(web.KEY)
        assert receiver.ask(address, "a reason", tmp_path / "another") == 1

    assert f"X-API-Key: {key}".encode() in heard[0] and b"X-API-Key: mine" in heard[1] and b"X-API-Key" not in heard[2]


def test_another_key_than_the_service_s_is_said():
    with stranger(http("401 Unauthorized", b'{"error": "the header X-API-Key is missing or wrong"}')) as (address, _):
        (line,) = ordered(address).output.strip().splitlines()

    assert "takes another key" in line and web.KEY in line


@pytest.mark.parametrize("content", [b"a\nb", b"\xff\xfe", b"a key\n"])
def test_a_key_file_that_was_spoiled_is_named(tmp_path, content):
    web.keep_key(tmp_path).write_bytes(content)

    with pytest.raises(UserError, match="services/key has a key that no header can carry"):
        web.key_shown(tmp_path)


def test_the_commands_find_the_key_in_the_environment_s_folder(tmp_path, monkeypatch):
    (tmp_path / "env.yaml").write_text(f"name: mine\nout: {tmp_path}\n")
    monkeypatch.setattr(project, "root", lambda start=None: tmp_path)
    key = web.keep_key(tmp_path).read_text()
    with stranger(http("202 Accepted", b'{"case": 1}')) as (address, heard):
        port = address.rpartition(":")[2]
        answer = CliRunner().invoke(cli.app, ["retrain", "a reason", "--env", "env.yaml", "--port", port])

    assert answer.exit_code == 0, answer.output
    assert key.encode() in heard[0]
