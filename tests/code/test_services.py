"""What a service is: its description, its port, and how it answers that it can be used."""

import re
import socket

import pytest
import yaml
from pydantic import ValidationError

from mlops_course import project, services
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


@pytest.mark.parametrize(
    "file",
    ["env.yaml", "env.live.yaml", "env.platform.yaml", "platform/prometheus/prometheus.yml", "platform/alertmanager/alertmanager.yml"],
)
def test_a_file_around_the_package_knows_the_ports_of_the_list(file):
    text = (project.root() / file).read_text(encoding="utf-8")
    if file.startswith("env"):
        sections = {name: section for name, section in yaml.safe_load(text).items() if isinstance(section, dict)}
        stated = {name: section["port"] for name, section in sections.items() if "port" in section}
    elif "prometheus.yml" in file:
        stated = {name: int(port) for name, port in re.findall(r"job_name: (\w+)\n.*\n.*127\.0\.0\.1:(\d+)", text)}
    else:
        stated = {"retraining": int(re.search(r"127\.0\.0\.1:(\d+)/alerts", text)[1])}

    assert stated and stated == {name: services.SERVICES[name].port for name in stated}


def test_learners_of_the_seed_course_find_the_ports_that_they_know():
    known = {
        "mlflow": 5000,
        "serving": 8172,
        "monitoring": 8309,
        "prometheus": 9090,
        "node_exporter": 9100,
        "kafka": 29092,
        "redis": 6378,
        "airflow": 8088,
    }

    assert {name: services.SERVICES[name].port for name in known} == known


def test_two_services_of_the_list_never_want_one_port():
    ports = [service.port for service in services.SERVICES.values()]

    assert len(ports) == len(set(ports))


def test_an_environment_has_ports_of_its_own_and_prometheus_hears_of_them():
    environment = project.Environment(name="staging", out="out/staging", monitoring={"port": 9309})
    listed = services.services_of(environment)

    ports = {"serving": 8172, "monitoring": 9309, "retraining": 8310, "stream": 8312, "node_exporter": 9100}
    assert services.targets(listed) == {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    with pytest.raises(project.UserError, match="section `serving` of staging"):
        services.services_of(environment.model_copy(update={"serving": {"port": "none"}}))


@pytest.mark.parametrize(
    ("section", "value", "name"),
    [
        ("mlflow", {"uri": "http://127.0.0.1:6001"}, "mlflow"),
        ("features", {"registry": {"path": "postgresql+psycopg://mlops@127.0.0.1:6001/feast"}}, "postgres"),
        ("features", {"online_store": {"connection_string": "localhost:6001"}}, "redis"),
        ("stream", {"bootstrap": "127.0.0.1:6001"}, "kafka"),
        ("prometheus", {"port": 6001}, "prometheus"),
    ],
)
def test_a_service_answers_where_its_clients_are_told(section, value, name):
    environment = project.Environment(**{"name": "team", "out": "out/team", section: value})

    assert {each.name: each.port for each in services.services_of(environment).values() if each.port == 6001} == {name: 6001}
