"""`python -m benchmarks.plans`: how PostgreSQL runs every statement of the service on large tables, as Markdown.

The service works on a database of the growth section's size, and PostgreSQL logs what it is asked, with the parameters
that the driver gave. Then the same is asked of a copy of that database from before, statement by statement in the same
sessions and transactions, as `EXPLAIN (ANALYZE, BUFFERS) EXECUTE`: so each plan is of a statement that does its work on
the rows it did it on. The exit status is 1 if one of them read a large table from end to end, unless a quarter of its
rows or more were wanted: there are four rows of a batch on a page, so then hardly a page could be left out.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import asyncpg
import httpx
from redis import Redis

from benchmarks.deployment import Deployment, ask, copied_database, deployed, execute
from benchmarks.errors import ERRORS, BenchmarkError
from benchmarks.growth import ESSAYS, Filled, filled_database
from benchmarks.report import Terminal
from benchmarks.sections import BATCHES
from benchmarks.stage import Stage, stage
from demo.traffic import traffic

_LOG = {"logging_collector": "on", "log_destination": "jsonlog", "log_rotation_age": "0", "log_rotation_size": "0"}
_SERVICE = "result-aggregator-service"  # the connections that say so are the service's
_LARGE_ROWS = 10_000
_TIMES = 8  # more often than PostgreSQL plans for the parameters at hand before it may do with one plan for all
_CLIENTS, _TIMES_TOGETHER = 8, 40
_SETTLE_SECONDS = 60.0
_POLL_SECONDS = 0.2
_LONGEST_LINE = 150
_LONGEST_STATEMENT = 700
_MOST_LINES = 60

_EXECUTED = re.compile(r"duration: [\d.]+ ms  (?:execute [^:]*|statement): (.*)", re.DOTALL)
_PARAMETER = re.compile(r"\$\d+ = (NULL|'(?:[^']|'')*')")
_EXPLAINED = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b", re.IGNORECASE)
_AS_IT_IS = re.compile(r"\s*(BEGIN|START|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|SET)\b", re.IGNORECASE)
_CHANGE = re.compile(r"(?<!FOR )\b(INSERT INTO|UPDATE|DELETE FROM)\s+(\w+)")
_PAGES = re.compile(r"Buffers: shared(?: hit=(\d+))?(?: read=(\d+))?")
_SCANNED = re.compile(r"Seq Scan on (\w+).*actual time=\S+ rows=([\d.]+)")
_REMOVED = re.compile(r"Rows Removed by Filter: (\d+)")

_LARGE_TABLES = f"SELECT array_agg(relname::text) FROM pg_class WHERE relkind = 'r' AND reltuples > {_LARGE_ROWS}"
_TABLES = "SELECT array_agg(relname::text) FROM pg_stat_user_tables WHERE relname <> 'alembic_version'"
_UPDATES = """
SELECT s.relname, s.n_tup_ins, s.n_tup_upd, s.n_tup_hot_upd, s.n_tup_newpage_upd,
       coalesce(substring(array_to_string(c.reloptions, ' ') FROM 'fillfactor=([0-9]+)'), '100') AS fillfactor,
       pg_size_pretty(pg_table_size(c.oid)) AS size, pg_size_pretty(pg_indexes_size(c.oid)) AS of_indexes
FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid
WHERE s.relname <> 'alembic_version' ORDER BY 1
"""
_INDEXES = """
SELECT relname, indexrelname, idx_scan, pg_size_pretty(pg_relation_size(indexrelid)) AS size
FROM pg_stat_user_indexes WHERE relname <> 'alembic_version' ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """One statement as PostgreSQL was asked it: by which session, and its parameters as literals.

    `title` is what it does to which table; None of what begins or ends a transaction.
    """

    session: int
    sql: str
    title: str | None = None
    parameters: Sequence[str] = ()


@dataclass(slots=True)
class Plans:
    """What became of one statement: how often it ran, the plan that read most pages, large tables it read wholly."""

    sql: str
    title: str
    runs: int = 0
    pages: int = -1
    plan: Sequence[str] = ()
    scanned: set[str] = field(default_factory=set)

    def add(self, plan: Sequence[str], large: Iterable[str]) -> None:
        """One more run."""
        self.runs += 1
        text = "\n".join(plan)
        self.scanned |= _wasted(plan) & set(large)
        found = _PAGES.search(text)
        pages = sum(int(number or 0) for number in found.groups()) if found else 0
        if pages > self.pages:
            self.pages, self.plan = pages, plan


