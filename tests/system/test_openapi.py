"""Requests drawn from the service's own description: nothing that fits it, or that just misses it, makes the service stumble."""

import os
from collections import Counter

import company
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from online import Online, wait_for
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

pytestmark = pytest.mark.patient

ANY = list(HealthCheck)
REQUESTS = int(os.environ.get("GENERATED_REQUESTS", "1000"))  # 10000 on demand
PROMISED = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]


@pytest.fixture(scope="module")
def online(template, tmp_path_factory):
    folder = company.copy(template, tmp_path_factory.mktemp("asked") / "company")
    service = Online(folder, idempotency_ttl_seconds=0)  # simple ids are drawn again and again
    wait_for(service.ready, 120)
    yield service
    service.kill()


def test_requests_drawn_from_the_description_are_answered_as_it_says(online):
    description, met = schemathesis.openapi.from_url(f"{online.client.base_url}/openapi.json"), Counter()
    operations = [operation.ok() for operation in description.get_all_operations()]

    for operation in operations:
        modes = list(schemathesis.GenerationMode) if operation.body else [schemathesis.GenerationMode.POSITIVE]  # nothing can be wrong
        for mode in modes:

            @seed(7)
            @settings(
                max_examples=REQUESTS // 2, deadline=None, database=None, phases=[Phase.generate, Phase.shrink], suppress_health_check=ANY
            )
            @given(operation.as_strategy(mode))
            def holds(case):
                answer = case.call_and_validate(checks=PROMISED, session=session)
                met[case.operation.label, answer.status_code] += 1

            with requests.Session() as session:
                session.trust_env = False
                holds()

    assert {label for label, _ in met} == {operation.label for operation in operations}
    assert sum(met.values()) >= REQUESTS
    assert met["POST /inference", 200] > REQUESTS // 25, met  # 1.0 is an integer in a description, and none to us
    assert met["POST /inference", 422] > REQUESTS // 10
    assert online.ready()
