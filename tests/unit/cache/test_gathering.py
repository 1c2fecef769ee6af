"""Asking together what is asked at the same time."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from result_aggregator_service.cache.gathering import Gathering
from tests.waiting import eventually


class Server:
    """Answers a question by itself in capitals, and notes what was asked together; may be held up, or fail."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.cancelled = 0
        self.failure: Exception | None = None
        self.refused: dict[str, Exception] = {}

    async def __call__(self, questions: Sequence[str]) -> Mapping[str, str | Exception]:
        self.asked.append(list(questions))
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure is not None:
            raise self.failure
        return {question: self.refused.get(question, question.upper()) for question in questions}


async def test_questions_of_one_turn_are_asked_together_and_each_once() -> None:
    server = Server()
    questions = Gathering(server, at_once=10)
    answers = await asyncio.gather(*map(questions.answer, ["a", "b", "a", "c", "b"]))
    assert answers == ["A", "B", "A", "C", "B"]
    assert server.asked == [["a", "b", "c"]]


async def test_no_more_than_so_many_are_asked_together_but_the_same_ones_join() -> None:
    server = Server()
    questions = Gathering(server, at_once=2)
    assert await asyncio.gather(*map(questions.answer, ["a", "b", "a", "c", "d", "e", "c"])) == list("ABACDEC")
    assert server.asked == [["a", "b"], ["c", "d"], ["e", "c"]]


async def test_who_comes_after_a_question_was_sent_does_not_get_its_answer() -> None:
    server = Server()
    server.may_answer.clear()
    questions = Gathering(server, at_once=10)
    early = asyncio.create_task(questions.answer("a"))
    await eventually(lambda: server.asked)
    late = asyncio.create_task(questions.answer("a"))
    await eventually(lambda: len(server.asked) == 2)
    server.may_answer.set()
    assert list(await asyncio.gather(early, late)) == ["A", "A"]
    assert server.asked == [["a"], ["a"]]


async def test_an_error_of_one_question_is_only_its_own() -> None:
    server = Server()
    server.refused = {"b": ValueError("not b")}
    questions = Gathering(server, at_once=10)
    answers = await asyncio.gather(*map(questions.answer, ["a", "b"]), return_exceptions=True)
    assert answers == ["A", server.refused["b"]]


async def test_an_error_of_the_server_is_everybodys_and_the_next_ask_again() -> None:
    server = Server()
    server.failure = OSError("away")
    questions = Gathering(server, at_once=10)
    answers = await asyncio.gather(*map(questions.answer, ["a", "b"]), return_exceptions=True)
    assert answers == [server.failure] * 2
    server.failure = None
    assert await questions.answer("a") == "A"


async def test_one_who_gives_up_does_not_disturb_the_others() -> None:
    server = Server()
    server.may_answer.clear()
    questions = Gathering(server, at_once=10)
    one, other = (asyncio.create_task(questions.answer(question)) for question in "ab")
    await eventually(lambda: server.asked)
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    server.may_answer.set()
    assert await other == "B"
    assert server.cancelled == 0


async def test_nobody_is_asked_any_more_for_those_who_have_all_given_up() -> None:
    server = Server()
    server.may_answer.clear()
    questions = Gathering(server, at_once=10)
    waiting = [asyncio.create_task(questions.answer(question)) for question in "ab"]
    await eventually(lambda: server.asked)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await eventually(lambda: server.cancelled == 1)


async def test_who_comes_after_all_gave_up_before_anything_was_sent_is_answered() -> None:
    server = Server()
    questions = Gathering(server, at_once=10)
    early = asyncio.create_task(questions.answer("a"))
    late = asyncio.create_task(questions.answer("b"))
    await asyncio.sleep(0)  # both have asked, nothing is sent
    early.cancel()
    late.cancel()
    await asyncio.gather(early, late, return_exceptions=True)
    assert await questions.answer("c") == "C"
