"""`python -m benchmarks.reads`: how fast the shipped service answers, beside a bare Quart route with the same bytes.

Servers, service, bare route and load client are processes of their own, on this machine. Each section is taken in
slices, the service and the bare route in turn, so that a noisy machine disturbs both alike. Needs Linux.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from redis import Redis

from benchmarks import bare
from benchmarks.client import Load
from benchmarks.errors import ERRORS, BenchmarkError
from benchmarks.figures import Figures, Slice, ratio
from benchmarks.read_model import ReadModel, Teacher
from benchmarks.report import PACKAGES, Measured, Report, read_figures, write_figures
from benchmarks.sections import BATCHES, SECTIONS, Cache, Population, Section
from benchmarks.stage import GROUP_ID, BareProcess, Stage, cpu_seconds, stage
from benchmarks.worker import Worker
from demo.player import Player
from demo.stage import ServiceProcess
from embedded import ServerProcess
from embedded.process import LOOPBACK

_FOLD_SECONDS = 60.0
_POLL_SECONDS = 0.1
#: Of the requests of a section that is about hits (or misses), how many may be something else.
_STRAY = 0.01


@dataclass(frozen=True, slots=True)
class Length:
    """How long a run is: slices of each, their length, and how many batches the largest teachers have.

    `cold` are those of 30 essays that are asked for once each in a slice: twice as many as any machine asked for so
    far. Of small ones there are four times as many.
    """

    rounds: int
    seconds: float
    warm_up_seconds: float = 0.3
    cold: int = 2_500
    many: int = 50_000


QUICK = Length(rounds=1, seconds=0.1, warm_up_seconds=0.05, cold=500, many=2_000)


@dataclass(frozen=True)
class Question:
    """A section, ready to be asked, with an answer that was looked at and that all others must be like."""

    section: Section
    requests: Sequence[tuple[str, Mapping[str, str]]]
    answer: bare.Recorded


@dataclass(frozen=True)
class Take:
    """A question with so many connections, and what came of it so far."""

    question: Question
    connections: int
    of_service: list[Slice] = field(default_factory=list)
    of_bare: list[Slice] = field(default_factory=list)

    def measured(self) -> Measured:
        """What all slices together say."""
        return Measured(
            section=self.question.section.name,
            connections=self.connections,
            body_bytes=len(self.question.answer.body),
            service=Figures.of(self.of_service),
            bare=Figures.of(self.of_bare),
            ratio=ratio(self.of_service, self.of_bare),
        )


class Reads:
    """Measures sections on one running service."""

    def __init__(
        self, running: Stage, service: ServiceProcess, worker: Worker, population: Population, report: Report
    ) -> None:
        self._running = running
        self._report = report
        self._service = service
        self._worker = worker
        self._population = population
        self._http = running.api(service)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str) -> dict[str, Any]:
        """The document of a 200.

        Raises:
            httpx.HTTPError: there is none.
        """
        document: dict[str, Any] = self._http.get(path).raise_for_status().json()
        return document

    def ask(self, section: Section) -> Question:
        """Ask once, and look whether the answer is what the section is about.

        Raises:
            BenchmarkError: it is not.
        """
        paths, headers = section.paths(self._population, self), dict(self._running.credentials)
        response = self._http.get(paths[0])
        if response.status_code != section.status:
            raise BenchmarkError(f"{section.name}: {response.status_code} for {paths[0]}: {response.text[:500]}")
        if section.status == httpx.codes.OK:
            _look(section, response.json())
        requests = [(path, headers) for path in paths]
        if section.if_changed:
            requests = [(path, {**headers, "If-None-Match": self._http.get(path).headers["ETag"]}) for path in paths]
            response = self._http.get(paths[0], headers=requests[0][1])
            if response.status_code != httpx.codes.NOT_MODIFIED:
                raise BenchmarkError(f"{section.name}: {response.status_code} to the tag that was just given")
        kept = [
            (name, value)
            for name, value in response.headers.multi_items()
            if name not in ("content-length", "date", "connection")
        ]
        return Question(section, requests, bare.Recorded(response.status_code, kept, response.content))

    def measure(self, questions: Sequence[Question], beside: BareProcess, length: Length) -> list[Measured]:
        """Measure all of them in turn, again and again: what else the machine does then disturbs all alike.

        Raises:
            LoadError: an answer was not like the one that was looked at.
            BenchmarkError: the cache did not do what a section is about.
        """
        takes = [Take(question, connections) for question in questions for connections in question.section.connections]
        for take in takes:
            self._bring_about(take.question)
            self._slice(take, self._service, length.warm_up_seconds)
            self._slice(take, beside, length.warm_up_seconds)
        for number in range(1, length.rounds + 1):
            for take in takes:
                self._bring_about(take.question)
                counted = self._hits_and_misses()
                take.of_service.append(self._slice(take, self._service, length.seconds))
                _check_cache(take.question.section, counted, self._hits_and_misses())
                take.of_bare.append(self._slice(take, beside, length.seconds))
            self._report.say(f"Round {number} of {length.rounds}")
        return [take.measured() for take in takes]

    def _slice(self, take: Take, server: ServerProcess, seconds: float) -> Slice:
        """Put the load of a take on the service, or on the bare route, for a while."""
        question = take.question
        requests = question.requests
        if server is not self._service:
            requests = [(f"/{SECTIONS.index(question.section)}", headers) for _, headers in requests]
        cpu_before = cpu_seconds(server)
        took = self._worker.put(
            Load(
                host=LOOPBACK,
                port=server.port,
                requests=requests,
                connections=take.connections,
                seconds=seconds,
                status=question.answer.status,
                length=len(question.answer.body),
            )
        )
        used = cpu_seconds(server) - cpu_before
        return Slice(took.rows, took.seconds, took.percentile(50), took.percentile(99), used)

    def _bring_about(self, question: Question) -> None:
        """Let the cache hold what the section says."""
        if question.section.cache is Cache.HIT:
            for path, _ in question.requests:
                self.get(path)
        elif question.section.cache is Cache.MISS:
            with Redis.from_url(self._running.valkey.url) as redis:
                redis.flushall()

    def _hits_and_misses(self) -> tuple[float, float]:
        """What the service has counted of its cache."""
        lines = self._http.get("/metrics").raise_for_status().text.splitlines()
        hits, misses = (
            sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"ras_cache_{what}_total{{"))
            for what in ("hits", "misses")
        )
        return hits, misses


def _look(section: Section, document: Mapping[str, Any]) -> None:
    """Look whether an answer shows what the section is about.

    Raises:
        BenchmarkError: it does not.
    """
    batches = document.get("batches", [document])
    essays = {len(batch["essays"]) if "essays" in batch else None for batch in batches}
    if len(batches) != section.batches or essays != {section.essays}:
        raise BenchmarkError(
            f"{section.name}: the answer holds {len(batches)} batches of {essays} essays, "
            f"not {section.batches} of {section.essays}"
        )


def _check_cache(section: Section, before: tuple[float, float], after: tuple[float, float]) -> None:
    """Compare what the service has counted meanwhile, hits and misses, with what the section is about.

    Raises:
        BenchmarkError: it is something else.
    """
    hits, misses = (now - then for now, then in zip(after, before, strict=True))
    stray = {Cache.HIT: misses, Cache.MISS: hits}.get(section.cache, 0.0)
    if stray > _STRAY * (hits + misses):
        raise BenchmarkError(f"{section.name}: not a {section.cache.value} each: {hits:.0f} hits, {misses:.0f} misses")


def run(sections: Sequence[Section], length: Length, report: Report) -> list[Measured]:
    """Start everything, measure, stop everything.

    Raises:
        ServerError, PlayerError: a server did not start, or did not do its part.
        httpx.HTTPError, LoadError, BenchmarkError: the service did not do what was to be measured.
    """
    found: list[Measured] = []
    with ExitStack() as running:
        report.say("Starting the servers ...")
        servers = running.enter_context(stage())
        worker = running.enter_context(Worker())
        with servers.service() as service:
            report.say(f"Filling the read model: a teacher of {length.many} batches among others ...")
            population = _populate(servers, service, length)
        for settings, some in (
            ({}, [section for section in sections if section.cache is not Cache.OFF]),
            ({"CACHE_ENABLED": "false"}, [section for section in sections if section.cache is Cache.OFF]),
        ):
            if some:
                found += _measure(servers, settings, worker, population, some, length, report)
    return found


def _populate(servers: Stage, service: ServiceProcess, length: Length) -> Population:
    with Player(servers.kafka.bootstrap_servers, GROUP_ID) as player, servers.api(service) as api:
        read_model = ReadModel(player, servers.postgres.url)
        originals = {essays: read_model.play(essays) for essays in (5, 30, 300)}
        for original in originals.values():
            _wait_until_finished(api, original)
    population = Population(
        twenty={essays: read_model.copy(each, 20, f"teacher-of-20x{essays}") for essays, each in originals.items()},
        cold={
            essays: read_model.copy(originals[essays], number, f"teacher-of-cold-batches-of-{essays}")
            for essays, number in ((5, 4 * length.cold), (30, length.cold))
        },
        many=read_model.copy(originals[5], length.many, "teacher-of-many-batches", minutes_apart=1),
    )
    read_model.settle()
    return population


def _wait_until_finished(api: httpx.Client, teacher: Teacher) -> None:
    deadline = time.monotonic() + _FOLD_SECONDS
    while True:
        answer = api.get(f"{BATCHES}/{teacher.batch_ids[0]}/status")
        if answer.status_code == httpx.codes.OK and answer.json()["completed_essay_count"] == teacher.essays:
            return
        if time.monotonic() > deadline:
            raise BenchmarkError(f"a batch was not finished within {_FOLD_SECONDS:g} s: {answer.text[:500]}")
        time.sleep(_POLL_SECONDS)


def _measure(
    servers: Stage,
    settings: Mapping[str, str],
    worker: Worker,
    population: Population,
    sections: Sequence[Section],
    length: Length,
    report: Report,
) -> list[Measured]:
    report.say(f"Measuring {len(sections)} sections; settings: {dict(settings) or 'the defaults'}")
    with servers.service(**settings) as service, Reads(servers, service, worker, population, report) as reads:
        questions = [reads.ask(section) for section in sections]
        answers = {str(SECTIONS.index(each.section)): each.answer for each in questions}
        with BareProcess(servers.folder / "bare", answers) as beside:
            return reads.measure(questions, beside, length)


def main() -> int:
    """Measure and tell; the exit status is 1 if something else than what was to be measured came out."""
    arguments = _arguments()
    report = Report()
    chosen = [section for section in SECTIONS if any(part in section.name for part in arguments.only or [""])]
    length = QUICK if arguments.quick else Length(arguments.rounds, arguments.seconds)
    before = None if arguments.baseline is None else read_figures(arguments.baseline)
    try:
        found = run(chosen, length, report)
    except ERRORS as error:
        report.fail(f"{type(error).__name__}: {error}")
        return 1
    report.table(found, before)
    report.compare(found)
    if arguments.json is not None:
        write_figures(arguments.json, [asdict(each) for each in found], PACKAGES)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reads",
        description="How fast the shipped service answers, beside a bare Quart route with the same bytes.",
    )
    parser.add_argument("--rounds", type=int, default=7, help="slices of each (default 7)")
    parser.add_argument("--seconds", type=float, default=0.6, help="length of a slice (default 0.6)")
    parser.add_argument("--quick", action="store_true", help="so short that it shows only that it works")
    parser.add_argument("--only", action="append", metavar="TEXT", help="only sections with this in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="compare with the figures of an earlier run")
    arguments = parser.parse_args()
    if arguments.only and not any(part in section.name for section in SECTIONS for part in arguments.only):
        parser.error("no section has that in its name; there are:\n" + "\n".join(each.name for each in SECTIONS))
    return arguments


if __name__ == "__main__":
    sys.exit(main())
