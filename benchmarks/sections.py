"""What is measured of the reads: questions to the API, each in the state of the cache that it is about."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from benchmarks.read_model import Teacher

BATCHES = "/internal/v1/batches"
_PAGE = 20
_LARGEST_PAGE = 100


class Cache(Enum):
    """What the cache has to do with the answers of a section; the service's own metrics are asked whether it was so."""

    HIT = "hit"
    MISS = "miss"  # each request is about another batch, and Redis is emptied before each slice
    OFF = "off"  # CACHE_ENABLED=false
    UNUSED = "unused"  # nothing is kept of such an answer


@dataclass(frozen=True, slots=True)
class Population:
    """Whom there is to ask about: teachers of 20 batches by the number of essays in each, and teachers of more.

    Those of `cold` have so many that none comes twice in a slice.
    """

    twenty: Mapping[int, Teacher]
    cold: Mapping[int, Teacher]
    many: Teacher


class Api(Protocol):
    """Asks the service, where a question needs the answer to another."""

    def get(self, path: str) -> dict[str, Any]:
        """The document of a 200."""
        ...


Paths = Callable[[Population, Api], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Section:
    """One question: the paths to ask in turn, and what must be in an answer: so many batches, each with so many essays.

    `essays` is None where an answer leaves the essays out. `if_changed` asks with the tag that the answer has already.
    """

    name: str
    cache: Cache
    connections: Sequence[int]
    paths: Paths
    essays: int | None = None
    batches: int = _PAGE
    status: int = 200
    if_changed: bool = False


def _status(essays: int) -> Paths:
    return lambda population, _: _statuses(population.twenty[essays])


def _cold_status(essays: int) -> Paths:
    return lambda population, _: _statuses(population.cold[essays])


def _statuses(teacher: Teacher) -> Sequence[str]:
    return [f"{BATCHES}/{batch_id}/status" for batch_id in teacher.batch_ids]


def _unknown_status(_: Population, __: Api) -> Sequence[str]:
    return [f"{BATCHES}/00000000-0000-4000-8000-000000000000/status"]


def _page(essays: int, view: str) -> Paths:
    return lambda population, _: [f"{BATCHES}/user/{population.twenty[essays].user_id}?limit={_PAGE}&view={view}"]


def _first_by_offset(population: Population, _: Api) -> Sequence[str]:
    return [f"{_many(population)}&limit={_PAGE}&offset=0"]


def _last_by_offset(population: Population, _: Api) -> Sequence[str]:
    return [f"{_many(population)}&limit={_PAGE}&offset={len(population.many.batch_ids) - _PAGE}"]


def _first_by_cursor(population: Population, _: Api) -> Sequence[str]:
    return [f"{_many(population)}&limit={_PAGE}&cursor="]


def _last_by_cursor(population: Population, api: Api) -> Sequence[str]:
    """The last whole page, found as a client finds it: by the `next` of every page before it."""
    path = f"{_many(population)}&limit={_LARGEST_PAGE}&cursor="
    for _ in range((len(population.many.batch_ids) - 1) // _LARGEST_PAGE):
        path = api.get(path)["pagination"]["next"]
    return [path.replace(f"limit={_LARGEST_PAGE}", f"limit={_PAGE}")]


def _many(population: Population) -> str:
    return f"{BATCHES}/user/{population.many.user_id}?view=summary"


_ONE, _BOTH = (1,), (1, 16)
#: Where one path is all there is to ask, several connections would share the work of one request.
SECTIONS = (
    Section("batch of 5 essays, hit", Cache.HIT, _BOTH, _status(5), essays=5, batches=1),
    Section("batch of 30 essays, hit", Cache.HIT, _BOTH, _status(30), essays=30, batches=1),
    Section("batch of 30 essays, hit, 304", Cache.HIT, _BOTH, _status(30), essays=30, batches=1, if_changed=True),
    Section("batch of 5 essays, miss", Cache.MISS, _BOTH, _cold_status(5), essays=5, batches=1),
    Section("batch of 30 essays, miss", Cache.MISS, _BOTH, _cold_status(30), essays=30, batches=1),
    Section("batch of 5 essays, no cache", Cache.OFF, _BOTH, _cold_status(5), essays=5, batches=1),
    Section("batch of 30 essays, no cache", Cache.OFF, _BOTH, _cold_status(30), essays=30, batches=1),
    Section("batch of 30 essays, no cache, 304", Cache.OFF, _BOTH, _status(30), essays=30, batches=1, if_changed=True),
    Section("unknown batch, 404", Cache.UNUSED, _ONE, _unknown_status, status=404),
    Section("list, full, 20 of 30 essays, hit", Cache.HIT, _ONE, _page(30, "full"), essays=30),
    Section("list, full, 20 of 5 essays, no cache", Cache.OFF, _ONE, _page(5, "full"), essays=5),
    Section("list, full, 20 of 30 essays, no cache", Cache.OFF, _ONE, _page(30, "full"), essays=30),
    Section("list, full, 20 of 300 essays, no cache", Cache.OFF, _ONE, _page(300, "full"), essays=300),
    Section("list, summary, 20 of 30 essays, hit", Cache.HIT, _ONE, _page(30, "summary")),
    Section("list, summary, 20 of 5 essays, no cache", Cache.OFF, _ONE, _page(5, "summary")),
    Section("list, summary, 20 of 30 essays, no cache", Cache.OFF, _ONE, _page(30, "summary")),
    Section("list, summary, 20 of 300 essays, no cache", Cache.OFF, _ONE, _page(300, "summary")),
    Section("many, summary, by offset, first page", Cache.OFF, _ONE, _first_by_offset),
    Section("many, summary, by offset, last page", Cache.OFF, _ONE, _last_by_offset),
    Section("many, summary, by cursor, first page", Cache.OFF, _ONE, _first_by_cursor),
    Section("many, summary, by cursor, last page", Cache.OFF, _ONE, _last_by_cursor),
)

#: Pairs of sections to see beside each other, and what that shows.
COMPARISONS = (
    ("batch of 30 essays, hit, 304", "batch of 30 essays, hit", "a 304 beside the answer itself"),
    (
        "list, summary, 20 of 300 essays, no cache",
        "list, summary, 20 of 5 essays, no cache",
        "summaries of 300 essays beside those of 5 (promised: as fast)",
    ),
    (
        "list, full, 20 of 300 essays, no cache",
        "list, full, 20 of 5 essays, no cache",
        "full answers of 300 essays beside those of 5",
    ),
    (
        "many, summary, by cursor, last page",
        "many, summary, by cursor, first page",
        "by cursor the end beside the start of the list (promised: as fast)",
    ),
    (
        "many, summary, by offset, last page",
        "many, summary, by offset, first page",
        "by offset the end beside the start of the list",
    ),
)
