"""The referee: what the API must answer and what must be published, computed from all messages at once.

Follows docs/semantics.md and the specification, sentence by sentence and naively; imports nothing of the service. Its
verdict is a function of the set of messages: neither their order nor their repetition can change it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain, combinations, product
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from demo.wire import (
    AI_FEEDBACK,
    ASSESSMENT_COMPLETED,
    CJ_COMPLETED,
    CJ_FAILED,
    CJ_RICH,
    NLP,
    NOTIFICATION,
    OUTCOME,
    PHASES,
    PIPELINE_END,
    REGISTERED,
    RESULTS_READY,
    SLOT,
    SPELLCHECK_OLDER,
    SPELLCHECK_RICH,
    BadMessage,
    Event,
    Message,
    read,
)

Json = dict[str, Any]
Clock = tuple[datetime, bytes]

CURRENT_PHASE_ORDER = ("spellcheck", "nlp", "ai_feedback", "cj_assessment")
CLIENT_STATUS = {
    "awaiting_content_validation": "pending_content",
    "processing_pipelines": "processing",
    "completed_successfully": "completed_successfully",
    "completed_with_failures": "completed_with_failures",
    "failed_critically": "failed",
    "cancelled": "cancelled",
}


# -- what the rules leave open, as patterns that an answer is compared with ----------------------------------------


@dataclass(frozen=True)
class Either:
    """Any of these values: the rules do not say which, or what was folded first decides."""

    values: tuple[object, ...]


@dataclass(frozen=True)
class Holding:
    """An object with at least these members."""

    members: Json


@dataclass(frozen=True)
class OneLine:
    """A text that is not empty and has no line break."""


@dataclass(frozen=True)
class Anything:
    """The rules say nothing."""


# -- the facts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """Why an essay failed; None where the message does not say."""

    code: str | None
    message: str | None


@dataclass(frozen=True)
class Result:
    """An essay's own result in a phase: a failure, or a success with what it carries."""

    event: Event
    failure: Failure | None
    shown: Json = field(default_factory=dict)

    @property
    def clock(self) -> Clock:
        return self.event.clock


@dataclass(frozen=True)
class Standing:
    """An essay's status in a phase, since when, and why if it failed."""

    status: str
    since: datetime | Either
    failure: Failure | None = None


@dataclass(frozen=True)
class Basis:
    """What a results announcement rests on: these outcomes, or a pipeline's end and what was known by then."""

    status: str
    outcomes: tuple[Event, ...]
    end: Event | None = None
    outcome_missing: bool = False

    def identity(self, batch_id: str) -> str:
        """The announcement's event id."""
        if self.end is not None:
            parts = f"pipeline={self.end.id}"
        else:
            named = sorted((outcome.data["phase_name"], str(outcome.id)) for outcome in self.outcomes)
            parts = ",".join(f"{phase}={event_id}" for phase, event_id in named)
        return _identity("results", batch_id, self.status, parts)


@dataclass(frozen=True)
class Announcement:
    """One content that a published domain event may have, and the trace it belongs to."""

    topic: str
    user_id: str
    envelope: Json
    traceparent: str | None


@dataclass(frozen=True)
class Announcements:
    """What must and what may be published about a batch, notifications left out (each follows its domain event).

    `possible` maps the identity of every results announcement that some order of arrival leads to, to the contents it
    may have. One of `final` must be there; where `exact`, it is the only one. `assessments` are possible likewise, and
    `certain_assessments` must be there.
    """

    possible: dict[str, list[Announcement]]
    final: tuple[str, ...]
    exact: bool
    assessments: dict[str, list[Announcement]]
    certain_assessments: frozenset[str]


def _identity(kind: str, *parts: str) -> str:
    return str(uuid5(NAMESPACE_URL, "/".join(("huleedu/ras", kind, *parts))))


def _latest(events: Iterable[Event]) -> Event | None:
    return max(events, key=lambda event: event.clock, default=None)


def _seconds(start: datetime, end: datetime) -> float:
    return max((end - start) / timedelta(seconds=1), 0.0)


def _processed(outcome: Event) -> list[str]:
    return [essay["essay_id"] for essay in outcome.data["processed_essays"]]


def _is_later(event: Event, than: Event) -> bool:
    return event.clock > than.clock


def _failure(data: Json) -> Failure:
    error_info = data["system_metadata"].get("error_info") or {}
    return Failure(error_info.get("error_code"), error_info.get("error_message"))


def _is_success(status: str) -> bool:
    return "success" in status.lower()


