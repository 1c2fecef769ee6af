"""One batch's life, told message by message, each in exactly the shape its producer gives it.

Everything drawn comes from the batch's own generator, so the same number, seed and run label tell the same life.
"""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from demo.wire import (
    AI_FEEDBACK,
    CJ_COMPLETED,
    CJ_FAILED,
    CJ_RICH,
    NLP,
    OUTCOME,
    PIPELINE_END,
    REGISTERED,
    SLOT,
    SPELLCHECK_OLDER,
    SPELLCHECK_RICH,
    Message,
)

Json = dict[str, Any]

_EPOCH = datetime(2026, 1, 12, 7, 30, tzinfo=UTC)
SECOND = 1_000_000
MINUTE = 60 * SECOND
_BATCHES_START_EVERY = 45 * SECOND
_DUPLICATED = 0.03
_WITHOUT_HEADERS = 0.06

_GIVEN_NAMES = (
    "Åsa",
    "Björn",
    "Cecilia",
    "Dag",
    "Elin",
    "Försti",
    "Göran",
    "Håkan",
    "Ingrid",
    "Jörgen",
    "Maja",
    "Sören",
)
_SURNAMES = ("Öberg", "Åkesson", "Sjöström", "Lindqvist", "Nyström", "Ek", "Hägglund", "Wallin", "Ängström", "Berg")
_COURSES = ("ENG5", "ENG6", "ENG7", "SV1", "SV2", "SV3")
_GRADES = ("A", "A-", "B+", "B", "B-", "C+", "C", "C-", "D+", "D", "E", "F")
_SPELLCHECK_ERRORS = (
    ("SPELLCHECK_SERVICE_ERROR", "Content Service returned 404 for {text}", "ContentServiceError"),
    ("SPELLCHECK_TIMEOUT", "No answer within 30 s for {text}", "TimeoutError"),
    ("SPELLCHECK_PARSING_ERROR", "Texten är tom: {text}", "ParsingError"),
)

_TOPIC_SOURCE = {
    REGISTERED: "batch_orchestrator_service",
    SLOT: "essay_lifecycle_service",
    OUTCOME: "essay_lifecycle_service",
    SPELLCHECK_OLDER: "spellchecker_service",
    SPELLCHECK_RICH: "spellchecker_service",
    CJ_COMPLETED: "cj_assessment_service",
    CJ_FAILED: "cj_assessment_service",
    CJ_RICH: "cj_assessment_service",
    PIPELINE_END: "batch_orchestrator_service",
    NLP: "nlp_service",
    AI_FEEDBACK: "ai_feedback_service",
}


def stamp(moment: int) -> str:
    """A time as producers write it; `moment` in microseconds from the start of the traffic."""
    return (_EPOCH + timedelta(microseconds=moment)).isoformat(timespec="microseconds")[:-6] + "Z"


def uuid_text(rng: random.Random) -> str:
    """A version 4 UUID drawn from the generator (uuid.UUID would cost ten times as much)."""
    digits = f"{rng.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{'89ab'[rng.getrandbits(2)]}{digits[17:20]}-{digits[20:]}"


