"""The load of the reads: it counts what it asked, and believes no answer that is not the expected one."""

import asyncio

import pytest

from benchmarks.client import Load
from benchmarks.errors import LoadError
from tests.listening import listening

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Answering:
    """Gives one and the same answer to every request, and counts them."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.asked: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not reader.at_eof():
                self.asked.append((await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[0])
                writer.write(self._answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has hung up
        finally:
            writer.close()


def load_on(port: int, *, status: int = 200, length: int = 5) -> Load:
    return Load(
        "127.0.0.1", port, [("/one", {}), ("/two", {})], connections=2, seconds=0.05, status=status, length=length
    )


async def test_every_request_is_counted_and_the_paths_are_asked_in_turn() -> None:
    server = Answering(ANSWER)
    async with listening(server.serve) as port:
        took = await load_on(port).run()
    assert took.rows == len(took.latencies) == len(server.asked) >= 2
    assert list(took.latencies) == sorted(took.latencies)
    assert set(server.asked) == {b"GET /one HTTP/1.1", b"GET /two HTTP/1.1"}


@pytest.mark.parametrize(
    ("answer", "status", "length", "why"),
    [
        (ANSWER, 404, 5, "the answer is 200, not 404"),
        (ANSWER, 200, 6, "the answer is not of 6 bytes"),
        (ANSWER + b"!", 200, 5, "an answer is longer than it said"),
        (b"", 200, 5, "the server closed the connection"),
    ],
    ids=["status", "length", "longer", "hung up"],
)
async def test_another_answer_ends_the_load_and_is_told_with_the_path(
    answer: bytes, status: int, length: int, why: str
) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with listening(Answering(answer).serve if answer else hang_up) as port:
        with pytest.raises(LoadError, match=f"^/one: .*{why}"):
            await load_on(port, status=status, length=length).run()


async def test_a_server_that_is_not_there_is_told_with_the_path() -> None:
    async with listening(Answering(ANSWER).serve) as port:
        pass
    with pytest.raises(LoadError, match=r"^/one: ConnectionRefusedError"):
        await load_on(port).run()
