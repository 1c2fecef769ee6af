"""The answer about one batch: every field of it, as the sample messages make it."""

import asyncio
from typing import Any

import httpx
from dishka import AsyncContainer

from result_aggregator_service.observability.metrics import Metrics
from tests.integration.api.read_model import ReadModel
from tests.unit.domain import messages as say

BATCH = "b7e6c1f2-3a44-4d0c-9b61-6f1f2a7f9d10"
CORRELATION = "0b1aab4b-4a25-5d2b-9760-2b1ee722d445"
PATH = f"/internal/v1/batches/{BATCH}/status"

SUCCESSFUL_BATCH = (
    "batch_essays_registered",
    "essay_slot_assigned",
    "spellcheck_completed",
    "spellcheck_results",
    "spellcheck_completed.failed",
    "els_batch_phase_outcome.spellcheck",
    "essay_nlp_completed",
    "cj_assessment_completed",
    "assessment_result_published",
    "essay_aifeedback_completed",
    "els_batch_phase_outcome.cj_assessment",
    "batch_pipeline_completed",
)

NOTHING_OF_NLP = {
    "nlp_status": None,
    "nlp_completed_at": None,
    "nlp_error": None,
    "nlp_error_detail": None,
    "nlp_lexical_diversity_score": None,
    "nlp_cohesion_score": None,
    "nlp_grammatical_error_rate": None,
    "nlp_metrics": None,
}
NOTHING_OF_FEEDBACK = {
    "ai_feedback_status": None,
    "ai_feedback_completed_at": None,
    "ai_feedback_error": None,
    "ai_feedback_error_detail": None,
    "ai_feedback_storage_id": None,
    "ai_feedback_details": None,
}


async def answer(client: httpx.AsyncClient) -> dict[str, Any]:
    response = await client.get(PATH)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    document: dict[str, Any] = response.json()
    return document


async def test_every_field_of_the_batch(client: httpx.AsyncClient, read_model: ReadModel) -> None:
    await read_model.tell(*map(say.sample, SUCCESSFUL_BATCH))
    batch = await answer(client)
    essays = batch.pop("essays")
    assert [essay["essay_id"] for essay in essays] == ["essay-1-ad0f7d6b", "essay-2-76cb3571", "essay-3-fdb338f9"]
    assert batch == {
        "batch_id": BATCH,
        "user_id": "teacher-4711",
        "org_id": None,
        "class_id": "class-9b",
        "course_code": "ENG5",
        "assignment_id": "assignment-2026-spring-3",
        "overall_status": "completed_with_failures",
        "client_status": "completed_with_failures",
        "essay_count": 3,
        "completed_essay_count": 2,
        "failed_essay_count": 1,
        "error_count": 1,
        "error_detail": None,
        "requested_pipeline": None,
        "current_phase": None,
        "phases": {
            "spellcheck": {
                "status": "completed_with_failures",
                "completed_count": 2,
                "failed_count": 1,
                "first_result_at": "2026-03-02T08:03:00.000000Z",
                "last_result_at": "2026-03-02T08:04:00.000000Z",
                "completed_at": "2026-03-02T08:05:00.000000Z",
                "processing_time_seconds": 298.99988,
            },
            "nlp": {
                "status": "processing_pipelines",
                "completed_count": 1,
                "failed_count": 0,
                "first_result_at": "2026-03-02T08:08:00.000000Z",
                "last_result_at": "2026-03-02T08:08:00.000000Z",
                "completed_at": None,
                "processing_time_seconds": None,
            },
            "ai_feedback": {
                "status": "processing_pipelines",
                "completed_count": 1,
                "failed_count": 0,
                "first_result_at": "2026-03-02T08:19:00.000000Z",
                "last_result_at": "2026-03-02T08:19:00.000000Z",
                "completed_at": None,
                "processing_time_seconds": None,
            },
            "cj_assessment": {
                "status": "completed_successfully",
                "completed_count": 2,
                "failed_count": 0,
                "first_result_at": "2026-03-02T08:18:01.000000Z",
                "last_result_at": "2026-03-02T08:18:01.000000Z",
                "completed_at": "2026-03-02T08:20:00.000000Z",
                "processing_time_seconds": 900.0,
            },
        },
        "student_prompt_ref": {"references": {"student_prompt_text": {"storage_id": "prompt-77", "path": ""}}},
        "created_at": "2026-03-02T08:00:01.000120Z",
        "last_updated": "2026-03-02T08:21:00.000000Z",
        "processing_started_at": "2026-03-02T08:03:00.000000Z",
        "processing_completed_at": "2026-03-02T08:21:00.000000Z",
    }