class Batch:
    """One batch's life, told message by message. Stories call its methods in order; `now` moves on with each.

    A message's timestamp is when it was said, its place in the production order when it reached Kafka: `late` (in
    microseconds) sets the two apart.
    """

    def __init__(self, number: int, seed: int, run: str) -> None:
        self.rng = random.Random(f"{run}/{seed}/{number}")
        self.number = number
        self.batch_id = uuid_text(self.rng)
        self.run = run
        self.seed = seed
        self.user_id = f"teacher-{run}-{seed}-{number // 7}"
        self.class_id: str | None = f"class-{self.rng.randint(1, 9)}{self.rng.choice('abc')}"
        self.essays = [
            f"essay-{n}-{uuid_text(self.rng)[:8]}-{self.batch_id[:8]}" for n in range(1, self.rng.randint(20, 40) + 1)
        ]
        self.alive = list(self.essays)
        self.start = number * _BATCHES_START_EVERY + self.rng.randrange(SECOND)
        self.now = self.start
        self.correlation_id = uuid_text(self.rng)
        self.trace_id = f"{self.rng.getrandbits(128) | 1:032x}" if self.rng.random() < 0.4 else None
        self.spell_form = ("older", "rich", "both")[number % 3]
        self.cj_form = ("older", "thin+rich", "older+rich", "rich")[number % 4]
        self.jobs = 0
        self.pipeline_from = self.now
        self.said: list[tuple[int, Message]] = []

    # -- saying -----------------------------------------------------------------------------------------------------

    def say(self, topic: str, data: Json, key: str, *, moment: int | None = None, late: int = 0) -> None:
        """Puts a message on its topic, now or at `moment`; now and then twice, now and then without headers."""
        moment = self.now if moment is None else moment
        self.produce(topic, orjson.dumps(self.envelope(topic, data, moment)), key, moment + late, moment)

    def envelope(self, topic: str, data: Json, moment: int) -> Json:
        """The envelope with a fresh event id."""
        envelope: Json = {
            "event_id": uuid_text(self.rng),
            "event_type": topic,
            "event_timestamp": stamp(moment),
            "source_service": _TOPIC_SOURCE[topic],
            "schema_version": 1,
            "correlation_id": self.correlation_id,
            "data_schema_uri": None,
            "data": data,
            "metadata": None,
        }
        if self.trace_id is not None and self.number % 2:
            envelope["metadata"] = {"traceparent": self._traceparent()}
        if self.rng.random() < 0.02:
            envelope["producer_build"] = {"commit": "5d2b976", "dirty": False}  # a field nobody asked for
        return envelope

    def _traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.rng.getrandbits(64) | 1:016x}-01"

    def produce(self, topic: str, value: bytes | None, key: str, at: int, moment: int) -> None:
        """Puts bytes on a topic at its place in the production order, with the headers producers set of themselves."""
        headers: list[tuple[str, bytes]] = []
        if value is not None and self.rng.random() >= _WITHOUT_HEADERS:
            headers = [
                ("event_id", value[13:49]),  # every envelope begins {"event_id":"
                ("event_type", topic.encode()),
                ("trace_id", self.correlation_id.encode()),
                ("source_service", _TOPIC_SOURCE[topic].encode()),
                ("schema_version", b"1"),
                ("occurred_at", stamp(moment).encode()),
                ("content_type", b"application/json"),
            ]
        if self.trace_id is not None and not self.number % 2:
            headers.append(("traceparent", self._traceparent().encode()))
        message = Message(topic, key.encode(), value, headers)
        self.said.append((at, message))
        if self.rng.random() < _DUPLICATED:
            self.said.append((at + self.rng.randrange(5 * MINUTE), message))

    def passes(self, shortest: int, longest: int) -> int:
        self.now += self.rng.randrange(shortest, longest)
        return self.now

    def system_metadata(
        self, entity_id: str, entity_type: str, parent_id: str | None, event: str, moment: int, error_info: Json | None
    ) -> Json:
        return {
            "entity_id": entity_id,
            "entity_type": entity_type,
            "parent_id": parent_id,
            "timestamp": stamp(moment),
            "processing_stage": "failed" if error_info else "completed",
            "started_at": stamp(moment - 40 * SECOND),
            "completed_at": stamp(moment),
            "event": event,
            "error_info": error_info or {},
        }

    # -- registration and files -------------------------------------------------------------------------------------

    def register(
        self,
        requested: Sequence[str] | None = None,
        *,
        essays: Sequence[str] | None = None,
        late: int = 0,
    ) -> None:
        """BOS registers the batch; without `requested` as the older BOS did, which had no such field."""
        essays = self.essays if essays is None else essays
        self.passes(SECOND, 3 * SECOND)
        data: Json = {
            "event": "batch.essays.registered",
            "entity_id": self.batch_id,
            "expected_essay_count": len(essays),
            "essay_ids": list(essays),
            "metadata": {
                "entity_id": self.batch_id,
                "entity_type": "batch",
                "parent_id": None,
                "timestamp": stamp(self.now),
                "processing_stage": "initialized",
                "started_at": None,
                "completed_at": None,
                "event": "batch.essays.registered",
                "error_info": {},
            },
            "course_code": self.rng.choice(_COURSES),
            "student_prompt_ref": {
                "references": {"student_prompt_text": {"storage_id": f"prompt-{self.number}", "path": ""}}
            }
            if self.rng.random() < 0.8
            else None,
            "user_id": self.user_id,
            "org_id": "org-malmö" if self.rng.random() < 0.3 else None,
            "class_id": self.class_id,
        }
        if requested is not None:
            data["requested_pipelines"] = list(requested)
        self.say(REGISTERED, data, self.batch_id, late=late)

    def slots(self, essays: Sequence[str] | None = None) -> None:
        """ELS assigns each essay its file."""
        for essay in self.essays if essays is None else essays:
            self.slot(essay)

    def slot(self, essay: str, *, late: int = 0) -> None:
        """One essay's file, named as students name them."""
        self.passes(10_000, 400_000)
        mark = essay.split("-", 1)[1]
        student = f"{self.rng.choice(_GIVEN_NAMES)} {self.rng.choice(_SURNAMES)}"
        data = {
            "event": "essay.slot.assigned",
            "batch_id": self.batch_id,
            "essay_id": essay,
            "file_upload_id": f"upload-{mark}",
            "text_storage_id": f"text-{mark}",
            "original_file_name": f"{student} – uppsats.{self.rng.choice(('docx', 'pdf', 'txt'))}",
            "correlation_id": self.correlation_id,
            "timestamp": stamp(self.now),
        }
        self.say(SLOT, data, essay, late=late)

    # -- results of single essays -----------------------------------------------------------------------------------

    def spellchecked(
        self,
        essay: str,
        *,
        failed: bool = False,
        form: str | None = None,
        moment: int | None = None,
        late: int = 0,
        corrections: int | None = None,
    ) -> None:
        """One essay's spell check, in the older form, the rich one, or (while the producers change over) both."""
        form = form or self.spell_form
        moment = self.now if moment is None else moment
        corrections = self.rng.randint(0, 40) if corrections is None else corrections
        mark = essay.split("-", 1)[1]
        error_info: Json | None = None
        if failed:
            code, text, kind = self.rng.choice(_SPELLCHECK_ERRORS)
            error_info = {
                "error_code": code,
                "error_message": text.format(text=f"text-{mark}"),
                "error_type": kind,
                "context": {"storage_id": f"text-{mark}"},
            }
        corrected = f"corrected-{mark}-{self.rng.getrandbits(24):06x}"
        success = "spellchecked_success" if self.rng.random() < 0.9 else "SPELLCHECKED_SUCCESS"
        status = "spellcheck_failed" if failed else success
        if form in ("older", "both"):
            reference = (
                {"storage_id": corrected, "path": ""} if self.rng.random() < 0.8 else {"corrected_text": corrected}
            )
            self.say(
                SPELLCHECK_OLDER,
                {
                    "event_name": "essay.spellcheck.completed",
                    "entity_id": essay,
                    "entity_type": "essay",
                    "parent_id": self.batch_id,
                    "timestamp": stamp(moment),
                    "status": status,
                    "system_metadata": self.system_metadata(
                        essay, "essay", self.batch_id, "essay.spellcheck.completed", moment, error_info
                    ),
                    "original_text_storage_id": f"text-{mark}",
                    "storage_metadata": None if failed else {"references": {"corrected_text": reference}},
                    "corrections_made": None if failed else corrections,
                },
                essay,
                moment=moment,
                late=late,
            )
        if form in ("rich", "both"):
            moment += self.rng.randrange(1, 900)
            words = self.rng.randint(180, 620)
            by_dictionary = self.rng.randint(0, corrections)
            self.say(
                SPELLCHECK_RICH,
                {
                    "event_name": "spellcheck.results",
                    "entity_id": essay,
                    "entity_type": "essay",
                    "parent_id": self.batch_id,
                    "timestamp": stamp(moment),
                    "status": status,
                    "system_metadata": self.system_metadata(
                        essay, "essay", self.batch_id, "spellcheck.results", moment, error_info
                    ),
                    "batch_id": self.batch_id,
                    "correlation_id": self.correlation_id,
                    "user_id": self.user_id,
                    "corrections_made": None if failed else corrections,
                    "correction_metrics": None
                    if failed
                    else {
                        "total_corrections": corrections,
                        "l2_dictionary_corrections": by_dictionary,
                        "spellchecker_corrections": corrections - by_dictionary,
                        "word_count": words,
                        "correction_density": round(100 * corrections / words, 2),
                    },
                    "original_text_storage_id": f"text-{mark}",
                    "corrected_text_storage_id": None if failed else corrected,
                    "processing_duration_ms": self.rng.randint(300, 2500),
                    "processor_version": "pyspellchecker_1.0_L2_swedish",
                },
                essay,
                moment=moment,
                late=late,
            )

    def nlp_analysed(self, essay: str, *, named: str | None = None) -> None:
        """One essay's text metrics; `named`: where the message names the batch, "parent", "metadata" or "nowhere"."""
        named = named or self.rng.choice(("parent", "parent", "metadata", "nowhere"))
        rng = self.rng
        words, errors = rng.randint(180, 620), rng.randint(0, 2)
        mistakes = [
            {
                "rule_id": "EN_A_VS_AN",
                "message": 'Use "an" before a vowel sound.',
                "short_message": "Wrong article",
                "offset": rng.randint(0, 900),
                "length": 1,
                "replacements": ["an"],
                "category": "grammar",
                "severity": "error",
                "category_id": "MISC",
                "category_name": "Miscellaneous",
                "context": "a apple",
                "context_offset": 0,
            }
            for _ in range(errors)
        ]
        data = {
            "event_name": "essay.nlp.completed",
            "entity_id": essay,
            "entity_type": "essay",
            "parent_id": self.batch_id if named == "parent" else None,
            "timestamp": stamp(self.now),
            "essay_id": essay,
            "text_storage_id": f"corrected-{essay.split('-', 1)[1]}",
            "nlp_metrics": {
                "word_count": words,
                "sentence_count": words // 16,
                "avg_sentence_length": round(rng.uniform(12, 20), 1),
                "language_detected": rng.choice(("en", "sv")),
                "processing_time_ms": rng.randint(300, 1500),
                "mean_zipf_frequency": round(rng.uniform(5, 6), 2),
                "percent_tokens_zipf_below_3": round(rng.uniform(2, 8), 1),
                "mtld_score": round(rng.uniform(40, 110), 1),
                "hdd_score": round(rng.uniform(0.7, 0.9), 2),
                "mean_dependency_distance": round(rng.uniform(2, 3), 1),
                "phrasal_indices": {"noun_phrase_ratio": round(rng.uniform(0.2, 0.4), 2)},
                "clausal_indices": {"clauses_per_sentence": round(rng.uniform(1.2, 2.4), 1)},
                "first_order_coherence": round(rng.uniform(0.3, 0.6), 2),
                "second_order_coherence": round(rng.uniform(0.3, 0.5), 2),
                "avg_bigram_pmi": 2.1,
                "avg_trigram_pmi": 3.0,
                "avg_bigram_npmi": 0.2,
                "avg_trigram_npmi": 0.3,
            },
            "grammar_analysis": {
                "error_count": errors,
                "errors": mistakes,
                "language": "en",
                "processing_time_ms": rng.randint(60, 300),
                "grammar_category_counts": {"grammar": errors} if errors else {},
                "grammar_rule_counts": {"EN_A_VS_AN": errors} if errors else {},
            },
            "processing_metadata": {"batch_id": self.batch_id} if named in ("parent", "metadata") else {},
        }
        self.say(NLP, data, essay)

    def fed_back(self, essay: str, *, failed: bool = False, names_batch: bool = True) -> None:
        """One essay's AI feedback, or that there is none."""
        parent_id = self.batch_id if names_batch else None
        error_info: Json | None = None
        if failed:
            error_info = {
                "error_code": "AI_FEEDBACK_PROVIDER_ERROR",
                "error_message": "The model refused: för kort text",
                "error_type": "LLMProviderError",
                "context": {},
            }
        data = {
            "event_name": "essay.aifeedback.completed",
            "entity_id": essay,
            "entity_type": "essay",
            "parent_id": parent_id,
            "timestamp": stamp(self.now),
            "status": "ai_feedback_failed" if failed else "ai_feedback_success",
            "system_metadata": self.system_metadata(
                essay, "essay", parent_id, "essay.aifeedback.completed", self.now, error_info
            ),
            "feedback_details": None
            if failed
            else {
                "model_version": "claude-sonnet",
                "generation_timestamp": stamp(self.now),
                "feedback_type": self.rng.choice(("student_facing", "teacher_facing")),
                "processing_time_seconds": round(self.rng.uniform(8, 40), 1),
            },
            "feedback_content_storage_id": None if failed else f"feedback-{essay.split('-', 1)[1]}",
            "additional_metrics": None if failed else {"suggestions": self.rng.randint(1, 12)},
        }
        self.say(AI_FEEDBACK, data, essay)

    # -- phases -----------------------------------------------------------------------------------------------------

    def outcome(
        self,
        phase: str,
        processed: Sequence[str],
        failed: Sequence[str] = (),
        *,
        status: str | None = None,
        moment: int | None = None,
        late: int = 0,
    ) -> None:
        """ELS says how a phase ended for the whole batch."""
        data = {
            "batch_id": self.batch_id,
            "phase_name": phase,
            "phase_status": status or ("completed_with_failures" if failed else "completed_successfully"),
            "processed_essays": [
                {"essay_id": essay, "text_storage_id": f"corrected-{essay.split('-', 1)[1]}"} for essay in processed
            ],
            "failed_essay_ids": list(failed),
            "correlation_id": self.correlation_id,
        }
        self.say(OUTCOME, data, self.batch_id, moment=moment, late=late)

    def spellcheck(
        self, *, failing: int = 0, silent: int = 0, missing: int = 0, outcome: bool = True, status: str | None = None
    ) -> None:
        """The phase: `failing` essays say so, `silent` ones only the outcome lists as failed, `missing` ones are
        listed as processed though their result never comes. Failed essays take no part in later phases."""
        chosen = self.rng.sample(self.alive, failing + silent + missing)
        broken, quiet, lost = chosen[:failing], chosen[failing : failing + silent], chosen[failing + silent :]
        self.passes(5 * SECOND, 30 * SECOND)
        for essay in self.alive:
            self.passes(50_000, 2 * SECOND)
            if essay not in quiet and essay not in lost:
                self.spellchecked(essay, failed=essay in broken)
        self.alive = [essay for essay in self.alive if essay not in broken and essay not in quiet]
        self.passes(SECOND, 5 * SECOND)
        if outcome:
            self.outcome("spellcheck", self.alive, [*broken, *quiet], status=status)

    def nlp(self, *, missing: int = 0) -> None:
        """The phase NLP."""
        self.passes(5 * SECOND, 30 * SECOND)
        lost = self.rng.sample(self.alive, missing)
        for essay in self.alive:
            self.passes(50_000, 2 * SECOND)
            if essay not in lost:
                self.nlp_analysed(essay)
        self.passes(SECOND, 5 * SECOND)
        self.outcome("nlp", self.alive)

    def ai_feedback(self, *, failing: int = 0) -> None:
        """The phase AI feedback; its failures do not keep an essay from comparative judgment."""
        self.passes(5 * SECOND, 30 * SECOND)
        broken = self.rng.sample(self.alive, failing)
        for essay in self.alive:
            self.passes(50_000, 2 * SECOND)
            self.fed_back(essay, failed=essay in broken, names_batch=self.rng.random() < 0.85)
        self.passes(SECOND, 5 * SECOND)
        self.outcome("ai_feedback", [essay for essay in self.alive if essay not in broken], broken)

    def student_matching(self, *, failing: int = 0) -> None:
        """The phase student matching: an outcome and nothing else."""
        self.passes(10 * SECOND, 60 * SECOND)
        broken = self.rng.sample(self.alive, failing)
        self.outcome("student_matching", [essay for essay in self.alive if essay not in broken], broken)

    def new_job(self) -> str:
        """The id of the next comparative judgment of this batch."""
        self.jobs += 1
        return f"cj-job-{self.batch_id[:8]}-{self.jobs}"

    def comparative_judgment(
        self,
        *,
        form: str | None = None,
        failing: int = 0,
        missing: int = 0,
        outcome: bool = True,
        foreign_anchors: Sequence[str] = (),
        job: str | None = None,
    ) -> None:
        """The phase CJ. `failing` essays get no place (a thin message names them), `missing` ones get theirs lost."""
        form = form or self.cj_form
        self.passes(2 * MINUTE, 6 * MINUTE)
        chosen = self.rng.sample(self.alive, failing + missing)
        broken, lost = chosen[:failing], chosen[failing:]
        ranked = [essay for essay in self.alive if essay not in broken]
        anchors = [
            f"anchor-{self.run}-{self.seed}-{grade}" for grade in self.rng.sample("abcde", self.rng.randint(0, 3))
        ]
        scores = {essay: round(self.rng.gauss(0, 1), 4) for essay in [*ranked, *anchors, *foreign_anchors]}
        job = job or self.new_job()
        if "older" in form:
            self.cj_older(
                job, [essay for essay in scores if essay not in lost and essay not in foreign_anchors], scores
            )
        if "thin" in form or broken:
            self.passes(1_000, 200_000)
            self.cj_thin(job, ranked, broken)
        if "rich" in form:
            self.passes(1_000, 200_000)
            self.cj_rich(
                job, [essay for essay in scores if essay not in lost], scores, anchors=[*anchors, *foreign_anchors]
            )
        self.passes(SECOND, 20 * SECOND)
        if outcome:
            self.outcome("cj_assessment", ranked, broken)

    def cj_completed(self, job: str) -> Json:
        return {
            "event_name": "cj_assessment.completed",
            "entity_id": self.batch_id,
            "entity_type": "batch",
            "parent_id": None,
            "timestamp": stamp(self.now),
            "status": "completed_successfully",
            "system_metadata": self.system_metadata(
                self.batch_id, "batch", None, "cj_assessment.completed", self.now, None
            ),
            "cj_assessment_job_id": job,
        }

    def cj_older(self, job: str, essays: Sequence[str], scores: dict[str, float], *, late: int = 0) -> None:
        """The older form of an assessment: rankings, anchors among them and not marked as such."""
        ranking = sorted(essays, key=lambda essay: -scores[essay])
        data = self.cj_completed(job) | {
            "rankings": [
                {"els_essay_id": essay, "rank": rank, "score": scores[essay]} for rank, essay in enumerate(ranking, 1)
            ]
        }
        self.say(CJ_COMPLETED, data, self.batch_id, late=late)

    def cj_thin(self, job: str, successful: Sequence[str], failed: Sequence[str] = ()) -> None:
        """The thin form: who got a place and who did not, without the places."""
        data = self.cj_completed(job) | {
            "processing_summary": {
                "total_essays": len(successful) + len(failed),
                "successful": len(successful),
                "failed": len(failed),
                "successful_essay_ids": list(successful),
                "failed_essay_ids": list(failed),
                "processing_time_seconds": round(self.rng.uniform(200, 900), 1),
            }
        }
        self.say(CJ_COMPLETED, data, self.batch_id)

    def cj_rich(
        self, job: str, essays: Sequence[str], scores: dict[str, float], *, anchors: Sequence[str] = (), late: int = 0
    ) -> None:
        """The rich form: places, grades and confidence; anchors marked."""
        ranking = sorted(essays, key=lambda essay: -scores[essay])
        results = []
        for rank, essay in enumerate(ranking, 1):
            place = (rank - 1) / max(len(ranking) - 1, 1)
            grade = _GRADES[int(place * (len(_GRADES) - 1))]
            is_anchor = essay in anchors
            confidence = 1.0 if is_anchor else round(self.rng.uniform(0.3, 0.98), 2)
            results.append(
                {
                    "essay_id": essay,
                    "normalized_score": round(1 - place, 3),
                    "letter_grade": grade,
                    "confidence_score": confidence,
                    "confidence_label": "HIGH" if confidence > 0.75 else "MID" if confidence > 0.5 else "LOW",
                    "bt_score": scores[essay],
                    "rank": rank,
                    "is_anchor": is_anchor,
                    "feedback_uri": None,
                    "metrics_uri": None,
                    "display_name": f"ANCHOR GRADE {grade}" if is_anchor else None,
                }
            )
        data = {
            "event_name": "assessment.result.published",
            "entity_id": self.batch_id,
            "entity_type": "batch",
            "parent_id": None,
            "timestamp": stamp(self.now),
            "batch_id": self.batch_id,
            "cj_assessment_job_id": job,
            "assignment_id": f"assignment-2026-{self.number}" if self.rng.random() < 0.8 else None,
            "assessment_method": "cj_assessment",
            "model_used": "claude-sonnet",
            "model_provider": "anthropic",
            "model_version": None,
            "essay_results": results,
            "assessment_metadata": {
                "anchor_essays_used": len(anchors),
                "calibration_method": "anchor",
                "comparison_count": self.rng.randint(40, 400),
                "processing_duration_seconds": round(self.rng.uniform(200, 900), 1),
                "llm_temperature": 0.0,
            },
            "assessed_at": stamp(self.now),
        }
        self.say(CJ_RICH, data, self.batch_id, late=late)

    def cj_failed(self) -> None:
        """The batch's comparative judgment failed as a whole."""
        self.passes(2 * MINUTE, 6 * MINUTE)
        error_info = {
            "error_code": "CJ_LLM_PROVIDER_ERROR",
            "error_message": "LLM provider exhausted its retries",
            "error_type": "LLMProviderError",
            "context": {},
        }
        data = {
            "event_name": "cj_assessment.failed",
            "entity_id": self.batch_id,
            "entity_type": "batch",
            "parent_id": None,
            "timestamp": stamp(self.now),
            "status": "failed_critically",
            "system_metadata": self.system_metadata(
                self.batch_id, "batch", None, "cj_assessment.failed", self.now, error_info
            ),
            "cj_assessment_job_id": self.new_job(),
        }
        self.say(CJ_FAILED, data, self.batch_id)

    def end(self, *phases: str, status: str | None = None, successful: int | None = None, late: int = 0) -> None:
        """BOS says that a pipeline over the batch ended."""
        self.passes(SECOND, 20 * SECOND)
        successful = len(self.alive) if successful is None else successful
        failed = max(len(self.essays) - successful, 0)
        data = {
            "event": "batch.pipeline.completed",
            "batch_id": self.batch_id,
            "completed_phases": list(phases),
            "final_status": status or ("completed_with_failures" if failed else "completed_successfully"),
            "processing_duration_seconds": round((self.now - self.pipeline_from) / SECOND, 1),
            "successful_essay_count": successful,
            "failed_essay_count": failed,
            "correlation_id": self.correlation_id,
            "metadata": {
                "entity_id": self.batch_id,
                "entity_type": "batch",
                "parent_id": None,
                "timestamp": stamp(self.now),
                "processing_stage": "completed",
                "started_at": None,
                "completed_at": None,
                "event": "batch.pipeline.completed",
                "error_info": {},
            },
        }
        self.say(PIPELINE_END, data, self.batch_id, late=late)
        self.pipeline_from = self.now
        self.correlation_id = uuid_text(self.rng)  # the next pipeline is another request
