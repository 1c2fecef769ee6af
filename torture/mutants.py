"""Mutants of the platform's messages: real samples, changed at one place (now and then two), or as a whole.

Invariant: the same seed gives the same mutants. Each has an event id of its own (unless that is what is changed) and
names batches, essays and users of its own, so that a mutant which is accepted disturbs nobody else's batch.
"""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, uuid5

from demo.wire import MAX_MESSAGE_BYTES, PAYLOADS, Message

SAMPLES = Path(__file__).parents[1] / "tests" / "samples" / "consumed"
ESSAY_TEXT = "Det var en gång en uppsats"
"""Stands in every text that a mutation puts in: no error may quote it."""

Step = str | int
Place = tuple[Step, ...]
Headers = tuple[tuple[str, bytes | None], ...]

_DOUBLE = 0.05
_HUGE_ONE_IN = 12  # at so many of the places a text of a megabyte, or a list of thousands
_MEGABYTE = 1_000_000  # with its envelope still within a broker's default limit
_NAMESPACE_LENGTH = 17
# Stand for what is known only once a mutant has its number; no sample holds them.
_OWN, _EVENT_ID, _EVENT_HEX, _EVENT_UPPER = "\ue000", "\ue001", "\ue002", "\ue003"
_OWN_NAMES = {
    "batch_id", "entity_id", "parent_id", "user_id", "essay_id", "els_essay_id", "essay_ids", "failed_essay_ids",
    "successful_essay_ids", "cj_assessment_job_id",
}  # fmt: skip


class Mutant(NamedTuple):
    """A message as it lies in Kafka, and what was done to which sample: pairs of place and kind."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    seed: int
    number: int
    sample: str
    changes: tuple[tuple[str, str], ...]

    @property
    def message(self) -> Message:
        """As the feed plays it and the oracle reads it."""
        return Message(self.topic, self.key, self.value, self.headers)

    @property
    def name(self) -> str:
        """What it is, for the report of a failure."""
        changes = " and ".join(f"{place}: {kind}" for place, kind in self.changes)
        return f"mutant {self.number} of seed {self.seed}: {self.sample}, {changes}"


class _Parts(NamedTuple):
    """A message before it is a mutant: what a change of the whole works on."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


Edit = Callable[[str | None, str], list[str]]
"""From the name of a member (None in a list, and for the whole) and its JSON to the members that take its place."""

Spoil = Callable[[_Parts, Random], _Parts]
"""From a good message to one that is changed as a whole."""


# -- changes at a place --------------------------------------------------------------------------------------------


def _member(name: str | None, value: str) -> str:
    return value if name is None else f'"{name}": {value}'


def _replaced(raw: str) -> Edit:
    return lambda name, _: [_member(name, raw)]


def _twice(first: str | None, last: str | None) -> Edit:
    """The member twice, None standing for what was there."""
    return lambda name, text: [_member(name, text if raw is None else raw) for raw in (first, last)]


def _renamed(rename: Callable[[str], str]) -> Edit:
    return lambda name, text: [_member(None if name is None else rename(name), text)]


def _with_more(name: str, raw: str) -> Edit:
    """A further member: of an object by that name, of a list at its end; around anything else, a list."""

    def edit(own_name: str | None, text: str) -> list[str]:
        if text.startswith("{"):
            more = text[:-1] + (", " if len(text) > 2 else "") + f"{name}: {raw}}}"
        elif text.startswith("["):
            more = text[:-1] + (", " if len(text) > 2 else "") + f"{raw}]"
        else:
            more = f"[{text}, {raw}]"
        return [_member(own_name, more)]

    return edit


def _lists(depth: int) -> str:
    return "[" * depth + "1" + "]" * depth