def _wasted(plan: Sequence[str]) -> set[str]:
    """Tables that were read from end to end for less than a quarter of their rows, or without a condition."""
    found: set[str] = set()
    for number, line in enumerate(plan):
        if scanned := _SCANNED.search(line):
            behind = next(
                (removed for later in plan[number + 1 : number + 3] if (removed := _REMOVED.search(later))), None
            )
            if behind is None or 3 * float(scanned[2]) < int(behind[1]):
                found.add(scanned[1])
    return found


def asked(log: Iterable[str], tables: Sequence[str]) -> Iterator[Asked]:
    """What PostgreSQL's log (JSON lines) says that the service asked about these tables, and where transactions end."""
    about = re.compile(rf"\b({'|'.join(tables)})\b")
    for line in log:
        entry = json.loads(line)
        executed = _EXECUTED.match(entry.get("message", ""))
        if executed is None or not entry.get("application_name", "").startswith(_SERVICE):
            continue
        sql = executed[1]
        if _AS_IT_IS.match(sql):
            yield Asked(entry["pid"], sql)
        elif _EXPLAINED.match(sql) and (table := about.search(sql)):
            change = _CHANGE.search(sql)
            title = f"{change[1]} {change[2]}" if change else f"SELECT FROM {table[1]}"
            yield Asked(entry["pid"], sql, title, _PARAMETER.findall(entry.get("detail", "")))


async def explained(statements: Iterable[Asked], database_url: str, large: Sequence[str]) -> dict[str, Plans]:
    """Ask the same of another database; what became of each statement, in the order of their first."""
    found: dict[str, Plans] = {}
    sessions: dict[int, _Session] = {}
    try:
        for each in statements:
            session = sessions.get(each.session)
            if session is None:
                session = sessions[each.session] = await _Session.open(database_url)
            if each.title is None:
                await session.execute(each.sql)
            else:
                plan = await session.explain(each)
                found.setdefault(each.sql, Plans(each.sql, each.title)).add(plan, large)
    finally:
        for session in sessions.values():
            await session.close()
    return found


