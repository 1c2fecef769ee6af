"""Which hard cases a history holds, told from its messages alone: so that a test can say that they are really drawn."""

import itertools
from collections.abc import Sequence

from result_aggregator_service.contracts import topics
from result_aggregator_service.contracts.enums import ProcessingStage
from result_aggregator_service.domain.batch import FinishedBy
from result_aggregator_service.domain.event import Event
from result_aggregator_service.domain.facets import Listing, Placement
from result_aggregator_service.domain.fold import fold, stage
from tests.unit.domain.messages import CANCELLED, CRITICAL, EXPECTED
from tests.unit.domain.model import ReadModel

HARD_CASES = frozenset(
    {
        "both forms of a spell check of one essay",
        "both forms of a CJ job's rankings",
        "a form of a CJ job's rankings twice",
        "a thin form that lists failures",
        "a CJ failure",
        "a rerun of a phase",
        "a correction of an equal time",
        "a correction of an earlier time, sent later",
        "a partial pipeline",
        "a second pipeline",
        "a phase that failed critically",
        "a phase that was cancelled",
        "a pipeline that failed critically",
        "a pipeline that was cancelled",
        "an essay that failed early and was never heard of again",
        "an essay that an outcome alone calls failed",
        "results before their registration",
        "a batch that nobody registers",
        "registrations by two owners",
        "registrations with two lists",
        "registrations with two requests",
        "an essay claimed by two batches",
        "an essay that an outcome lists, and that is in another batch in the end",
        "a result that names no batch",
        "an anchor",
        "two jobs of one batch",
        *(f"finished by {finished_by}" for finished_by in FinishedBy),
    }
)


def hard_cases_in(history: Sequence[Event]) -> set[str]:
    """Those of `HARD_CASES` that a history holds."""
    return {*_of_facts(history), *_of_registrations(history), *_of_phases(history), *_of_essays(history)} | {
        f"finished by {view.finished_by}" for view in _settled(history).views().values() if view.finished_by
    }


def _settled(history: Sequence[Event]) -> ReadModel:
    model = ReadModel()
    model.poll(*history)
    model.run_grace()
    return model


def _of_facts(history: Sequence[Event]) -> set[str]:
    """Messages that speak of the same fact."""
    found: set[str] = set()
    stated: dict[object, list[Event]] = {}
    for event in history:
        facts = fold([event])
        for key in (
            *((owner, kind) for owner, row in [*facts.batches.items(), *facts.essays.items()] for kind in row.facets),
            *facts.outcomes,
        ):
            if key[1] not in (Placement, Listing):
                stated.setdefault(key, []).append(event)
    for events in stated.values():
        for sooner, later in itertools.combinations(events, 2):
            if sooner.clock.at == later.clock.at:
                found.add("a correction of an equal time")
            if sooner.clock.at > later.clock.at:
                found.add("a correction of an earlier time, sent later")
            if later.topic == topics.BATCH_PHASE_OUTCOME and sooner.clock.at < later.clock.at:
                found.add("a rerun of a phase")
    return found


def _of_registrations(history: Sequence[Event]) -> set[str]:
    found: set[str] = set()
    facts = fold(history)
    first: dict[str, Event] = {}
    listed_by: dict[str, set[str]] = {}
    for event in history:
        if event.topic == topics.BATCH_ESSAYS_REGISTERED:
            payload = event.payload
            for essay in payload["essay_ids"]:
                listed_by.setdefault(essay, set()).add(payload["entity_id"])
            known = first.setdefault(payload["entity_id"], event).payload
            if known["user_id"] != payload["user_id"]:
                found.add("registrations by two owners")
            if known["essay_ids"] != payload["essay_ids"]:
                found.add("registrations with two lists")
            if known["requested_pipelines"] != payload["requested_pipelines"]:
                found.add("registrations with two requests")
        for essay, row in fold([event]).essays.items():
            placement = row.facets.get(Placement)
            if isinstance(placement, Placement):
                listed_by.setdefault(essay, set()).add(placement.batch_id)
    if any(len(batches) > 1 for batches in listed_by.values()):
        found.add("an essay claimed by two batches")
    for batch in facts.batches.values():
        if batch.created_at is None:
            found.add("a batch that nobody registers")
        elif batch.started_at is not None and batch.started_at < batch.created_at:
            found.add("results before their registration")
    return found