def _objects(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def _text(content: str) -> str:
    return json.dumps(content, ensure_ascii=False)


_TIMES = (
    "0001-01-01T00:00:00Z", "0001-01-01T23:59:59+23:59", "0001-01-02T00:00:00Z", "0000-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-23:59", "9999-12-29T23:59:59Z", "10000-01-01T00:00:00Z",
    "1969-12-31T23:59:59Z", "2026-03-02T24:00:00Z", "2026-03-02T23:59:60Z", "2016-12-31T23:59:60Z",
    "2026-02-29T08:00:00Z", "2026-03-02T08:00:00", "2026-03-02", "2026-03-02T08:00Z", "2026-03-02T08:00:00+24:00",
    "2026-03-02T08:00:00-00:00", "2026-03-02T08:00:00+0100", "2026-03-02T08:00:00+01", "2026-03-02 08:00:00z",
    "2026-03-02T08:00:00,5Z", "2026-03-02T08:00:00.1234567891Z", "2026-03-02T08:00:00.Z", "20260302T080000Z",
    "2026-W10-1T08:00:00Z", " 2026-03-02T08:00:00Z", "2026-03-02T08:00:00Z\n", "٢٠٢٦-03-02T08:00:00Z", "1772438400",
    "-2026-03-02T08:00:00Z", "yesterday",
)  # fmt: skip
_WORDS = (
    "completed_successfully", "COMPLETED_SUCCESSFULLY", "completed_successfully ", "completed_with_failures",
    "failed_critically", "cancelled", "processing_pipelines", "half_done", "spellcheck", "Spellcheck", "nlp",
    "student_matching", "proofreading", "SUCCESS", "spellcheck_failed",
)  # fmt: skip
_NUMBERS = (
    "0", "-0", "1.0", "-0.0", "1e3", "1.5", "-1", "-1.5", "5e-324", "1.7976931348623157e308", "1e999", "-1e999", "NaN",
    "Infinity", "-Infinity", "-NaN", "01", "+1", ".5", "1.", "0x10", str(2**31 - 1), str(2**31), str(-(2**31)),
    str(-(2**31) - 1), str(2**63 - 1), str(2**63), str(-(2**63)), str(-(2**63) - 1), str(10**22),
)  # fmt: skip
_RAW_TEXTS = {
    "NUL": rf'"{_OWN}{ESSAY_TEXT}\u0000"',
    "NUL alone": r'"\u0000"',
    "high surrogate": rf'"{_OWN}{ESSAY_TEXT}\ud800"',
    "low surrogate": rf'"\udfff{_OWN}{ESSAY_TEXT}"',
    "surrogates reversed": r'"\udc00\ud800"',
    "surrogate pair": rf'"{_OWN}\ud83d\ude00"',
    "control characters": rf'"{_OWN}\u0001\u001f\u007f\u0085\u2028\ufeff\ufffe"',
    "raw control character": f'"{_OWN}\x01"',
    "raw line break": f'"{_OWN}\n"',
    "wrong escape": rf'"{_OWN}\x41"',
    "half an escape": rf'"{_OWN}\u00"',
}
_TEXTS = {
    "text": _OWN + ESSAY_TEXT,
    "empty text": "",
    "text of a number": "7",
    "text of a flag": "true",
    "blank": " ",
    "line break": "\r\n",
    "blanks around": f" {_OWN}{ESSAY_TEXT} ",
    "several lines": f"{_OWN}\n{ESSAY_TEXT}\n",
    "255 characters": _OWN + "x" * (255 - _NAMESPACE_LENGTH),
    "256 characters": _OWN + "x" * (256 - _NAMESPACE_LENGTH),
    "255 wide characters": _OWN + "\U0001f600" * (255 - _NAMESPACE_LENGTH),
    "256 wide characters": _OWN + "\U0001f600" * (256 - _NAMESPACE_LENGTH),
    "quotes": f"{_OWN}'\"\\ %s {{0}} ${{a}}'; DROP TABLE batch_results; --",
    "UUID": _EVENT_ID,
    "UUID without hyphens": _EVENT_HEX,
    "UUID in upper case": _EVENT_UPPER,
    "UUID in braces": f"{{{_EVENT_ID}}}",
    "UUID as URN": f"urn:uuid:{_EVENT_ID}",
    "UUID hyphened oddly": f"-{_EVENT_HEX}",
    "UUID with a blank": f"{_EVENT_ID} ",
    "16 characters": "0123456789abcdef",
}
_OTHERS = {
    "null": "null",
    "true": "true",
    "false": "false",
    "empty list": "[]",
    "empty object": "{}",
    "list of null": "[null]",
    "list of a list": "[[]]",
    "list of objects": "[{}]",
    "list of numbers": "[1, 2]",
    "list of a text": f'["{_OWN}{ESSAY_TEXT}"]',
    "list of one text twice": f'["{_OWN}{ESSAY_TEXT}", "{_OWN}{ESSAY_TEXT}"]',
    "object of something": f'{{"{ESSAY_TEXT}": "{_OWN}{ESSAY_TEXT}"}}',
    "object of null": '{"storage_id": null, "essay_id": null}',
    "object with NUL in a name": rf'{{"{ESSAY_TEXT}\u0000": 1}}',
    "object with a surrogate in a name": rf'{{"{ESSAY_TEXT}\ud800": 1}}',
    "object with an empty name": '{"": 1}',
    "object with NaN": f'{{"{ESSAY_TEXT}": NaN}}',
    "object with one name twice": '{"a": 1, "a": NaN}',
    "number of 401 digits": str(10**400),
    "number of 5,000 digits": "9" * 5000,
    "fraction of many digits": "0." + "123456789" * 50,
    "cut off": "",
    "word": "undefined",
    "10 lists": _lists(10),
    "100 lists": _lists(100),
    "1,000 lists": _lists(1000),
    "10 objects": _objects(10),
    "100 objects": _objects(100),
    "1,000 objects": _objects(1000),
    "250 lists": _lists(250),
}
#: Name and value, as JSON, of further members.
_MORE = {
    "unknown field": ('"a field of tomorrow"', f'"{ESSAY_TEXT}"'),
    "unknown null": ('"a field of tomorrow"', "null"),
    "unknown NaN": ('"a field of tomorrow"', "NaN"),
    "unknown NUL": ('"a field of tomorrow"', rf'"{ESSAY_TEXT}\u0000"'),
    "unknown surrogate": ('"a field of tomorrow"', r'"\ud800"'),
    "unknown depth": ('"a field of tomorrow"', _lists(100)),
    "unknown abyss": ('"a field of tomorrow"', _objects(1000)),
    "unknown huge number": ('"a field of tomorrow"', str(10**400)),
    "unknown name with NUL": (rf'"{ESSAY_TEXT}\u0000"', "1"),
    "unknown name with a surrogate": (rf'"{ESSAY_TEXT}\udc00"', "1"),
    "unknown name of several lines": (rf'"{ESSAY_TEXT}\n\r\u2028"', "NaN"),
    "unknown name without a character": ('""', "1"),
    "unknown name of 300 characters": (f'"{ESSAY_TEXT * 12}"', "NaN"),
}

EDITS: dict[str, Edit] = {
    "missing": lambda _, __: [],
    "in upper case": _renamed(str.upper),
    "under another name": _renamed(lambda name: f"{name}_v2"),
    "twice": _twice(None, None),
    "twice, null first": _twice("null", None),
    "twice, null last": _twice(None, "null"),
    "twice, a number first": _twice("7", None),
    "twice, a number last": _twice(None, "7"),
    "twice, a text last": _twice(None, f'"{_OWN}{ESSAY_TEXT}"'),
    **{f"number {number}": _replaced(number) for number in _NUMBERS},
    **{f"time {time!r}": _replaced(_text(time)) for time in _TIMES},
    **{f"word {word!r}": _replaced(_text(word)) for word in _WORDS},
    **{kind: _replaced(_text(content)) for kind, content in _TEXTS.items()},
    **{kind: _replaced(raw) for kind, raw in {**_RAW_TEXTS, **_OTHERS}.items()},
    **{kind: _with_more(name, raw) for kind, (name, raw) in _MORE.items()},
}
"""What is done at every place."""

_HUGE_EDITS: dict[str, Edit] = {
    "text of a megabyte": _replaced(_text(_OWN + ESSAY_TEXT * (_MEGABYTE // len(ESSAY_TEXT.encode())))),
    "list of 2,000 texts": _replaced(json.dumps([f"{_OWN}-{number}" for number in range(2000)], ensure_ascii=False)),
    "list of 20,000 numbers": _replaced(json.dumps([0] * 20_000)),
    "list of 2,000 objects": _replaced(json.dumps([{"essay_id": f"{_OWN}-{n}"} for n in range(2000)])),
    "object of 2,000 names": _replaced(json.dumps({f"{_OWN}-{number}": number for number in range(2000)})),
    "object of 2,000 names with NaN": _replaced(json.dumps({f"{ESSAY_TEXT} {n}": float("nan") for n in range(2000)})),
}


# -- changes of the whole ------------------------------------------------------------------------------------------


def _bytes(change: Callable[[bytes, Random], bytes | None]) -> Spoil:
    return lambda parts, rng: parts._replace(value=change(parts.value or b"", rng))


def _headers(*headers: tuple[str, bytes | None]) -> Spoil:
    return lambda parts, _: parts._replace(headers=headers)


def _key(key: bytes | None) -> Spoil:
    return lambda parts, _: parts._replace(key=key)


def _flipped(value: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(value))
    return value[:at] + bytes([value[at] ^ 1 << rng.randrange(8)]) + value[at + 1 :]


def _without_a_byte(value: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(value))
    return value[:at] + value[at + 1 :]


def _spliced(value: bytes, rng: Random) -> bytes:
    at, start = rng.randrange(len(value)), rng.randrange(len(value))
    return value[:at] + value[start : start + 40] + value[at:]


def _of_topic(topic: str) -> Spoil:
    return lambda parts, _: parts._replace(topic=topic)


def _of_event_type(topic: str) -> Spoil:
    return _bytes(lambda value, _: json.dumps({**json.loads(value), "event_type": topic}).encode())


_TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
_LATIN1_TEXT = ESSAY_TEXT.encode("latin-1")

WHOLES: dict[str, Spoil] = {
    "null value": _bytes(lambda _, __: None),
    "empty value": _bytes(lambda _, __: b""),
    "blank value": _bytes(lambda _, __: b" \n"),
    **{f"cut off {number}": _bytes(lambda value, rng: value[: rng.randrange(1, len(value))]) for number in range(10)},
    **{f"bit flipped {number}": _bytes(_flipped) for number in range(30)},
    **{f"byte lost {number}": _bytes(_without_a_byte) for number in range(15)},
    **{f"bytes spliced in {number}": _bytes(_spliced) for number in range(15)},
    "byte order mark": _bytes(lambda value, _: b"\xef\xbb\xbf" + value),
    "UTF-16": _bytes(lambda value, _: value.decode().encode("utf-16")),
    "Latin-1": _bytes(lambda value, _: value.replace(b'"data":', b'"note": "' + _LATIN1_TEXT + b'", "data":', 1)),
    "overlong UTF-8": _bytes(lambda value, _: value.replace(b"v1", b"v1\xc0\x80", 1)),
    "surrogate in UTF-8": _bytes(lambda value, _: value.replace(b"v1", b"v1\xed\xa0\x80", 1)),
    "trailing garbage": _bytes(lambda value, _: value + b"garbage"),
    "trailing NUL": _bytes(lambda value, _: value + b"\x00"),
    "leading NUL": _bytes(lambda value, _: b"\x00" + value),
    "white space around": _bytes(lambda value, _: b"\r\n\t " + value + b"\r\n\t "),
    "form feed before": _bytes(lambda value, _: b"\x0c" + value),
    "twice": _bytes(lambda value, _: value + value),
    "in a list": _bytes(lambda value, _: b"[" + value + b"]"),
    "as a text": _bytes(lambda value, _: json.dumps(value.decode()).encode()),
    "trailing comma": _bytes(lambda value, _: value[:-1] + b",}"),
    "single quotes": _bytes(lambda value, _: value.replace(b'"', b"'")),
    "a comment": _bytes(lambda value, _: value.replace(b"{", b"{/* a comment */", 1)),
    "gzip": _bytes(lambda value, _: gzip.compress(value, mtime=0)),
    "schema registry's prefix": _bytes(lambda value, _: b"\x00\x00\x00\x00\x01" + value),
    "HTML": _bytes(lambda _, __: b"<html>502 Bad Gateway</html>"),
    "random bytes": _bytes(lambda _, rng: rng.randbytes(300)),
    **{f"on topic {topic}": _of_topic(topic) for topic in sorted(PAYLOADS)},
    **{f"of event_type {topic}": _of_event_type(topic) for topic in sorted(PAYLOADS)},
    "no key": _key(None),
    "empty key": _key(b""),
    "key not UTF-8": _key(b"\xff\x00\xfe"),
    "long key": _key(b"k" * 10_000),
    "no headers": _headers(),
    "header without a value": _headers(("traceparent", None), ("event_id", None)),
    "header not UTF-8": _headers(("traceparent", b"\xff\xfe"), ("source_service", b"\x00\xff")),
    "header names that are odd": _headers(("", b""), ("\x00", b"\x00"), ("n" * 1000, b"x"), ("å\n", b"x")),
    "header twice": _headers(("traceparent", b"bad"), ("traceparent", _TRACE), ("traceparent", b"worse")),
    "header that lies": _headers(("event_type", b"another.v1"), ("event_id", b"another"), ("content_type", b"x/y")),
    "trace in upper case": _headers(("traceparent", _TRACE.upper())),
    "trace of another version": _headers(("traceparent", b"ff" + _TRACE[2:])),
    "a hundred headers": _headers(*((f"header-{number}", b"x" * 100) for number in range(100))),
}
"""What is done to every sample."""

_HUGE_WHOLES: dict[str, Spoil] = {
    "as large as allowed": _bytes(lambda value, _: value.ljust(MAX_MESSAGE_BYTES)),
    "a byte too large": _bytes(lambda value, _: value.ljust(MAX_MESSAGE_BYTES + 1)),
}
_ALL_EDITS, _ALL_WHOLES = {**EDITS, **_HUGE_EDITS}, {**WHOLES, **_HUGE_WHOLES}
_KINDS = sorted(EDITS)
_WHOLE = "the whole"


# -- from samples to mutants ---------------------------------------------------------------------------------------


class _Sample(NamedTuple):
    """A real message, its own ids marked as such."""

    name: str
    topic: str
    batch_id: str
    envelope: dict[str, Any]
    texts: dict[Place, str]  # as JSON, by place


class _Plan(NamedTuple):
    """One mutation: of a sample, at a place (None: of the whole), of a kind."""

    sample: _Sample
    place: Place | None
    kind: str


class Mutants:
    """All mutants of the samples in a folder."""

    def __init__(self, samples: Path = SAMPLES) -> None:
        self._samples = [_sample(path) for path in sorted(samples.glob("*.json"))]
        self._plans = [plan for sample in self._samples for plan in _plans(sample)]

    def __len__(self) -> int:
        return len(self._plans)

    def every(self, seed: int) -> Iterator[Mutant]:
        """Every place of every sample with every kind of change, once, in the seed's order."""
        for number, plan in enumerate(_shuffled(self._plans, seed)):
            yield _mutant(seed, number, plan.sample, [plan])

    def some(self, seed: int, count: int) -> Iterator[Mutant]:
        """So many: `every` in the seed's order (over again if they do not suffice), some with a second change."""
        return islice(self._endless(seed), count)

    def _endless(self, seed: int) -> Iterator[Mutant]:
        rng, numbers = Random(seed), count()
        while True:
            for plan in _shuffled(self._plans, rng.random()):
                plans = [plan]
                if plan.place and rng.random() < _DOUBLE:
                    place = rng.choice(list(plan.sample.texts)[1:])
                    plans.append(_Plan(plan.sample, place, rng.choice(_KINDS)))
                yield _mutant(seed, next(numbers), plan.sample, plans)

    def neighbours(self, seed: int, number: int) -> list[Message]:
        """All the samples, unchanged, with the ids of that mutant's batch, essays and users."""
        own = _own(seed, number)
        found = []
        for sample in self._samples:
            event_id = str(uuid5(NAMESPACE_URL, f"{own} {sample.name}"))
            text = _written(sample, {}).replace(_OWN, own).replace(_EVENT_ID, event_id)
            found.append(Message(sample.topic, sample.batch_id.replace(_OWN, own).encode(), text.encode(), []))
        return found


def mutants(seed: int, count: int) -> Iterator[Mutant]:
    """So many mutants of the real samples, the same for the same seed."""
    return Mutants().some(seed, count)


def _shuffled(plans: Sequence[_Plan], seed: float) -> list[_Plan]:
    shuffled = list(plans)
    Random(seed).shuffle(shuffled)
    return shuffled


def _sample(path: Path) -> _Sample:
    envelope = json.loads(path.read_bytes())
    marked = _with_own_ids({**envelope, "event_id": _EVENT_ID})
    data = marked["data"]
    batch_id = str(data.get("batch_id") or data.get("parent_id") or data["entity_id"])
    texts = {place: json.dumps(member, ensure_ascii=False) for place, member in _places(marked).items()}
    return _Sample(path.stem, envelope["event_type"], batch_id, marked, texts)


def _with_own_ids(value: Any, name: Step = "") -> Any:
    if isinstance(value, dict):
        return {key: _with_own_ids(member, key) for key, member in value.items()}
    if isinstance(value, list):
        return [_with_own_ids(member, name) for member in value]
    return _OWN + value if name in _OWN_NAMES and isinstance(value, str) else value


def _places(value: Any, place: Place = ()) -> dict[Place, Any]:
    """The place itself and all places inside, with what is there."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = {place: value}
    for step, member in members:
        found |= _places(member, (*place, step))
    return found


def _plans(sample: _Sample) -> Iterator[_Plan]:
    for number, place in enumerate(sample.texts):
        for kind in EDITS:
            yield _Plan(sample, place, kind)
        for offset, kind in enumerate(_HUGE_EDITS):
            if (number + offset) % _HUGE_ONE_IN == 0 or place == ("data", "essay_ids"):
                yield _Plan(sample, place, kind)
    for kind in WHOLES:
        yield _Plan(sample, None, kind)
    if sample.name in ("essay_slot_assigned", "essay_nlp_completed"):
        for kind in _HUGE_WHOLES:
            yield _Plan(sample, None, kind)


def _own(seed: int, number: int) -> str:
    return f"m{seed % 1_000_000:06d}-{number:08d}-"


def _mutant(seed: int, number: int, sample: _Sample, plans: Sequence[_Plan]) -> Mutant:
    own = _own(seed, number)
    event_id = str(uuid5(NAMESPACE_URL, own))
    edits = {plan.place: _ALL_EDITS[plan.kind] for plan in plans if plan.place is not None}
    text = _written(sample, edits).replace(_OWN, own).replace(_EVENT_ID, event_id)
    text = text.replace(_EVENT_HEX, event_id.replace("-", "")).replace(_EVENT_UPPER, event_id.upper())
    headers = (
        ("event_id", event_id.encode()),
        ("event_type", sample.topic.encode()),
        ("source_service", str(sample.envelope["source_service"]).encode()),
        ("schema_version", b"1"),
        ("occurred_at", str(sample.envelope["event_timestamp"]).encode()),
        ("content_type", b"application/json"),
    )
    parts = _Parts(sample.topic, sample.batch_id.replace(_OWN, own).encode(), text.encode(), headers)
    for plan in plans:
        if plan.place is None:
            parts = _ALL_WHOLES[plan.kind](parts, Random(own + plan.kind))
    changes = tuple((_WHOLE if not plan.place else ".".join(map(str, plan.place)), plan.kind) for plan in plans)
    return Mutant(*parts, seed, number, sample.name, changes)


def _written(sample: _Sample, edits: Mapping[Place, Edit]) -> str:
    """The sample as JSON, changed where an edit says so."""
    around = {place[:length] for place in edits for length in range(len(place))}

    def written(value: Any, place: Place) -> str:
        if place not in around:
            return sample.texts[place]
        if isinstance(value, dict):
            members = [text for name, member in value.items() for text in edited(name, member, (*place, name))]
            return "{" + ", ".join(members) + "}"
        elements = [text for index, member in enumerate(value) for text in edited(None, member, (*place, index))]
        return "[" + ", ".join(elements) + "]"

    def edited(name: str | None, value: Any, place: Place) -> list[str]:
        edit, text = edits.get(place), written(value, place)
        return [_member(name, text)] if edit is None else edit(name, text)

    return "".join(edited(None, sample.envelope, ()))
