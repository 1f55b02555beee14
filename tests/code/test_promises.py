"""A question to something slow has an answer in time, or none; and nobody waits for a thread that has failed."""

import asyncio
import threading

import pytest

from mlops_course.promises import Promises
from mlops_course.resilience import RequestCoalescer


def answered(ask, take=lambda answer: True, seconds: float = 30) -> bool:
    "Whether a question got its answer."

    async def question():
        promises = Promises(ask, take, seconds)
        return await promises.send([1], promises.promise())

    return asyncio.run(question())


def test_an_answer_is_taken_in_the_event_loop():
    threads = []

    assert answered(lambda ids: ids, lambda answer: threads.append(threading.current_thread()) or True)
    assert threads == [threading.main_thread()]


def test_who_waits_for_something_that_hangs_is_told_in_time():
    go = threading.Event()

    assert not answered(lambda ids: go.wait(30), seconds=0.05)
    go.set()


@pytest.mark.parametrize("fault", [ValueError("x"), SystemExit(1), MemoryError()], ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("where", ["ask", "take"])
def test_an_error_is_an_answer_too(where, fault):
    def raises(_):
        raise fault

    assert not (answered(raises) if where == "ask" else answered(lambda ids: ids, raises))


def test_an_answer_that_is_not_taken_is_asked_for_again():
    asked = []

    assert answered(lambda ids: asked.append(ids), lambda answer: len(asked) == 3)
    assert asked == [[1]] * 3


def test_who_arrives_while_a_question_is_on_its_way_shares_the_next_one():
    asked, go = [], threading.Event()

    def ask(ids):
        asked.append(sorted(ids))
        go.wait(30)

    async def requests():
        coalescer = RequestCoalescer(ask, lambda answer: True, 30)
        waiting = [asyncio.create_task(coalescer.wait([n, n + 1])) for n in range(5)]
        await asyncio.sleep(0)
        go.set()
        return await asyncio.gather(*waiting)

    assert asyncio.run(requests()) == [True] * 5
    assert asked == [[0, 1], [1, 2, 3, 4, 5]]