def _of_phases(history: Sequence[Event]) -> set[str]:
    found: set[str] = set()
    ends: dict[str, set[frozenset[str]]] = {}
    for event in history:
        match event.topic, event.payload:
            case topics.BATCH_PHASE_OUTCOME, {"phase_status": status} if status is CRITICAL:
                found.add("a phase that failed critically")
            case topics.BATCH_PHASE_OUTCOME, {"phase_status": status} if status is CANCELLED:
                found.add("a phase that was cancelled")
            case (
                topics.BATCH_PIPELINE_COMPLETED,
                {"batch_id": batch_id, "completed_phases": phases, "final_status": status},
            ):
                ends.setdefault(batch_id, set()).add(frozenset(phases))
                if status is CRITICAL:
                    found.add("a pipeline that failed critically")
                if status is CANCELLED:
                    found.add("a pipeline that was cancelled")
                if phases and set(phases) < set(EXPECTED):
                    found.add("a partial pipeline")
    if any(len(phases) > 1 for phases in ends.values()):
        found.add("a second pipeline")
    return found


def _of_essays(history: Sequence[Event]) -> set[str]:
    found: set[str] = set()
    forms: dict[str, set[str]] = {}
    jobs: dict[str, dict[str, list[bool]]] = {}
    failed_early: set[str] = set()
    listed_failed: set[str] = set()
    for event in history:
        match event.topic, event.payload:
            case topics.SPELLCHECK_COMPLETED, {"system_metadata": about, "status": status}:
                forms.setdefault(about["entity_id"], set()).add(event.topic)
                if about["parent_id"] is None:
                    found.add("a result that names no batch")
                if stage(status) is ProcessingStage.FAILED:
                    failed_early.add(about["entity_id"])
            case topics.SPELLCHECK_RESULTS, {"entity_id": essay, "status": status}:
                forms.setdefault(essay, set()).add(event.topic)
                if stage(status) is ProcessingStage.FAILED:
                    failed_early.add(essay)
            case topics.CJ_ASSESSMENT_COMPLETED, {"processing_summary": {"failed_essay_ids": [_, *_]}}:
                found.add("a thin form that lists failures")
            case topics.CJ_ASSESSMENT_FAILED, _:
                found.add("a CJ failure")
            case topics.ASSESSMENT_RESULT_PUBLISHED, {"essay_results": results}:
                if any(result.get("is_anchor") for result in results):
                    found.add("an anchor")
            case topics.BATCH_PHASE_OUTCOME, {"failed_essay_ids": failed}:
                listed_failed.update(failed)
            case topics.ESSAY_NLP_COMPLETED, {"parent_id": None}:
                found.add("a result that names no batch")
    facts = fold(history)
    for assessment in facts.assessments.values():
        jobs.setdefault(assessment.batch_id, {}).setdefault(assessment.job_id, []).append(assessment.graded)
    if any(len(kinds) > 1 for kinds in forms.values()):
        found.add("both forms of a spell check of one essay")
    forms_of_jobs = [graded for of_batch in jobs.values() for graded in of_batch.values()]
    if any(len(set(graded)) > 1 for graded in forms_of_jobs):
        found.add("both forms of a CJ job's rankings")
    if any(len(set(graded)) < len(graded) for graded in forms_of_jobs):
        found.add("a form of a CJ job's rankings twice")
    if any(len(of_batch) > 1 for of_batch in jobs.values()):
        found.add("two jobs of one batch")
    model = _settled(history)
    for (batch_id, _), outcome in facts.outcomes.items():
        if any(model.essay(essay).batch_id != batch_id for essay in outcome.processed_essay_ids):
            found.add("an essay that an outcome lists, and that is in another batch in the end")
    for essay in listed_failed:
        known = model.essay(essay)
        if essay in failed_early and known.cj is None:
            found.add("an essay that failed early and was never heard of again")
        if known.spellcheck is None and known.cj is None:
            found.add("an essay that an outcome alone calls failed")
    return found
