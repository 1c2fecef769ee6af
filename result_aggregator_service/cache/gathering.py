"""Questions to a server, gathered: those of one turn of the event loop are asked together, each of them once.

Whoever is joined came before the question was sent. So an answer is not older than anything that had happened when the
last of them came. What a round trip costs besides its questions, which is most of it for small ones, is shared.
"""

from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from result_aggregator_service.cache.single_flight import SingleFlight

Question = TypeVar("Question", bound=Hashable)
Answer = TypeVar("Answer")


class _Batch(Generic[Question]):
    """Questions that are sent together, in the order in which they came."""

    def __init__(self) -> None:
        self.questions: dict[Question, None] = {}


class Gathering(Generic[Question, Answer]):
    """Questions of one kind, at most `at_once` together.

    `ask` gives the answer to each of some questions; for one that has none, the error to be raised. What it raises
    itself, all of them get. It is cancelled once nobody waits any more.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Question]], Coroutine[Any, Any, Mapping[Question, Answer | Exception]]],
        *,
        at_once: int,
    ) -> None:
        self._ask = ask
        self._at_once = at_once
        self._flights = SingleFlight()
        self._unsent: _Batch[Question] | None = None

    async def answer(self, question: Question) -> Answer:
        """The answer, as it is at some moment after this call began; raises what `ask` gives instead of one."""
        batch = self._unsent
        if batch is None or (len(batch.questions) >= self._at_once and question not in batch.questions):
            batch = self._unsent = _Batch()
        batch.questions[question] = None
        # It begins in the next turn of the loop; until then others may join.
        answers = await self._flights.join(batch, partial(self._send, batch))
        answer = answers[question]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _send(self, batch: _Batch[Question]) -> Mapping[Question, Answer | Exception]:
        if self._unsent is batch:
            self._unsent = None
        return await self._ask(list(batch.questions))
