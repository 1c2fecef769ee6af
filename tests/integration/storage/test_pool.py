"""The pool: what is idle is lent again past SQLAlchemy's own, and never withheld from who waits for it."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool, QueuePool

from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import create_engine
from result_aggregator_service.storage.errors import is_trouble
from result_aggregator_service.storage.pool import Lent, Pool
from tests.waiting import eventually

_PID = "SELECT pg_backend_pid()"
_NUMBER = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)"


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """One that keeps two connections and makes one more if need be."""
    settings = Settings(
        database_url=SecretStr(database_url),
        environment="development",
        database_pool_size=2,
        database_max_overflow=1,
    )
    engine = create_engine(settings)
    yield engine
    await engine.dispose()


@pytest.fixture
async def pool(engine: AsyncEngine) -> AsyncIterator[Pool]:
    pool = Pool(engine, lambda: "")
    yield pool
    await pool.close()


async def pid(lent: Lent) -> int:
    return int((await lent.session.fetch(_PID))[0][0])


def checked_out(engine: AsyncEngine) -> int:
    """How many connections are out of SQLAlchemy's pool."""
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


async def test_an_idle_connection_is_lent_again_with_what_was_prepared_on_it(pool: Pool) -> None:
    first = await pool.take()
    assert first.is_new
    before = await pid(first)
    await pool.give_back(first)
    again = await pool.take()
    assert not again.is_new
    assert again.session is first.session
    assert await pid(again) == before
    await pool.give_back(again)


async def test_no_more_are_idle_than_sqlalchemys_pool_would_keep(pool: Pool, engine: AsyncEngine) -> None:
    lent = [await pool.take() for _ in range(3)]
    for each in lent:
        await pool.give_back(each)
    assert checked_out(engine) == 2


async def test_who_waits_gets_the_next_that_is_given_back(pool: Pool) -> None:
    lent = [await pool.take() for _ in range(3)]
    pids = {await pid(each) for each in lent}
    waiting = [asyncio.create_task(pool.take()) for _ in range(3)]
    await asyncio.sleep(0)  # they have begun to wait
    for each in lent:
        await pool.give_back(each)
    # In SQLAlchemy's pool, which has room for two, the last would wait until its time is over, and fail.
    async with asyncio.timeout(3):
        got = await asyncio.gather(*waiting)
    assert {await pid(each) for each in got} <= pids
    for each in got:
        await pool.give_back(each)


async def test_who_waits_for_too_long_is_told_of_what_and_by_which_settings(engine: AsyncEngine) -> None:
    pool = Pool(engine, lambda: "", seconds_to_wait=0.01)
    lent = [await pool.take() for _ in range(3)]
    with pytest.raises(TimeoutError, match=r"all 3 connections .* DATABASE_POOL_SIZE") as raised:
        await pool.take()
    assert is_trouble(raised.value)
    await pool.give_up(lent.pop())
    lent.append(await pool.take())  # who gave up waiting has left no gap
    with pytest.raises(TimeoutError):
        await pool.take()
    for each in lent:
        await pool.give_back(each)
    await pool.close()


async def test_who_is_cancelled_while_it_waits_takes_no_turn_with_it(pool: Pool) -> None:
    lent = [await pool.take() for _ in range(3)]
    waiting = [asyncio.create_task(pool.take()) for _ in range(3)]
    await asyncio.sleep(0)
    for each in lent:
        await pool.give_back(each)
    for task in waiting:
        task.cancel()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in ended] == [asyncio.CancelledError] * 3
    async with asyncio.timeout(3):
        lent = [await pool.take() for _ in range(3)]
    for each in lent:
        await pool.give_back(each)


async def test_a_connection_that_could_not_be_made_takes_no_turn_from_anybody() -> None:
    settings = Settings(
        database_url=SecretStr("postgresql://nobody@127.0.0.1:9/none"),
        environment="development",
        database_pool_size=1,
        database_max_overflow=0,
    )
    pool = Pool(create_engine(settings), lambda: "", seconds_to_wait=0.01)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            await pool.take()
    await pool.close()


async def test_many_take_turns_on_few(pool: Pool) -> None:
    async def turn() -> None:
        for _ in range(20):
            lent = await pool.take()
            await pid(lent)
            await pool.give_back(lent)

    async with asyncio.timeout(4):  # less than one of them may wait
        await asyncio.gather(*(turn() for _ in range(12)))


async def test_one_that_was_kept_for_long_goes_back_to_where_its_age_is_looked_at(engine: AsyncEngine) -> None:
    pool = Pool(engine, lambda: "", seconds_kept=0.05)
    lent = await pool.take()
    await pool.give_back(lent)
    assert checked_out(engine) == 1

    async def returned() -> bool:
        await pool.give_back(await pool.take())
        return checked_out(engine) == 0

    await eventually(returned)
    await pool.close()


async def test_one_that_is_given_up_is_not_lent_again(pool: Pool, engine: AsyncEngine) -> None:
    lent = await pool.take()
    before = await pid(lent)
    await pool.give_up(lent)
    assert checked_out(engine) == 0
    other = await pool.take()
    assert other.is_new
    assert await pid(other) != before
    await pool.give_back(other)


async def test_closing_ends_all_that_are_idle_and_those_that_are_lent_when_they_are_given_back(
    pool: Pool, database_url: str
) -> None:
    lent = [await pool.take() for _ in range(3)]
    pids = [await pid(each) for each in lent]
    for each in lent[:2]:
        await pool.give_back(each)
    watching = await asyncpg.connect(database_url.replace("+asyncpg", ""))

    async def are_left(number: int) -> bool:
        return int(await watching.fetchval(_NUMBER, pids)) == number

    await pool.close()
    await eventually(lambda: are_left(1))
    await pool.give_back(lent[2])
    await eventually(lambda: are_left(0))
    await watching.close()


async def test_a_pool_that_keeps_nothing_has_nothing_idle(database_url: str) -> None:
    engine = create_async_engine(database_url, poolclass=NullPool)
    pool = Pool(engine, lambda: "")
    pids = []
    for _ in range(2):
        lent = await pool.take()
        pids.append(await pid(lent))
        await pool.give_back(lent)
    assert len(set(pids)) == 2
    await pool.close()