class Oracle:
    """The truth about a set of messages."""

    def __init__(
        self,
        messages: Sequence[Message],
        *,
        expected_phases: Sequence[str] = ("spellcheck", "cj_assessment"),
        service_name: str = "result-aggregator-service",
    ) -> None:
        self.expected_phases = tuple(expected_phases)
        self.service_name = service_name
        #: Index into `messages` of each that belongs in quarantine, with the reason.
        self.quarantined: dict[int, str] = {}

        self.registrations: dict[str, list[Event]] = defaultdict(list)
        self.outcomes: dict[str, list[Event]] = defaultdict(list)
        self.ends: dict[str, list[Event]] = defaultdict(list)
        self.cj_words: dict[str, list[Event]] = defaultdict(list)
        self.anchors: dict[str, set[str]] = defaultdict(set)
        self.listings: dict[str, list[tuple[Event, str]]] = defaultdict(list)
        self.placements: dict[str, list[tuple[Event, str]]] = defaultdict(list)
        self.slots: dict[str, list[Event]] = defaultdict(list)
        self.batch_heard: dict[str, list[datetime]] = defaultdict(list)
        self.essay_heard: dict[str, list[datetime]] = defaultdict(list)
        self.results: dict[tuple[str, str], list[Result]] = defaultdict(list)
        self.spellcheck_metrics: dict[str, list[Event]] = defaultdict(list)
        self.cj_grades: dict[str, list[tuple[Event, Json]]] = defaultdict(list)

        seen: set[UUID] = set()
        for index, message in enumerate(messages):
            try:
                event = read(message)
            except BadMessage as reason:
                self.quarantined[index] = str(reason)
                continue
            if event.id not in seen:
                seen.add(event.id)
                self._note(event)
        self.members = self._memberships()
        self._winning = {batch_id: _winners(outcomes) for batch_id, outcomes in self.outcomes.items()}
        self._nobody_missing: dict[UUID, bool] = {}  # by outcome: asked again and again
        self._named: dict[str, set[str]] = defaultdict(set)
        for essay, mentions in chain(self.placements.items(), self.listings.items()):
            for _, batch_id in mentions:
                self._named[batch_id].add(essay)

    # -- what each message says -------------------------------------------------------------------------------------

    def _note(self, event: Event) -> None:
        data = event.data
        if event.topic == REGISTERED:
            self.registrations[data["entity_id"]].append(event)
            self.batch_heard[data["entity_id"]].append(event.time)
            for essay in data["essay_ids"]:
                self.listings[essay].append((event, data["entity_id"]))
                self.essay_heard[essay].append(event.time)
        elif event.topic == SLOT:
            self.slots[data["essay_id"]].append(event)
            self._place(event, data["essay_id"], data["batch_id"])
        elif event.topic == OUTCOME:
            self.outcomes[data["batch_id"]].append(event)
            self.batch_heard[data["batch_id"]].append(event.time)
            for essay in chain(_processed(event), data["failed_essay_ids"]):
                self._place(event, essay, data["batch_id"])
        elif event.topic == PIPELINE_END:
            self.ends[data["batch_id"]].append(event)
            self.batch_heard[data["batch_id"]].append(event.time)
        elif event.topic == SPELLCHECK_OLDER:
            self._note_spellcheck(event, data["system_metadata"].get("parent_id"))
        elif event.topic == SPELLCHECK_RICH:
            self._note_spellcheck(event, data["batch_id"])
            self.spellcheck_metrics[data["entity_id"]].append(event)
        elif event.topic in (CJ_COMPLETED, CJ_FAILED, CJ_RICH):
            self._note_judgment(event)
        elif event.topic == NLP:
            self._note_nlp(event)
        elif event.topic == AI_FEEDBACK:
            self._note_ai_feedback(event)

    def _place(self, event: Event, essay: str, batch_id: str | None) -> None:
        """A message speaks of an essay, and places it if it names a batch."""
        self.essay_heard[essay].append(event.time)
        if batch_id:
            self.placements[essay].append((event, batch_id))
            self.batch_heard[batch_id].append(event.time)

    def _note_spellcheck(self, event: Event, batch_id: str | None) -> None:
        data = event.data
        older = event.topic == SPELLCHECK_OLDER
        essay = data["system_metadata"]["entity_id"] if older else data["entity_id"]
        self._place(event, essay, batch_id)
        text_id = data.get("corrected_text_storage_id")
        if older:
            references = (data.get("storage_metadata") or {}).get("references") or {}
            reference = references.get("corrected_text") or {}
            text_id = reference.get("storage_id") or next(filter(None, reference.values()), None)
        success = _is_success(data["status"])
        shown = {
            "spellcheck_correction_count": data.get("corrections_made"),
            "spellcheck_corrected_text_storage_id": text_id,
        }
        self.results[essay, "spellcheck"].append(Result(event, None if success else _failure(data), shown))

    def _note_judgment(self, event: Event) -> None:
        data = event.data
        batch_id = data["batch_id"] if event.topic == CJ_RICH else data["entity_id"]
        self.cj_words[batch_id].append(event)
        self.batch_heard[batch_id].append(event.time)
        if event.topic == CJ_RICH:
            metadata = data.get("assessment_metadata") or {}
            for entry in data["essay_results"]:
                if entry.get("is_anchor"):
                    self.anchors[batch_id].add(entry["essay_id"])
                    continue
                self._place(event, entry["essay_id"], batch_id)
                self._note_place(event, entry["essay_id"], entry.get("rank"), entry.get("bt_score"))
                grades = {
                    "cj_letter_grade": entry.get("letter_grade"),
                    "cj_normalized_score": entry.get("normalized_score"),
                    "cj_confidence_score": entry.get("confidence_score"),
                    "cj_confidence_label": entry.get("confidence_label"),
                    "cj_comparison_count": metadata.get("comparison_count"),
                }
                self.cj_grades[entry["essay_id"]].append((event, grades))
        elif event.topic == CJ_COMPLETED:
            for entry in data.get("rankings") or ():
                self._note_place(event, entry["els_essay_id"], entry.get("rank"), entry.get("score"))
            summary = data.get("processing_summary") or {}
            for essay in summary.get("successful_essay_ids") or ():
                self._place(event, essay, batch_id)
            for essay in summary.get("failed_essay_ids") or ():
                self._place(event, essay, batch_id)
                failure = Failure("CJ_ASSESSMENT_FAILED", None)
                self.results[essay, "cj_assessment"].append(Result(event, failure))

    def _note_place(self, event: Event, essay: str, rank: int | None, score: float | None) -> None:
        if rank is not None or score is not None:
            self.essay_heard[essay].append(event.time)
            shown = {"cj_rank": rank, "cj_score": score}
            self.results[essay, "cj_assessment"].append(Result(event, None, shown))

    def _note_nlp(self, event: Event) -> None:
        data = event.data
        batch_id = data.get("parent_id") or (data.get("processing_metadata") or {}).get("batch_id")
        self._place(event, data["essay_id"], batch_id)
        metrics = data["nlp_metrics"]
        errors, words = (data.get("grammar_analysis") or {}).get("error_count"), metrics.get("word_count")
        shown = {
            "nlp_lexical_diversity_score": metrics.get("mtld_score"),
            "nlp_cohesion_score": metrics.get("first_order_coherence"),
            "nlp_grammatical_error_rate": 100 * errors / words if errors is not None and words else None,
            "nlp_metrics": Holding(metrics),
        }
        self.results[data["essay_id"], "nlp"].append(Result(event, None, shown))

    def _note_ai_feedback(self, event: Event) -> None:
        data = event.data
        metadata = data["system_metadata"]
        essay = metadata["entity_id"]
        self._place(event, essay, metadata.get("parent_id"))
        details = data.get("feedback_details")
        shown = {
            "ai_feedback_storage_id": data.get("feedback_content_storage_id"),
            "ai_feedback_details": None if details is None else Holding(details),
        }
        success = _is_success(data["status"])
        self.results[essay, "ai_feedback"].append(Result(event, None if success else _failure(data), shown))

    # -- which essays a batch has -----------------------------------------------------------------------------------

    def registration(self, batch_id: str) -> Event | None:
        """The registration that counts; None if nobody registered the batch."""
        return _latest(self.registrations.get(batch_id, ()))

    def _memberships(self) -> dict[str, list[str]]:
        members: dict[str, list[str]] = defaultdict(list)
        for essay in {*self.listings, *self.placements}:
            batch_id = self._batch_of(essay)
            if batch_id is not None and essay not in self.anchors.get(batch_id, ()):
                members[batch_id].append(essay)
        for essays in members.values():
            essays.sort()
        return members

    def _batch_of(self, essay: str) -> str | None:
        listing = max(self.listings.get(essay, ()), key=lambda pair: pair[0].clock, default=None)
        placement = max(self.placements.get(essay, ()), key=lambda pair: pair[0].clock, default=None)
        if listing is not None:
            registration = self.registration(listing[1])
            holds = registration is not None and registration.id == listing[0].id
            if holds and (placement is None or _is_later(listing[0], than=placement[0])):
                return listing[1]
        return placement[1] if placement else None

    # -- an essay's status in a phase -------------------------------------------------------------------------------

    def own_result(self, essay: str, phase: str) -> Result | None:
        """The essay's own word on a phase: the latest."""
        return max(self.results.get((essay, phase), ()), key=lambda result: result.clock, default=None)

    def winning_outcomes(self, batch_id: str) -> dict[str, Event]:
        """Each phase's outcome that counts."""
        return self._winning.get(batch_id, {})

    def standing(self, batch_id: str, essay: str, phase: str) -> Standing | None:
        """The essay's status in a phase; None while nothing is known."""
        outcome = self.winning_outcomes(batch_id).get(phase)
        listed_as_failed = outcome is not None and essay in outcome.data["failed_essay_ids"]
        if phase == "student_matching":
            if outcome is None:
                return None
            if listed_as_failed:
                return Standing("failed", outcome.time)
            return Standing("completed", outcome.time) if essay in _processed(outcome) else None

        own = self.own_result(essay, phase)
        listed = outcome if outcome and listed_as_failed and (own is None or outcome.clock > own.clock) else None
        verdict = _latest(self.cj_words.get(batch_id, ())) if phase == "cj_assessment" else None
        if own is None and verdict is not None and verdict.topic == CJ_FAILED:
            # Where the outcome says so too, the rules do not say which of the two decided.
            since = Either((outcome.time, verdict.time)) if outcome is not None and listed else verdict.time
            return Standing("failed", since, _failure(verdict.data))
        if listed is not None:
            failure = own.failure if own is not None else None
            return Standing("failed", listed.time, failure or Failure("PHASE_OUTCOME_FAILED", None))
        if own is None:
            return None
        return Standing("failed" if own.failure else "completed", own.event.time, own.failure)

    # -- the batch's status -----------------------------------------------------------------------------------------

    def phases_that_matter(
        self, outcomes: dict[str, Event], ends: Sequence[Event], requested: Sequence[str] | None
    ) -> set[str]:
        """Of which phases a batch's end consists."""
        phases = {phase for end in ends for phase in end.data["completed_phases"]}
        phases = phases or {phase for phase in requested or () if phase in PHASES}
        phases = phases or set(self.expected_phases)
        last = _latest(ends)
        if last is not None:
            phases |= {phase for phase, outcome in outcomes.items() if _is_later(outcome, than=last)}
        return phases

    def results_are_in(self, batch_id: str, outcomes: Iterable[Event]) -> bool:
        """Whether every essay of the batch that these list as processed has its own result."""
        members = set(self.members.get(batch_id, ()))
        return not any(members & self._without_result(outcome) for outcome in outcomes)

    def _without_result(self, outcome: Event) -> set[str]:
        """The essays that an outcome lists as processed and that have no result of their own in its phase."""
        phase = outcome.data["phase_name"]
        if phase == "student_matching":
            return set()
        return {essay for essay in _processed(outcome) if not self.results.get((essay, phase))}

    def _may_wait_for_nobody(self, batch_id: str, outcome: Event) -> bool:
        """Whether each essay without a result is an anchor, or may be in another batch at some time after this."""
        if outcome.id not in self._nobody_missing:
            self._nobody_missing[outcome.id] = all(
                any(
                    other != batch_id and _is_later(mention, than=outcome)
                    for mention, other in chain(self.placements.get(essay, ()), self.listings.get(essay, ()))
                )
                for essay in self._without_result(outcome) - self.anchors.get(batch_id, set())
            )
        return self._nobody_missing[outcome.id]

    def _final_basis(self, batch_id: str) -> Basis | None:
        """What the final state's announcement rests on, the grace having run; None for a batch that is unfinished."""
        registration = self.registration(batch_id)
        requested = registration.data.get("requested_pipelines") if registration else None
        outcomes, ends = self.winning_outcomes(batch_id), self.ends.get(batch_id, [])
        matter = self.phases_that_matter(outcomes, ends, requested)
        known = [outcome for phase, outcome in outcomes.items() if phase in matter]
        standings = (
            self.standing(batch_id, essay, phase) for essay in self.members.get(batch_id, ()) for phase in matter
        )
        any_failed = any(standing is not None and standing.status == "failed" for standing in standings)
        return _basis(outcomes, ends, matter, self.results_are_in(batch_id, known), any_failed, grace=True)

    # -- the API ----------------------------------------------------------------------------------------------------

    def answer(self, batch_id: str) -> Json | None:
        """What the API answers about a batch; None for 404."""
        registration = self.registration(batch_id)
        if registration is None:
            return None
        requested = registration.data.get("requested_pipelines")
        outcomes, ends = self.winning_outcomes(batch_id), self.ends.get(batch_id, [])
        matter = self.phases_that_matter(outcomes, ends, requested)
        members = self.members.get(batch_id, [])
        last_end = _latest(ends)
        standings = {
            (essay, phase): standing
            for essay in members
            for phase in PHASES
            if (standing := self.standing(batch_id, essay, phase)) is not None
        }
        failed = {pair for pair, standing in standings.items() if standing.status == "failed"}
        completed = set(standings) - failed

        begun = [outcome.time for outcome in self.outcomes.get(batch_id, ())]
        begun += [word.time for word in self.cj_words.get(batch_id, ()) if word.topic == CJ_FAILED]
        begun += [
            result.event.time
            for essay in members
            for phase in PHASES
            for result in self.results.get((essay, phase), ())
        ]
        basis = self._final_basis(batch_id)
        if basis is not None:
            status = basis.status
        else:
            status = "processing_pipelines" if begun or ends else "awaiting_content_validation"
        finished_at = None
        if basis is not None:
            finished_at = last_end.time if last_end else max(outcome.time for outcome in outcomes.values())
        waiting = [phase for phase in CURRENT_PHASE_ORDER if phase in matter and phase not in outcomes]
        rich = _latest(word for word in self.cj_words.get(batch_id, ()) if word.topic == CJ_RICH)
        verdict = _latest(self.cj_words.get(batch_id, ()))
        heard = chain(self.batch_heard[batch_id], *(self.essay_heard[essay] for essay in members))
        requested_phases = [phase for phase in requested or () if phase in PHASES]
        return {
            "batch_id": batch_id,
            "user_id": registration.data["user_id"],
            "class_id": registration.data.get("class_id"),
            "assignment_id": rich.data.get("assignment_id") if rich else None,
            "overall_status": status,
            "client_status": CLIENT_STATUS[status],
            "essay_count": registration.data["expected_essay_count"],
            "completed_essay_count": sum(all((essay, phase) in completed for phase in matter) for essay in members),
            "failed_essay_count": sum(any((essay, phase) in failed for phase in matter) for essay in members),
            "error_count": len(failed)
            + sum(outcome.data["phase_status"] == "failed_critically" for outcome in outcomes.values()),
            "requested_pipeline": ",".join(requested_phases) or None,
            "current_phase": waiting[0] if status == "processing_pipelines" and waiting else None,
            "phases": Holding(
                {
                    phase: Holding(
                        {
                            "status": outcome.data["phase_status"],
                            "completed_count": sum((essay, phase) in completed for essay in members),
                            "failed_count": sum((essay, phase) in failed for essay in members),
                        }
                    )
                    for phase, outcome in outcomes.items()
                }
            ),
            "essays": [self._essay_answer(batch_id, essay) for essay in members],
            "student_prompt_ref": registration.data.get("student_prompt_ref"),
            "error_detail": _error_detail(_failure(verdict.data))
            if verdict is not None and verdict.topic == CJ_FAILED
            else Anything(),
            "created_at": self.created_at(batch_id),
            "last_updated": max(heard),
            "processing_started_at": min(begun, default=None),
            "processing_completed_at": finished_at,
        }

    def created_at(self, batch_id: str) -> datetime:
        """The earliest registration's time."""
        return min(registration.time for registration in self.registrations[batch_id])

    def _essay_answer(self, batch_id: str, essay: str) -> Json:
        slot = _latest(self.slots.get(essay, ()))
        answer: Json = {
            "essay_id": essay,
            "filename": slot.data.get("original_file_name") if slot else None,
            "file_upload_id": slot.data.get("file_upload_id") if slot else None,
            "original_text_storage_id": slot.data["text_storage_id"] if slot else None,
            "last_updated": max(self.essay_heard[essay]),
        }
        for phase, fields in _SHOWN.items():
            standing = self.standing(batch_id, essay, phase)
            failed = standing is not None and standing.status == "failed"
            answer[f"{phase}_status"] = standing.status if standing else None
            answer[f"{phase}_completed_at"] = standing.since if standing else None
            answer[f"{phase}_error"] = OneLine() if failed else None
            answer[f"{phase}_error_detail"] = (
                _error_detail(standing.failure) if standing is not None and failed else None
            )
            shown: Json = {}
            if standing is not None and standing.status == "completed":
                shown = self._shown(essay, phase)
            answer |= {name: shown.get(name) for name in fields}
        return answer

    def _shown(self, essay: str, phase: str) -> Json:
        """What a completed result carries, with the richer forms' facets beside it."""
        own = self.own_result(essay, phase)
        shown = dict(own.shown) if own else {}
        if phase == "spellcheck":
            rich = _latest(self.spellcheck_metrics.get(essay, ()))
            if rich is not None:
                metrics = rich.data.get("correction_metrics")
                # A richer message without metrics, such as a failure that an older one made good: null or what is left.
                shown["spellcheck_metrics"] = Holding(metrics) if metrics else Either((None, Holding({})))
        if phase == "cj_assessment":
            grades = max(self.cj_grades.get(essay, ()), key=lambda pair: pair[0].clock, default=None)
            shown |= grades[1] if grades else {}
        return shown

    def users(self) -> dict[str, list[str]]:
        """Each user's batches, newest first."""
        owned: dict[str, list[str]] = defaultdict(list)
        for batch_id in self.registrations:
            registration = self.registration(batch_id)
            if registration is not None:
                owned[registration.data["user_id"]].append(batch_id)
        for batches in owned.values():
            batches.sort(key=lambda batch_id: (self.created_at(batch_id), batch_id), reverse=True)
        return owned

    def batch_ids(self) -> list[str]:
        """Every batch any message speaks of, registered or not."""
        named: set[str] = {*self.registrations, *self.outcomes, *self.ends, *self.cj_words, *self.members}
        return sorted(named)

    # -- announcements ----------------------------------------------------------------------------------------------

    def announcements(self, batch_id: str, *, early_grace: bool = False) -> Announcements:
        """What is published about a batch.

        `early_grace`: the messages took longer to arrive and be folded than the grace lasts, so that it may have
        finished a batch whose results were still to come.
        """
        if not self.registrations.get(batch_id):
            return Announcements({}, (), True, {}, frozenset())
        bases = set(self._reachable(batch_id, early_grace))
        final = self._final_basis(batch_id)
        finals: list[str] = []
        if final is not None:
            bases.add(final)
            finals.append(final.identity(batch_id))
            if final.end is None:
                finals += self._final_instead(batch_id, bases)
        possible: dict[str, list[Announcement]] = defaultdict(list)
        for basis in bases:
            for content in self._results_ready(batch_id, basis):
                if content not in possible[basis.identity(batch_id)]:
                    possible[basis.identity(batch_id)].append(content)
        return Announcements(
            dict(possible),
            tuple(finals),
            len(possible) <= len(finals[:1]),
            self._assessments(batch_id),
            self._certain_assessments(batch_id),
        )

    def _final_instead(self, batch_id: str, bases: set[Basis]) -> list[str]:
        """Once a pipeline's end has been announced by itself, its outcomes announce nothing more."""
        last = _latest(self.ends.get(batch_id, ()))
        if last is None or any(_is_later(outcome, than=last) for outcome in self.outcomes.get(batch_id, ())):
            return []
        return list({basis.identity(batch_id) for basis in bases if basis.end is not None and basis.end.id == last.id})

    def _reachable(self, batch_id: str, early_grace: bool) -> Iterator[Basis]:
        """The bases of all announcements that some order of arrival leads to.

        Any part of the outcomes and ends may have arrived, with all, some or none of the essays' results, and an essay
        may have been in any batch that is named for it.
        """
        outcomes, ends = self.outcomes.get(batch_id, []), self.ends.get(batch_id, [])
        may_have_failed = (False, True) if self._anything_failed(batch_id) else (False,)
        requests = [registration.data.get("requested_pipelines") for registration in self.registrations[batch_id]]
        for some_outcomes, some_ends, requested in product(_subsets(outcomes), _subsets(ends), requests):
            winners = _winners(some_outcomes)
            matter = self.phases_that_matter(winners, some_ends, requested)
            known = [outcome for phase, outcome in winners.items() if phase in matter]
            results_in = {all(self._may_wait_for_nobody(batch_id, outcome) for outcome in known)}
            if any(_processed(outcome) for outcome in known if outcome.data["phase_name"] != "student_matching"):
                results_in.add(False)
            for are_in, any_failed in product(results_in, may_have_failed):
                basis = _basis(winners, some_ends, matter, are_in, any_failed, grace=early_grace)
                if basis is not None:
                    yield basis

    def _anything_failed(self, batch_id: str) -> bool:
        if any(outcome.data["failed_essay_ids"] for outcome in self.outcomes.get(batch_id, ())):
            return True
        if any(word.topic == CJ_FAILED for word in self.cj_words.get(batch_id, ())):
            return True
        return any(
            result.failure
            for essay in self._named[batch_id]
            for phase in PHASES
            for result in self.results.get((essay, phase), ())
        )

    def _results_ready(self, batch_id: str, basis: Basis) -> Iterator[Announcement]:
        """The announcement's content, once for each registration that may have been the latest by then."""
        latest = basis.end or _latest(basis.outcomes)
        assert latest is not None
        lists = [set(_processed(outcome)) for outcome in basis.outcomes]
        if basis.outcome_missing:
            assert basis.end is not None
            completed_essays = basis.end.data.get("successful_essay_count")
        else:
            completed_essays = len(set.intersection(*lists))
        registrations = self.registrations[batch_id]
        for registration, first in product(registrations, registrations):
            created_at = first.time
            phase_results, previous = {}, created_at
            for outcome in sorted(basis.outcomes, key=lambda outcome: outcome.clock):
                phase_results[outcome.data["phase_name"]] = {
                    "phase_name": outcome.data["phase_name"],
                    "status": outcome.data["phase_status"],
                    "completed_count": len(set(_processed(outcome))),
                    "failed_count": len(set(outcome.data["failed_essay_ids"])),
                    "processing_time_seconds": _seconds(previous, outcome.time),
                }
                previous = outcome.time
            yield self._domain_event(
                RESULTS_READY,
                basis.identity(batch_id),
                latest,
                "batch.results.ready",
                batch_id,
                basis.status,
                {
                    "user_id": registration.data["user_id"],
                    "total_essays": registration.data["expected_essay_count"],
                    "completed_essays": completed_essays,
                    "phase_results": phase_results,
                    "overall_status": basis.status,
                    "processing_duration_seconds": _seconds(created_at, latest.time),
                },
            )

    def _assessments(self, batch_id: str) -> dict[str, list[Announcement]]:
        """By identity, each with the contents of all the job's messages: whichever is folded first is announced."""
        contents: dict[str, list[Announcement]] = defaultdict(list)
        listed = {essay for event in self.registrations[batch_id] for essay in event.data["essay_ids"]}
        of_batch = set(self.members.get(batch_id, ()))
        for word in self.cj_words.get(batch_id, ()):
            identity = _identity("assessment", batch_id, str(word.data.get("cj_assessment_job_id")))
            if word.topic == CJ_RICH:
                rankings = [[_rich_ranking(entry) for entry in _ranked(word)]]
            elif word.topic == CJ_COMPLETED:
                entries = _ranked(word)
                rankings = [
                    [_older_ranking(entry) for entry in entries if entry["els_essay_id"] in known]
                    for known in (of_batch, of_batch & listed, of_batch | listed)
                ]
            else:
                continue
            for user_id, summary in product({e.data["user_id"] for e in self.registrations[batch_id]}, rankings):
                content = self._domain_event(
                    ASSESSMENT_COMPLETED,
                    identity,
                    word,
                    "batch.assessment.completed",
                    batch_id,
                    "completed_successfully",
                    {
                        "user_id": user_id,
                        "assessment_job_id": word.data["cj_assessment_job_id"],
                        "rankings_summary": summary,
                    },
                )
                if summary and content not in contents[identity]:
                    contents[identity].append(content)
        return {identity: each for identity, each in contents.items() if each}

    def _certain_assessments(self, batch_id: str) -> frozenset[str]:
        """Those that every order of arrival leads to: a message of the job ranks an essay of the batch in the end."""
        of_batch, anchors = set(self.members.get(batch_id, ())), self.anchors.get(batch_id, set())
        certain: set[str] = set()
        for word in self.cj_words.get(batch_id, ()):
            if word.topic == CJ_RICH:
                sure = any(entry["essay_id"] not in anchors for entry in _ranked(word))
            else:
                sure = any(entry["els_essay_id"] in of_batch for entry in _ranked(word))
            if sure:
                certain.add(_identity("assessment", batch_id, str(word.data.get("cj_assessment_job_id"))))
        return frozenset(certain)

    def _domain_event(
        self, topic: str, event_id: str, source: Event, name: str, batch_id: str, status: str, payload: Json
    ) -> Announcement:
        """An announcement in its envelope; times, correlation and trace are those of its latest message."""
        unsuccessful = status in ("failed_critically", "cancelled")
        envelope: Json = {
            "event_id": event_id,
            "event_type": topic,
            "event_timestamp": source.time,
            "source_service": self.service_name,
            "schema_version": 1,
            "correlation_id": source.correlation_id,
            "data_schema_uri": None,
            "data": {
                "event_name": name,
                "entity_id": batch_id,
                "entity_type": "batch",
                "parent_id": None,
                "timestamp": source.time,
                "status": status,
                "system_metadata": {
                    "entity_id": batch_id,
                    "entity_type": "batch",
                    "parent_id": None,
                    "timestamp": source.time,
                    # The samples show "completed"; the rules do not say what a failed batch's is.
                    "processing_stage": Either(("completed", "failed", "cancelled")) if unsuccessful else "completed",
                    "started_at": None,
                    "completed_at": None,
                    "event": name,
                    "error_info": {},
                },
                "batch_id": batch_id,
                **payload,
            },
            "metadata": Either((None, Holding({"traceparent": source.traceparent}))),
        }
        return Announcement(topic, payload["user_id"], envelope, source.traceparent)

    def notification_of(self, domain_event: Json) -> Json:
        """The notification that goes with a published domain event (given as published)."""
        data = domain_event["data"]
        batch_id = data["batch_id"]
        class_ids = {event.data.get("class_id") for event in self.registrations[batch_id]}
        if domain_event["event_type"] == RESULTS_READY:
            kind, priority, action_required = "batch_results_ready", "immediate", True
            done, total = data["completed_essays"], data["total_essays"]
            payload = {
                "batch_id": batch_id,
                "total_essays": total,
                "completed_essays": done,
                "overall_status": data["overall_status"],
                "processing_duration_seconds": data["processing_duration_seconds"],
                "message": f"Batch {batch_id} processing complete. {done}/{total} essays processed successfully.",
                "phase_summaries": {
                    phase: {name: value for name, value in result.items() if name != "phase_name"}
                    for phase, result in data["phase_results"].items()
                },
            }
        else:
            kind, priority, action_required = "batch_assessment_completed", "standard", False
            payload = {
                "batch_id": batch_id,
                "assessment_job_id": data["assessment_job_id"],
                "message": f"Comparative judgment assessment completed for batch {batch_id}",
                "rankings_available": True,
                "rankings_count": len(data["rankings_summary"]),
            }
        return {
            "event_id": _identity("notification", domain_event["event_id"]),
            "event_type": NOTIFICATION,
            "event_timestamp": domain_event["event_timestamp"],
            "source_service": self.service_name,
            "schema_version": 1,
            "correlation_id": domain_event["correlation_id"],
            "data_schema_uri": None,
            "data": {
                "teacher_id": data["user_id"],
                "notification_type": kind,
                "category": "processing_results",
                "priority": priority,
                "payload": payload,
                "action_required": action_required,
                "deadline_timestamp": None,
                "correlation_id": domain_event["correlation_id"],
                "batch_id": batch_id,
                "class_id": Either(tuple(class_ids)),
                "timestamp": domain_event["event_timestamp"],
            },
            "metadata": domain_event["metadata"],
        }


