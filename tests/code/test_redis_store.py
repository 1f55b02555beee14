"""Many entities in one round trip, and an answer never taken for that to another question."""

import socketserver
import threading
import time

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, TimeoutError
from redis.retry import Retry

from mlops_course import project, redis_store
from mlops_course.passwords import password


class Server(socketserver.ThreadingTCPServer):
    "Stands in for Redis: answers the field of each HMGET with its key. `does` may do something else, once."

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Talk)
        self.does, self.packets, self.secrets = None, [], []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def client(self, **more) -> Redis:
        return Redis(port=self.server_address[1], socket_timeout=0.5, retry=Retry(NoBackoff(), 0), **more)


class Talk(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while packet := self.request.recv(1_000_000):
            words = [word for word in packet.split(b"\r\n") if word and word[:1] not in b"*$"]
            keys = [words[i + 1] for i, word in enumerate(words) if word == b"HMGET"]
            self.server.secrets += [words[i + 1] for i, word in enumerate(words) if word == b"AUTH"]
            if not keys:
                self.request.sendall(b"+OK\r\n" * packet.count(b"*"))
                continue
            self.server.packets.append(keys)
            answers = [b"*1\r\n$%d\r\n%s\r\n" % (len(key), key) for key in keys]
            does, self.server.does = self.server.does, None
            if does and not does(self.request, answers):
                return
            self.request.sendall(b"".join(answers))


@pytest.fixture
def server():
    with Server() as made:
        yield made
        made.shutdown()


def asked(client: Redis, *keys: bytes) -> list:
    return redis_store.in_one_packet(client, [redis_store.question(key, ("f",)) for key in keys])


def test_any_number_of_entities_is_one_packet_answered_in_its_order(server):
    keys = [b"key %d" % n for n in range(500)]

    assert asked(server.client(), *keys, keys[0]) == [[key] for key in [*keys, keys[0]]]
    assert sum(map(len, server.packets)) == 501 and len(server.packets) <= 3, "the kernel may cut a long one"
    assert asked(server.client()) == []


def half(connection, answers) -> bool:
    connection.sendall(answers[0])
    return False  # and it is gone


def silence(connection, answers) -> bool:
    time.sleep(1)
    return True  # the answers come when nobody waits for them


@pytest.mark.parametrize(("does", "error"), [(half, ConnectionError), (silence, TimeoutError)])
def test_after_an_answer_that_did_not_come_the_next_question_gets_its_own(server, does, error):
    client = server.client()
    assert asked(client, b"a") == [[b"a"]]
    server.does = does

    with pytest.raises(error):
        asked(client, b"b", b"c")

    assert asked(client, b"d") == [[b"d"]]
    time.sleep(0.7)
    assert asked(client, b"e") == [[b"e"]]


def test_the_password_is_read_when_a_client_connects_and_may_have_changed(server, tmp_path):
    client = server.client(credential_provider=redis_store.PasswordFile(tmp_path / "password"))
    first = password(tmp_path)
    asked(client, b"a")
    (tmp_path / "password").write_text("another")
    client.connection_pool.disconnect()

    asked(client, b"a")

    assert server.secrets == [first.encode(), b"another"]
    assert first not in repr(client) and first not in repr(client.connection_pool)


def test_a_password_that_others_may_read_is_not_sent(server, tmp_path):
    client = server.client(credential_provider=redis_store.PasswordFile(tmp_path / "password"))
    password(tmp_path)
    (tmp_path / "password").chmod(0o640)

    with pytest.raises(project.UserError, match="chmod 600"):
        asked(client, b"a")
    assert server.secrets == []