async def test_every_field_of_an_essay_with_results_in_all_phases(
    client: httpx.AsyncClient, read_model: ReadModel
) -> None:
    await read_model.tell(*map(say.sample, SUCCESSFUL_BATCH))
    essay = (await answer(client))["essays"][0]
    metrics = essay.pop("nlp_metrics")
    assert (metrics["word_count"], metrics["clausal_indices"]) == (398, {"clauses_per_sentence": 1.9})
    assert len(metrics) == 18
    assert essay == {
        "essay_id": "essay-1-ad0f7d6b",
        "filename": "Åsa Öberg – essay.docx",
        "file_upload_id": "upload-01",
        "original_text_storage_id": "text-01",
        "last_updated": "2026-03-02T08:20:00.000000Z",
        "spellcheck_status": "completed",
        "spellcheck_completed_at": "2026-03-02T08:03:00.000000Z",
        "spellcheck_error": None,
        "spellcheck_error_detail": None,
        "spellcheck_correction_count": 14,
        "spellcheck_corrected_text_storage_id": "corrected-01",
        "spellcheck_metrics": None,
        "cj_assessment_status": "completed",
        "cj_assessment_completed_at": "2026-03-02T08:18:01.000000Z",
        "cj_assessment_error": None,
        "cj_assessment_error_detail": None,
        "cj_rank": 1,
        "cj_score": 0.8125,
        "cj_comparison_count": 66,
        "cj_letter_grade": "A-",
        "cj_normalized_score": 0.91,
        "cj_confidence_score": 0.83,
        "cj_confidence_label": "HIGH",
        "nlp_status": "completed",
        "nlp_completed_at": "2026-03-02T08:08:00.000000Z",
        "nlp_error": None,
        "nlp_error_detail": None,
        "nlp_lexical_diversity_score": 74.1,
        "nlp_cohesion_score": 0.44,
        "nlp_grammatical_error_rate": 100 / 398,
        "ai_feedback_status": "completed",
        "ai_feedback_completed_at": "2026-03-02T08:19:00.000000Z",
        "ai_feedback_error": None,
        "ai_feedback_error_detail": None,
        "ai_feedback_storage_id": "feedback-01",
        "ai_feedback_details": {
            "model_version": "claude-sonnet",
            "generation_timestamp": "2026-03-02T08:19:00.000000Z",
            "feedback_type": "student_facing",
            "processing_time_seconds": 28.4,
            "additional_metrics": {"suggestions": 6},
        },
    }


async def test_every_field_of_an_essay_whose_spell_check_came_in_the_richer_form(
    client: httpx.AsyncClient, read_model: ReadModel
) -> None:
    await read_model.tell(*map(say.sample, SUCCESSFUL_BATCH))
    assert (await answer(client))["essays"][1] == {
        "essay_id": "essay-2-76cb3571",
        "filename": None,
        "file_upload_id": None,
        "original_text_storage_id": None,
        "last_updated": "2026-03-02T08:20:00.000000Z",
        "spellcheck_status": "completed",
        "spellcheck_completed_at": "2026-03-02T08:03:30.000000Z",
        "spellcheck_error": None,
        "spellcheck_error_detail": None,
        "spellcheck_correction_count": 9,
        "spellcheck_corrected_text_storage_id": "corrected-02",
        "spellcheck_metrics": {
            "total_corrections": 9,
            "l2_dictionary_corrections": 4,
            "spellchecker_corrections": 5,
            "word_count": 412,
            "correction_density": 2.18,
            "processing_duration_ms": 840,
            "processor_version": "pyspellchecker_1.0_L2_swedish",
        },
        "cj_assessment_status": "completed",
        "cj_assessment_completed_at": "2026-03-02T08:18:01.000000Z",
        "cj_assessment_error": None,
        "cj_assessment_error_detail": None,
        "cj_rank": 3,
        "cj_score": -0.4375,
        "cj_comparison_count": 66,
        "cj_letter_grade": "C",
        "cj_normalized_score": 0.42,
        "cj_confidence_score": 0.61,
        "cj_confidence_label": "MID",
        **NOTHING_OF_NLP,
        **NOTHING_OF_FEEDBACK,
    }


