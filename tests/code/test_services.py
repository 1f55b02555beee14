"""What a service is: its description, its port, and how it answers that it can be used."""

import socket

import pytest
from pydantic import ValidationError

from mlops_course import services
from mlops_course.services import Service


def service(**changes) -> Service:
    return Service(**{"name": "web", "command": ("python", "-c", "pass"), "port": 8172, **changes})


def test_a_service_answers_on_loopback():
    assert service(port=9090).address == "http://127.0.0.1:9090"


@pytest.mark.parametrize(
    "wrong", [{"name": "Web"}, {"name": "a:b"}, {"name": "../web"}, {"command": ()}, {"port": 0}, {"stop_signal": "NO"}, {"prot": 1}]
)
def test_a_definition_that_cannot_be_meant_is_refused(wrong):
    with pytest.raises(ValidationError):
        service(**wrong)


def test_redis_keeps_nothing_and_listens_on_loopback_alone():
    command = " ".join(services.redis(7000).command)

    assert services.redis().port == 6378
    assert "--bind 127.0.0.1" in command and "--port 7000" in command
    assert "--save  " in command and "--appendonly no" in command


def test_a_free_port_can_be_taken():
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", services.free_port()))


def test_trouble_says_what_is_missing():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert "refused" in services.trouble(service(port=port))

        listener.listen()
        assert services.trouble(service(port=port)) == ""