#: What each phase's result shows of an essay, while the essay's status in the phase is completed.
_SHOWN: dict[str, tuple[str, ...]] = {
    "spellcheck": (
        "spellcheck_correction_count",
        "spellcheck_corrected_text_storage_id",
        "spellcheck_metrics",
    ),
    "cj_assessment": (
        "cj_rank",
        "cj_score",
        "cj_comparison_count",
        "cj_letter_grade",
        "cj_normalized_score",
        "cj_confidence_score",
        "cj_confidence_label",
    ),
    "nlp": ("nlp_lexical_diversity_score", "nlp_cohesion_score", "nlp_grammatical_error_rate", "nlp_metrics"),
    "ai_feedback": ("ai_feedback_storage_id", "ai_feedback_details"),
}


def _subsets(events: Sequence[Event]) -> list[tuple[Event, ...]]:
    return [subset for size in range(len(events) + 1) for subset in combinations(events, size)]


def _winners(outcomes: Iterable[Event]) -> dict[str, Event]:
    winners: dict[str, Event] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.clock):
        winners[outcome.data["phase_name"]] = outcome
    return winners


def _basis(
    outcomes: dict[str, Event],
    ends: Sequence[Event],
    matter: set[str],
    results_in: bool,
    any_failed: bool,
    *,
    grace: bool,
) -> Basis | None:
    """Whether a batch with these outcomes and ends is finished, as what, and what its announcement rests on."""
    known = [outcome for phase, outcome in outcomes.items() if phase in matter]
    complete = len(known) == len(matter) and results_in
    critical = [outcome for outcome in known if outcome.data["phase_status"] == "failed_critically"]
    last = _latest(ends)
    end_has_last_word = last is not None and not any(_is_later(outcome, than=last) for outcome in outcomes.values())
    broken_off = (
        last is not None and end_has_last_word and last.data["final_status"] in ("failed_critically", "cancelled")
    )
    if not (complete or critical or broken_off or (grace and last is not None)):
        return None

    if last is not None and end_has_last_word:
        status = str(last.data["final_status"])
    elif critical:
        status = "failed_critically"
    elif any_failed or any(outcome.data["phase_status"] == "completed_with_failures" for outcome in known):
        status = "completed_with_failures"
    else:
        status = "completed_successfully"

    if status == "failed_critically" and critical:
        return Basis(status, (min(critical, key=lambda outcome: outcome.clock),))
    in_order = tuple(sorted(known, key=lambda outcome: outcome.clock))
    if complete:
        return Basis(status, in_order)
    return Basis(status, in_order, last, outcome_missing=len(known) < len(matter))


