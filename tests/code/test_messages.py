"What is sent as an event is taken as it was meant, or refused with the reason."

import json
from datetime import UTC, datetime

import pytest

from mlops_course import broker, consumer, project
from mlops_course.contracts import read_project

EVENTS = read_project("projects/ride_hailing_stream.yaml").contract.tables["events"]
EVENT = broker.event_type(EVENTS)
NOON = datetime(2026, 3, 16, 12, tzinfo=UTC)
SENT = {"event_id": "e-1", "event_timestamp": NOON.isoformat(), "driver_id": 1003, "event_type": "offered", "created": NOON.isoformat()}


def decoded(**changes) -> dict:
    return broker.decode(json.dumps({**SENT, **changes}).encode(), EVENT)


def test_what_was_encoded_is_decoded_as_it_was():
    event = decoded()

    assert broker.decode(broker.encode(event), EVENT) == event
    assert list(event) == EVENTS.names


def test_times_of_any_zone_become_utc():
    assert decoded(created="2026-03-16T14:00:00.000001+02:00")["created"] == NOON.replace(microsecond=1)


def test_a_field_that_the_contract_does_not_know_is_ignored():
    assert decoded(speed=50) == decoded()


@pytest.mark.parametrize(
    ("field", "values"),
    {
        "event_id": ["", "a" * 129, 7, None],
        "driver_id": ["1003", 1003.0, True, 0, 10**30, None],
        "event_type": [1, None],
        "created": ["2026-03-16T12:00:00", "2026-03-16", "1773662400", 1773662400, "noon"],
        "event_timestamp": ["1969-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"],
    }.items(),
)
def test_what_no_column_may_hold_is_refused_by_its_name(field, values):
    for value in values:
        with pytest.raises(broker.Malformed, match=f"^{field}: "):
            decoded(**{field: value})


def test_a_missing_field_is_refused():
    with pytest.raises(broker.Malformed, match="driver_id: Field required"):
        broker.decode(json.dumps({name: value for name, value in SENT.items() if name != "driver_id"}).encode(), EVENT)


@pytest.mark.parametrize("message", [b"", b"null", b"[]", b"offered", b"\xff\xfe", b'{"a":' * 5_000, None])
def test_what_is_no_json_object_is_refused(message):
    with pytest.raises(broker.Malformed):
        broker.decode(message, EVENT)


def test_the_schemas_beside_the_projects_are_those_of_the_messages():
    schemas = broker.event_schemas()

    assert [file.name for file in schemas] == ["ride_hailing_stream.events.schema.json"]
    for file, schema in schemas.items():
        assert json.loads(file.read_text(encoding="utf-8")) == json.loads(json.dumps(schema)), "run `make export`"


def test_where_no_broker_answers_a_message_says_what_starts_one():
    with pytest.raises(project.UserError, match=r"no broker .* at 127\.0\.0\.1:1 .*platform/run.sh kafka up --env"):
        broker.answered("127.0.0.1:1", seconds=1)


def test_topics_are_made_once():
    with broker.mock("rides") as address:
        settings = broker.StreamSettings(topic="rides", bootstrap=address)
        assert broker.make_topics(settings) == broker.make_topics(settings) == {"rides": 4, "rides.dead": 4}


def test_a_project_without_rolling_features_has_no_stream():
    with pytest.raises(project.UserError, match="this project has 0: projects/ride_hailing_stream.yaml shows how"):
        consumer.rolling_table(read_project("projects/ride_hailing.yaml").contract)


@pytest.mark.parametrize("topic", ["", ".", "..", "../drivers", "a/b", ".drivers", "é", "a" * 201, "drivers\n"])
def test_a_topic_that_kafka_or_a_file_cannot_be_called_is_refused(topic):
    with pytest.raises(ValueError, match="topic"):
        broker.StreamSettings(topic=topic)


@pytest.mark.parametrize("changes", [{"poll_events": 0}, {"poll_events": 10**7}, {"poll_seconds": 0}, {"poll_seconds": 3600}])
def test_a_poll_that_kafka_would_not_wait_for_is_refused(changes):
    with pytest.raises(ValueError, match="poll_"):
        broker.StreamSettings(**changes)


def test_topics_of_a_broker_that_is_not_there_are_not_deleted_for_ever():
    with pytest.raises(project.UserError, match=r"no broker of Kafka answers at 127\.0\.0\.1:1 "):
        broker.delete_topics(broker.StreamSettings(bootstrap="127.0.0.1:1"))
