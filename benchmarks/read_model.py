"""Fills the read model: one batch of each size by real messages, then as many copies of its rows as wanted.

A copy is the rows that the service wrote, under other ids. Left out is what no read looks at: the rankings as they were
announced, the inbox, the ledger, the outbox.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from demo.batch import Batch
from demo.player import Player
from demo.wire import Message

_RUN = "reads"
_RICH_ESSAYS = 2_000
_MARK = 8  # the digits that begin a batch's id and end those of its essays
_TIMEOUT_SECONDS = 600.0

# Whatever columns a table has; `own` are those in which a copy is not like its original.
_COPY = """
INSERT INTO {table}
SELECT copied.*
FROM {table} original,
     generate_series(1, $1::int) number,
     LATERAL (SELECT lpad(to_hex($2::int + number), 8, '0')) new(mark),
     LATERAL jsonb_populate_record(
         NULL::{table}, replace(replace(to_jsonb(original)::text, $3, new.mark), $4, $5)::jsonb || {own}
     ) copied
WHERE original.batch_id = $6
"""
_OWN = {
    "batch_results": """jsonb_build_object(
        'version', gen_random_uuid(), 'created_at', original.created_at - number * interval '{minutes_apart} minutes'
    )""",
    "essay_results": "jsonb_build_object()",
    "phase_outcomes": "jsonb_build_object()",
    "pipeline_ends": "jsonb_build_object('event_id', gen_random_uuid())",
}


@dataclass(frozen=True, slots=True)
class Teacher:
    """A user, whose batches are all of one size."""

    user_id: str
    batch_ids: Sequence[str]
    essays: int


class FinishedBatch(Batch):
    """Spell check and comparative judgment of so many essays, nothing out of the way."""

    def __init__(self, number: int, essays: int, run: str) -> None:
        super().__init__(number, seed=1, run=run)
        self.user_id = f"teacher-of-the-original-{number}"
        self.spell_form = "rich"
        # As much as Kafka takes in one message by default.
        self.cj_form = "rich" if essays <= _RICH_ESSAYS else "older"
        self.essays = [f"essay-{n:04}-{self.batch_id[:_MARK]}" for n in range(1, essays + 1)]
        self.alive = list(self.essays)
        self.register(("spellcheck", "cj_assessment"))
        self.slots()
        self.spellcheck()
        self.comparative_judgment()
        self.end("spellcheck", "cj_assessment")

    def messages(self) -> list[Message]:
        """All that is said of it, in the order of production."""
        return [message for _, message in sorted(self.said, key=lambda said: said[0])]


class ReadModel:
    """The read model of a service that is running."""

    def __init__(self, player: Player, database_url: str, run: str = _RUN) -> None:
        self._player = player
        self._run = run
        self._database_url = database_url.replace("+asyncpg", "")
        self._originals = 0
        self._copies = 0

    def play(self, essays: int) -> Teacher:
        """Say everything about one batch of so many essays. The service takes it in by and by."""
        batch = FinishedBatch(self._originals, essays, self._run)
        self._originals += 1
        self._player.play(batch.messages(), lambda _: None)
        return Teacher(batch.user_id, [batch.batch_id], essays)

    def copy(self, original: Teacher, batches: int, user_id: str, *, minutes_apart: int = 0) -> Teacher:
        """Give another user so many copies of a batch, each so much older than the one before.

        Copies of one time have answers of one length, because durations are counted from it.
        """
        original_id, first = original.batch_ids[0], self._copies
        self._copies += batches
        mark = original_id[:_MARK]
        arguments = (batches, first, mark, original.user_id, user_id, original_id)
        own = {name: columns.format(minutes_apart=minutes_apart) for name, columns in _OWN.items()}
        asyncio.run(self._execute([(_COPY.format(table=name, own=own[name]), arguments) for name in own]))
        batch_ids = [f"{first + n:0{_MARK}x}{original_id[_MARK:]}" for n in range(1, batches + 1)]
        return Teacher(user_id, batch_ids, original.essays)

    def settle(self) -> None:
        """Do now what autovacuum would do in the midst of a measurement."""
        asyncio.run(self._execute([(f"VACUUM (ANALYZE) {name}", ()) for name in _OWN]))

    async def _execute(self, statements: Sequence[tuple[str, tuple[object, ...]]]) -> None:
        connection = await asyncpg.connect(self._database_url, command_timeout=_TIMEOUT_SECONDS)
        try:
            for statement, arguments in statements:
                await connection.execute(statement, *arguments)
        finally:
            await connection.close()
