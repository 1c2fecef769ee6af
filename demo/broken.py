"""Messages nobody can use: one kind for each way in which a message of the platform can be bad.

Each is about a real batch and later than anything good said of it, so that folding it by mistake would show.
"""

from collections.abc import Callable

import orjson

from demo.batch import MINUTE, SECOND, Batch, Json, stamp
from demo.wire import (
    CJ_COMPLETED,
    OUTCOME,
    PIPELINE_END,
    REGISTERED,
    SLOT,
    SPELLCHECK_OLDER,
    SPELLCHECK_RICH,
)


def _good(batch: Batch, topic: str, data: Json) -> Json:
    return batch.envelope(topic, data, batch.now)


def _rich_spellcheck(batch: Batch) -> Json:
    essay = batch.rng.choice(batch.essays)
    data = {
        "event_name": "spellcheck.results",
        "entity_id": essay,
        "entity_type": "essay",
        "parent_id": batch.batch_id,
        "timestamp": stamp(batch.now),
        "status": "spellchecked_success",
        "system_metadata": batch.system_metadata(essay, "essay", batch.batch_id, "spellcheck.results", batch.now, None),
        "batch_id": batch.batch_id,
        "correlation_id": batch.correlation_id,
        "user_id": batch.user_id,
        "corrections_made": 999,
        "correction_metrics": None,
        "original_text_storage_id": "text-broken",
        "corrected_text_storage_id": "corrected-broken",
        "processing_duration_ms": 1,
        "processor_version": "broken",
    }
    return _good(batch, SPELLCHECK_RICH, data)


def _outcome(batch: Batch, **changes: object) -> Json:
    data: Json = {
        "batch_id": batch.batch_id,
        "phase_name": "spellcheck",
        "phase_status": "failed_critically",
        "processed_essays": [],
        "failed_essay_ids": list(batch.essays),
        "correlation_id": batch.correlation_id,
    }
    return _good(batch, OUTCOME, data | changes)


def _slot(batch: Batch, essay: str) -> Json:
    data = {
        "event": "essay.slot.assigned",
        "batch_id": batch.batch_id,
        "essay_id": essay,
        "file_upload_id": "upload-broken",
        "text_storage_id": "text-broken",
        "original_file_name": "trasig.docx",
        "correlation_id": batch.correlation_id,
        "timestamp": stamp(batch.now),
    }
    return _good(batch, SLOT, data)


def _ranking(batch: Batch, rank: str, score: str) -> bytes:
    data = batch.cj_completed("cj-job-broken") | {
        "rankings": [{"els_essay_id": batch.essays[0], "rank": "RANK", "score": "SCORE"}]
    }
    text = orjson.dumps(_good(batch, CJ_COMPLETED, data))
    return text.replace(b'"RANK"', rank.encode()).replace(b'"SCORE"', score.encode())


def _changed(envelope: Json, **changes: object) -> bytes:
    return orjson.dumps(envelope | changes)


def _changed_data(envelope: Json, **changes: object) -> bytes:
    return orjson.dumps(envelope | {"data": envelope["data"] | changes})


def _without(envelope: Json, name: str) -> bytes:
    return orjson.dumps(envelope | {"data": {key: value for key, value in envelope["data"].items() if key != name}})


Spoiler = Callable[[Batch], tuple[str, bytes | None]]

BROKEN: dict[str, Spoiler] = {
    "not JSON": lambda batch: (SPELLCHECK_RICH, b"<html>502 Bad Gateway</html>"),
    "not UTF-8": lambda batch: (SLOT, orjson.dumps(_slot(batch, batch.essays[0])).replace(b"trasig", b"tr\xe5sig")),
    "wrong schema": lambda batch: (SPELLCHECK_RICH, _without(_rich_spellcheck(batch), "batch_id")),
    "unknown status": lambda batch: (OUTCOME, orjson.dumps(_outcome(batch, phase_status="half_done"))),
    "null value": lambda batch: (OUTCOME, None),
    "NUL in an id": lambda batch: (SLOT, orjson.dumps(_slot(batch, f"{batch.essays[0]}\x00"))),
    "id too long": lambda batch: (SLOT, orjson.dumps(_slot(batch, "e" * 256))),
    "NaN score": lambda batch: (CJ_COMPLETED, _ranking(batch, "1", "NaN")),
    "naive time": lambda batch: (
        SPELLCHECK_RICH,
        _changed(_rich_spellcheck(batch), event_timestamp=stamp(batch.now)[:-1]),
    ),
    "number as text": lambda batch: (SPELLCHECK_RICH, _changed_data(_rich_spellcheck(batch), corrections_made="999")),
    "event_type of another topic": lambda batch: (
        SPELLCHECK_RICH,
        _changed(_rich_spellcheck(batch), event_type=SPELLCHECK_OLDER),
    ),
    "status that ends nothing": lambda batch: (
        OUTCOME,
        orjson.dumps(_outcome(batch, phase_status="processing_pipelines")),
    ),
    "unknown phase": lambda batch: (OUTCOME, orjson.dumps(_outcome(batch, phase_name="plagiarism"))),
    "cut off": lambda batch: (OUTCOME, orjson.dumps(_outcome(batch))[:-40]),
    "empty": lambda batch: (PIPELINE_END, b""),
    "a list": lambda batch: (REGISTERED, b"[]"),
    "infinite score": lambda batch: (CJ_COMPLETED, _ranking(batch, "1", "1e999")),
    "rank beyond its column": lambda batch: (CJ_COMPLETED, _ranking(batch, str(10**22), "0.5")),
    "lone surrogate": lambda batch: (
        SLOT,
        orjson.dumps(_slot(batch, "essay-SURROGATE")).replace(b"SURROGATE", b"\\ud800"),
    ),
    "empty id": lambda batch: (SLOT, orjson.dumps(_slot(batch, ""))),
    "negative count": lambda batch: (SPELLCHECK_RICH, _changed_data(_rich_spellcheck(batch), corrections_made=-1)),
    "true for a number": lambda batch: (SPELLCHECK_RICH, _changed_data(_rich_spellcheck(batch), corrections_made=True)),
    "time as a number": lambda batch: (
        SPELLCHECK_RICH,
        _changed(_rich_spellcheck(batch), event_timestamp=1_767_258_000),
    ),
    "next schema version": lambda batch: (SPELLCHECK_RICH, _changed(_rich_spellcheck(batch), schema_version=2)),
    "event id that is none": lambda batch: (SPELLCHECK_RICH, _changed(_rich_spellcheck(batch), event_id="17")),
    "phase no pipeline has": lambda batch: (
        PIPELINE_END,
        orjson.dumps(
            _good(
                batch,
                PIPELINE_END,
                {
                    "event": "batch.pipeline.completed",
                    "batch_id": batch.batch_id,
                    "completed_phases": ["spellcheck", "grading"],
                    "final_status": "failed_critically",
                    "processing_duration_seconds": 1.0,
                    "successful_essay_count": 0,
                    "failed_essay_count": 1,
                    "correlation_id": batch.correlation_id,
                },
            )
        ),
    ),
}


def say_broken(batch: Batch, kind: str) -> None:
    """Puts a message of that kind somewhere into the batch's traffic."""
    batch.now += SECOND
    topic, value = BROKEN[kind](batch)
    at = batch.rng.randrange(batch.start, batch.now + MINUTE)
    batch.produce(topic, value, batch.batch_id, at, batch.now)
