"""What a person at a terminal (or in a log) sees: progress, the table of what came out, differences, how to go on."""

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import orjson
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from demo.performance import Performance, Progress
from demo.wire import ASSESSMENT_COMPLETED, NOTIFICATION, RESULTS_READY

_SHOWN_DIFFERENCES = 40
_PLAIN_STEPS = 4

STAND_INS = (
    "PostgreSQL, Valkey (for Redis) and the Kafka broker run embedded, from Python wheels, and are stand-ins: "
    "the broker is librdkafka's mock cluster, in memory. The service itself is the real one, in its own process."
)


class Report:
    """Writes to the console; bars on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(escape(text), soft_wrap=True)

    def fail(self, text: str) -> None:
        """Why the demo cannot go on."""
        self._console.print(escape(text), style="bold red", soft_wrap=True)

    @contextmanager
    def progress(self, *steps: tuple[str, int]) -> Iterator[list[Progress]]:
        """Yields, for each step (what it is, and out of how many), a function to be told how far it has come."""
        if not self._console.is_terminal:
            yield [self._plain(what, total) for what, total in steps]
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Bar(*columns, console=self._console) as bar:
            yield [partial(_advance, bar, bar.add_task(what, total=total, start=False)) for what, total in steps]

    def _plain(self, what: str, total: int) -> Progress:
        shown = 0

        def progress(done: int) -> None:
            nonlocal shown
            step = _PLAIN_STEPS * done // total if total else _PLAIN_STEPS
            if step > shown:
                shown = step
                self.say(f"{what}: {done} of {total}")

        return progress

    def result(self, outcome: Performance) -> None:
        """The table of what came out."""
        registered = [answer for answer in outcome.answers.values() if answer is not None]
        essays = [essay for answer in registered for essay in answer["essays"]]
        table = Table(title="What came out", title_justify="left", show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        by_status = Counter(str(answer["overall_status"]) for answer in registered)
        rows: list[tuple[str, object] | None] = [
            ("Batches", len(registered)),
            *((f"  {status}", count) for status, count in by_status.most_common()),
            ("  known by messages only, not registered", len(outcome.answers) - len(registered)),
            None,
            ("Essays", len(essays)),
            ("  spell checked", _completed(essays, "spellcheck")),
            ("  ranked", _completed(essays, "cj_assessment")),
            ("  analysed (NLP)", _completed(essays, "nlp")),
            ("  with AI feedback", _completed(essays, "ai_feedback")),
            ("  failed in some phase", sum(any(essay[f"{phase}_error"] for phase in _PHASES) for essay in essays)),
            None,
            *_published_rows(outcome),
            None,
            ("Messages in quarantine", sum(outcome.quarantined.values())),
            *((f"  {topic}", count) for topic, count in sorted(outcome.quarantined.items())),
            None,
            ("Messages played", outcome.messages),
            ("  of these twice", outcome.duplicates),
            ("Seconds until all were folded", f"{outcome.folded_after:.1f}"),
            ("Events per second", f"{outcome.messages / outcome.folded_after:.0f}"),
            ("Seconds until all had settled, grace included", f"{outcome.settled_after:.1f}"),
        ]
        for row in rows:
            if row is None:
                table.add_section()
            else:
                table.add_row(row[0], str(row[1]))
        self._console.print(table)

    def verdict(self, outcome: Performance) -> None:
        """What is not as the oracle expects, field by field."""
        differences = outcome.differences
        if outcome.early_grace:
            self.say(
                "Folding took longer than the grace, which may rightly have finished a batch before its results came."
            )
        if not differences:
            self._console.print(
                "[bold green]Everything is as the oracle expects: every batch, every user's list, every published "
                "message and the quarantine.[/]"
            )
            return
        self._console.print(f"[bold red]{len(differences)} differences from what the oracle expects[/]")
        for each in differences[:_SHOWN_DIFFERENCES]:
            self._console.print(escape(f"  {each}"), soft_wrap=True)
        if len(differences) > _SHOWN_DIFFERENCES:
            self.say(f"  ... and {len(differences) - _SHOWN_DIFFERENCES} more")
        kinds = Counter(_kind(each.field) for each in differences)
        self.say("By field: " + ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))

    def how_to_look(self, api_url: str, api_key: str, batch_id: str, user_id: str) -> None:
        """URLs and lines to paste."""
        headers = f"-H {shlex.quote(f'X-Internal-API-Key: {api_key}')} -H 'X-Service-ID: api-gateway-service'"
        self.say(f"\nThe service answers at {api_url}. To paste:")
        self.say(f"  curl -s {headers} {api_url}/internal/v1/batches/{batch_id}/status")
        self.say(f"  curl -s {headers} '{api_url}/internal/v1/batches/user/{user_id}?limit=5'")
        self.say(f"  curl -s {api_url}/readyz")
        self.say(f"  curl -s {api_url}/metrics")


def _advance(bar: Bar, task: TaskID, done: int) -> None:
    bar.start_task(task)
    bar.update(task, completed=done)
    if bar.tasks[task].finished:
        bar.stop_task(task)


_PHASES = ("spellcheck", "cj_assessment", "nlp", "ai_feedback")


def _completed(essays: Sequence[dict[str, object]], phase: str) -> int:
    return sum(essay[f"{phase}_status"] == "completed" for essay in essays)


def _published_rows(outcome: Performance) -> Iterator[tuple[str, object]]:
    by_topic = Counter(message.topic for message in outcome.published)
    kinds = Counter(
        orjson.loads(message.value)["data"]["notification_type"]
        for message in outcome.published
        if message.topic == NOTIFICATION
    )
    yield "Announced: results ready", by_topic[RESULTS_READY]
    yield "Announced: assessment completed", by_topic[ASSESSMENT_COMPLETED]
    yield "Notifications to teachers", by_topic[NOTIFICATION]
    for kind, count in sorted(kinds.items()):
        yield f"  {kind}", count


def _kind(field: str) -> str:
    """The field without the id of the essay or the place in a list."""
    head, bracket, tail = field.partition("[")
    return head + ("[]" + tail.partition("]")[2] if bracket else "")
