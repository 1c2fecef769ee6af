"""What an operator's commands share: the words that choose rows, tables, and telling what becomes of each row.

What goes to a pipe is whole and plain; what goes to a terminal fits its width. Nothing that a message or an error holds
reaches a terminal as a control character.
"""

import re
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TextIO, TypeVar

import click
import orjson

from result_aggregator_service.commands.command import STATUS_DONE, STATUS_NOT_DONE, CannotRunError

BATCH_ROWS = 500  # rows changed in one transaction

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BETWEEN_UPDATES = 0.2  # of one line, on a terminal
_NARROWEST_COLUMN = 8
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

Command = TypeVar("Command", bound=Callable[..., Any])
NextIds = Callable[[int], Awaitable[list[int]]]
"""The ids that come next after the one that is given."""


class Time(click.ParamType[datetime]):
    """A time: ISO 8601 with an offset, or how long ago, like 90s, 30m, 2h, 3d, 1w."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The time that the text means."""
        if isinstance(value, datetime):
            return value
        try:
            if ago := re.fullmatch(r"(\d{1,9})([smhdw])", value):
                return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
            at = datetime.fromisoformat(value)
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is neither a time such as 2026-01-31T08:00:00Z nor a while ago such as 2h", param, ctx
            )
        if at.utcoffset() is None:
            self.fail(f"{value!r} has no offset; for UTC write {value}Z, with the time of day", param, ctx)
        return at


def options(*given: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order in which the help is to show them."""

    def decorate(command: Command) -> Command:
        for option in reversed(given):
            command = option(command)
        return command

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="For scripts: JSON instead of text.")
limit_option = click.option(
    "--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="At most so many."
)
ids_argument = click.argument("ids", type=click.IntRange(1, 2**63 - 1), nargs=-1)
id_argument = click.argument("chosen_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))


def all_option(meaning: str) -> Callable[[Command], Command]:
    """`--all`, and what that means to this command."""
    return click.option("--all", "everything", is_flag=True, help=meaning)


def require_choice(ids: Sequence[int], filters: Mapping[str, object], everything: bool) -> None:
    """Refuse unless exactly one of ids, filters and --all says what is meant."""
    if bool(ids) + any(filters.values()) + everything != 1:
        raise CannotRunError("say which: either ids, or filters, or --all")


def in_batches(ids: Sequence[int]) -> NextIds:
    """Ids that were named, each once, in order."""
    in_order = sorted(set(ids))

    async def following(after: int) -> list[int]:
        return [named for named in in_order if named > after][:BATCH_ROWS]

    return following


async def batches(following: NextIds) -> AsyncIterator[list[int]]:
    """Ids, a batch at a time, until there are no more."""
    after = 0
    while ids := await following(after):
        yield ids
        after = ids[-1]


def printable(text: str) -> str:
    """Text without line breaks and other control characters, which are written as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def age(at: datetime, now: datetime) -> str:
    """How long ago, in the largest unit that fits: 45s, 12m, 3h, 2d."""
    seconds = max(0, int((now - at).total_seconds()))
    for unit in ("d", "h", "m"):
        if seconds >= _UNITS[unit]:
            return f"{seconds // _UNITS[unit]}{unit}"
    return f"{seconds}s"


def terminal_width() -> int | None:
    """The columns of the terminal that is written to; None if it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Lines of columns. Numbers stand to the right. Within `width` the widest columns are cut: all but the last in
    their middles, since names that begin alike end otherwise."""
    cells = [list(heads), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    while width is not None and sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > _NARROWEST_COLUMN:
        widths[widths.index(max(widths))] -= 1
    is_number = [all(row[i].isdigit() for row in cells[1:]) for i in range(len(heads))]
    last = len(heads) - 1
    lines = []
    for row in cells:
        cut = [_cut(cell, widths[i], at_end=i == last) for i, cell in enumerate(row)]
        aligned = [cell.rjust(widths[i]) if is_number[i] else cell.ljust(widths[i]) for i, cell in enumerate(cut)]
        lines.append("  ".join(aligned).rstrip())
    return lines


def _cut(text: str, width: int, *, at_end: bool) -> str:
    if len(text) <= width:
        return text
    tail = 0 if at_end else (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def tell_json(document: Mapping[str, Any]) -> None:
    """One JSON document on a line of its own."""
    click.echo(orjson.dumps(document))


def tell_fields(fields: Mapping[str, object]) -> None:
    """Names and values, one a line; what is None is left out."""
    for name, value in fields.items():
        if value is not None:
            click.echo(f"{name + ':':16} {printable(str(value))}")


class Report:
    """Tells what becomes of rows while they are worked on, and keeps the exit status.

    As text: each row that was named and each that failed; how far it is, on stderr; at the end a summary. As JSON: one
    object a row, `{"id", "result", "done", "error"}`, and nothing else on stdout.
    """

    def __init__(
        self,
        past: str,
        total: int,
        *,
        each: bool,
        as_json: bool,
        progress: TextIO | None = None,
        seconds_between: float | None = None,
    ) -> None:
        self._past = past
        self._total = total
        self._each = each
        self._as_json = as_json
        self._progress = progress or sys.stderr
        self._on_terminal = self._progress.isatty()
        by_itself = _SECONDS_BETWEEN_UPDATES if self._on_terminal else _SECONDS_BETWEEN_LINES
        self._seconds = by_itself if seconds_between is None else seconds_between
        self._started = self._shown_at = time.monotonic()
        self._seen = self._done = 0
        self._line_is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._clear()
        if not self._as_json:
            click.echo(f"{self._done:,} of {self._total:,} {self._past}", err=error is not None)

    @property
    def status(self) -> int:
        """0 if all that was asked for has been done, else 1."""
        return STATUS_DONE if self._done == self._seen else STATUS_NOT_DONE

    def tell(self, row_id: int, result: str, *, done: bool = True, error: str | None = None) -> None:
        """What became of a row, in a word that stays the same; whether it is as was asked for; if not, why."""
        self._seen += 1
        self._done += done
        if self._as_json:
            tell_json({"id": row_id, "result": result, "done": done, "error": error})
        elif self._each or not done:
            self._clear()
            text = result.replace("_", " ") + (f": {printable(error)}" if error else "")
            click.echo(f"{row_id}: {text}", err=not done)
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown_at < self._seconds:
            return
        self._shown_at = now
        rate = self._seen / max(now - self._started, 1e-3)
        line = f"{self._seen:,} of {self._total:,}, {rate:,.0f}/s"
        self._clear()
        click.echo(line, file=self._progress, nl=not self._on_terminal)
        self._line_is_open = self._on_terminal

    def _clear(self) -> None:
        if self._line_is_open:
            click.echo("\r\x1b[K", file=self._progress, nl=False)
            self._line_is_open = False