def _error_detail(failure: Failure | None) -> object:
    members: Json = {name: Anything() for name in ("correlation_id", "timestamp", "service", "operation", "details")}
    members["error_code"] = failure.code if failure and failure.code else Anything()
    members["message"] = failure.message if failure and failure.message else Anything()
    return Holding(members)


def _ranked(word: Event) -> list[Json]:
    """The entries of a message of either form that rank or score somebody, but for the rich form's anchors."""
    if word.topic == CJ_RICH:
        entries, score = [entry for entry in word.data["essay_results"] if not entry.get("is_anchor")], "bt_score"
    else:
        entries, score = word.data.get("rankings") or [], "score"
    return [entry for entry in entries if entry.get("rank") is not None or entry.get(score) is not None]


def _rich_ranking(entry: Json) -> Json:
    return {
        "essay_id": entry["essay_id"],
        "rank": entry.get("rank"),
        "score": entry.get("bt_score"),
        "letter_grade": entry.get("letter_grade"),
        "confidence_score": entry.get("confidence_score"),
        "confidence_label": entry.get("confidence_label"),
    }


def _older_ranking(entry: Json) -> Json:
    return {
        "essay_id": entry["els_essay_id"],
        "rank": entry.get("rank"),
        "score": entry.get("score"),
        "letter_grade": None,
        "confidence_score": None,
        "confidence_label": None,
    }