class _Session:
    """Asks as one session of the service asked: each statement prepared once, as its driver does."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._prepared: dict[str, str] = {}

    @classmethod
    async def open(cls, database_url: str) -> "_Session":
        url = database_url.replace("+asyncpg", "")
        return cls(await asyncpg.connect(url, command_timeout=_SETTLE_SECONDS, statement_cache_size=0))

    async def execute(self, sql: str) -> None:
        await self._connection.execute(sql)

    async def explain(self, statement: Asked) -> list[str]:
        name = self._prepared.get(statement.sql)
        if name is None:
            name = self._prepared[statement.sql] = f"statement_{len(self._prepared)}"
            await self._connection.execute(f"PREPARE {name} AS {statement.sql}")
        given = f"({', '.join(statement.parameters)})" if statement.parameters else ""
        rows = await self._connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS) EXECUTE {name}{given}")
        return [row[0] for row in rows]

    async def close(self) -> None:
        await self._connection.close()


def _work(deployment: Deployment, database: Filled, messages: int) -> None:
    """Let the service do everything that it does often."""
    run = "plans"
    deployment.take_in(list(islice(traffic(batches=messages, run=run, broken=False), messages)))
    deadline = time.monotonic() + _SETTLE_SECONDS
    while ask(deployment.database_url, "SELECT count(*) FROM event_outbox WHERE published_at IS NULL"):
        if time.monotonic() > deadline:
            raise BenchmarkError(f"the outbox was not published within {_SETTLE_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)
    servers = deployment.servers
    lists = [
        f"{BATCHES}/user/{teacher.user_id}?limit=20&view={view}{page}{status}"
        for teacher in (database.many, database.some)
        for view in ("summary", "full")
        for page in ("", "&cursor=", "&offset=40")
        for status in ("", "&status=completed_successfully")
    ]
    with servers.api(deployment.service) as api, Redis.from_url(servers.valkey.url) as redis:
        for number in range(_TIMES):
            status = f"{BATCHES}/{database.some.batch_ids[number]}/status"
            for path in (status, *lists):
                redis.flushall()
                answer = api.get(path).raise_for_status()
                following = answer.json().get("pagination", {}).get("next")
                if following:
                    api.get(following).raise_for_status()
                redis.flushall()
                again = api.get(path, headers={"If-None-Match": answer.headers["ETag"]})
                if again.status_code != httpx.codes.NOT_MODIFIED:
                    raise BenchmarkError(f"{path}: {again.status_code} to the tag that was just given")
        # Those that come in one turn of the service's event loop are read by one statement.
        paths = [f"{BATCHES}/{batch_id}/status" for batch_id in database.some.batch_ids[:_CLIENTS]]
        with ThreadPoolExecutor(_CLIENTS) as clients:
            for _ in range(_TIMES_TOGETHER):
                redis.flushall()
                tags = [answer.headers["ETag"] for answer in clients.map(api.get, paths)]
                redis.flushall()
                known = [{"If-None-Match": tag} for tag in tags]
                list(clients.map(lambda path, headers: api.get(path, headers=headers), paths, known))


def measure(servers: Stage, quick: bool, report: Terminal) -> tuple[list[Plans], str]:
    """The plans of all statements, and tables (Markdown) of updates and of indexes.

    Raises:
        ServerError, PlayerError: a server did not start, or did not do its part.
        BenchmarkError, httpx.HTTPError: the service did not do what was to be seen.
    """
    batches, many, messages = (600, 1_000, 3_000) if quick else (30_000, 50_000, 30_000)
    with ExitStack() as running:
        database = running.enter_context(filled_database(servers, "large", batches, many))
        name = running.enter_context(copied_database(servers, database.name))
        replayed = servers.postgres.url_for(running.enter_context(copied_database(servers, database.name)))
        url = servers.postgres.url_for(name)
        tables, large = ask(url, _TABLES), ask(url, _LARGE_TABLES)
        report.say(f"{batches * ESSAYS:,} essays are there; large are {', '.join(sorted(large))}")
        execute(url, f"ALTER DATABASE {name} SET log_min_duration_statement = 0")
        with deployed(servers, database=name) as deployment:
            _work(deployment, database, messages)
        execute(url, f"ALTER DATABASE {name} RESET log_min_duration_statement")
        log = Path(ask(url, "SHOW data_directory")) / ask(url, "SELECT pg_current_logfile('jsonlog')")
        report.say(f"The service took in {messages:,} messages and was asked for batches and lists")
        with log.open() as lines:
            plans = asyncio.run(explained(asked(lines, tables), replayed, large))
        return list(plans.values()), asyncio.run(_statistics(url))


async def _statistics(database_url: str) -> str:
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    try:
        updates, indexes = await connection.fetch(_UPDATES), await connection.fetch(_INDEXES)
    finally:
        await connection.close()
    lines = [
        "| table | inserted | updated | of these HOT | to another page | fillfactor | size | of its indexes |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in updates:
        share = f"{row['n_tup_hot_upd'] / row['n_tup_upd']:.0%}" if row["n_tup_upd"] else ""
        moved = f"{row['n_tup_newpage_upd'] / row['n_tup_upd']:.0%}" if row["n_tup_upd"] else ""
        lines.append(
            f"| {row['relname']} | {row['n_tup_ins']:,} | {row['n_tup_upd']:,} | {share} | {moved} "
            f"| {row['fillfactor']} | {row['size']} | {row['of_indexes']} |"
        )
    lines += ["", "| index | scans | size |", "|---|---:|---:|"]
    lines += [f"| {row['indexrelname']} | {row['idx_scan']:,} | {row['size']} |" for row in indexes]
    return "\n".join(lines)


def page(plans: Sequence[Plans], statistics: str) -> str:
    """What is shown of it."""
    parts = [statistics]
    for number, each in enumerate(plans, 1):
        sql = _shortened(" ".join(each.sql.split()), _LONGEST_STATEMENT)
        plan = "\n".join(_shortened(line, _LONGEST_LINE) for line in each.plan[:_MOST_LINES])
        parts += [f"### {number}. {each.title}", f"Ran {each.runs:,} times.", f"```sql\n{sql}\n```"]
        parts.append(f"```\n{plan}\n```")
    return "\n\n".join(parts) + "\n"


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 2]} …"


def main() -> int:
    """Explain everything; the exit status is 1 if a large table was read from end to end, or there are no plans."""
    arguments = _arguments()
    report = Terminal()
    try:
        with stage(writes=True, postgres_settings=_LOG) as servers:
            with servers.service():
                pass  # it makes the topics, with the partitions they come with
            plans, statistics = measure(servers, arguments.quick, report)
    except ERRORS as error:
        report.fail(f"{type(error).__name__}: {error}")
        return 1
    if arguments.markdown is not None:
        before, mark, _ = arguments.markdown.read_text().partition(_MARK)
        arguments.markdown.write_text(f"{before}{mark}\n\n{page(plans, statistics)}")
    else:
        report.say(page(plans, statistics))
    report.say(f"{len(plans)} statements were seen")
    for each in plans:
        if each.scanned:
            report.fail(f"{', '.join(sorted(each.scanned))} read from end to end by: {each.sql}")
    return 1 if any(each.scanned for each in plans) else 0


#: Of a page everything behind this line is replaced.
_MARK = "<!-- python -m benchmarks.plans writes what follows -->"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plans", description="How PostgreSQL runs the service's statements on large tables."
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help=f"replace what follows '{_MARK}' in this page")
    parser.add_argument("--quick", action="store_true", help="on small tables: shows only that it works")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