async def test_every_field_of_an_essay_that_failed(client: httpx.AsyncClient, read_model: ReadModel) -> None:
    await read_model.tell(*map(say.sample, SUCCESSFUL_BATCH))
    assert (await answer(client))["essays"][2] == {
        "essay_id": "essay-3-fdb338f9",
        "filename": None,
        "file_upload_id": None,
        "original_text_storage_id": None,
        "last_updated": "2026-03-02T08:05:00.000000Z",
        "spellcheck_status": "failed",
        # The outcome, which is later and lists the essay as failed, decided it; the essay keeps its own error.
        "spellcheck_completed_at": "2026-03-02T08:05:00.000000Z",
        "spellcheck_error": "SPELLCHECK_SERVICE_ERROR: Content Service returned 404 for text-03",
        "spellcheck_error_detail": {
            "error_code": "SPELLCHECK_SERVICE_ERROR",
            "message": "Content Service returned 404 for text-03",
            "correlation_id": CORRELATION,
            "timestamp": "2026-03-02T08:04:00.000000Z",
            "service": "spellchecker_service",
            "operation": "spellcheck",
            "details": {"error_type": "ContentServiceError", "storage_id": "text-03"},
        },
        "spellcheck_correction_count": None,
        "spellcheck_corrected_text_storage_id": None,
        "spellcheck_metrics": None,
        "cj_assessment_status": None,
        "cj_assessment_completed_at": None,
        "cj_assessment_error": None,
        "cj_assessment_error_detail": None,
        "cj_rank": None,
        "cj_score": None,
        "cj_comparison_count": None,
        "cj_letter_grade": None,
        "cj_normalized_score": None,
        "cj_confidence_score": None,
        "cj_confidence_label": None,
        **NOTHING_OF_NLP,
        **NOTHING_OF_FEEDBACK,
    }


async def test_a_batch_whose_assessment_failed_shows_why(client: httpx.AsyncClient, read_model: ReadModel) -> None:
    failed = ("batch_essays_registered", "cj_assessment_failed", "els_batch_phase_outcome.failed_critically")
    await read_model.tell(*map(say.sample, failed))
    batch = await answer(client)
    assert batch["overall_status"] == "failed_critically"
    assert batch["client_status"] == "failed"
    assert batch["error_detail"] == {
        "error_code": "CJ_LLM_PROVIDER_ERROR",
        "message": "LLM provider exhausted its retries",
        "correlation_id": CORRELATION,
        "timestamp": "2026-03-02T08:18:00.000000Z",
        "service": "cj_assessment_service",
        "operation": "cj_assessment",
        "details": {"error_type": "LLMProviderError"},
    }
    essay = batch["essays"][0]
    assert essay["cj_assessment_status"] == "failed"
    assert essay["cj_assessment_error"] == "CJ_LLM_PROVIDER_ERROR: LLM provider exhausted its retries"


async def test_a_batch_is_not_there_before_its_registration(client: httpx.AsyncClient, read_model: ReadModel) -> None:
    await read_model.tell(*map(say.sample, SUCCESSFUL_BATCH[1:]))
    response = await client.get(PATH)
    assert response.status_code == 404
    assert response.json()["error"] == "batch_not_found"
    await read_model.tell(say.sample(SUCCESSFUL_BATCH[0]))
    assert (await answer(client))["completed_essay_count"] == 2


async def test_a_batch_nobody_ever_spoke_of_is_not_found(client: httpx.AsyncClient) -> None:
    response = await client.get("/internal/v1/batches/unknown/status")
    assert response.status_code == 404
    assert response.json()["details"] == {"batch_id": "unknown"}


async def test_a_batch_of_many_essays_is_answered_whole(client: httpx.AsyncClient, read_model: ReadModel) -> None:
    essays = [f"e{number:04}" for number in range(1500)]
    await read_model.tell(say.registered(essays), *(say.spellcheck(essay) for essay in essays))
    response = await client.get("/internal/v1/batches/b/status")
    assert [essay["essay_id"] for essay in response.json()["essays"]] == essays


async def test_batches_that_are_asked_for_at_once_are_read_together_and_each_gets_its_own_answer(
    client: httpx.AsyncClient, read_model: ReadModel, container: AsyncContainer
) -> None:
    batch_ids = [f"b{number}" for number in range(10)]
    await read_model.tell(*(say.registered([f"essay of {batch_id}"], batch_id) for batch_id in batch_ids))
    paths = [f"/internal/v1/batches/{batch_id}/status" for batch_id in ("nowhere", *batch_ids)]
    unknown, *found = await asyncio.gather(*map(client.get, paths))
    assert unknown.status_code == 404
    shown = [(batch["batch_id"], batch["essays"][0]["essay_id"]) for batch in (answer.json() for answer in found)]
    assert shown == [(batch_id, f"essay of {batch_id}") for batch_id in batch_ids]
    read = {"operation": "read_batch", "status": "success"}
    metrics = await container.get(Metrics)
    # Eight by one statement, and three by another; on a busy machine they may come in more than one turn.
    assert 2 <= (metrics.registry.get_sample_value("ras_db_operations_total", read) or 0) <= 5
