"""The topic table: which payload each topic carries. A new kind of event gets its line here."""

from typing import Any

from pydantic import BaseModel

from result_aggregator_service.contracts import consumed, published

BATCH_ESSAYS_REGISTERED = "huleedu.batch.essays.registered.v1"
ESSAY_SLOT_ASSIGNED = "huleedu.els.essay.slot.assigned.v1"
BATCH_PHASE_OUTCOME = "huleedu.els.batch.phase.outcome.v1"
SPELLCHECK_COMPLETED = "huleedu.essay.spellcheck.completed.v1"
SPELLCHECK_RESULTS = "huleedu.essay.spellcheck.results.v1"
CJ_ASSESSMENT_COMPLETED = "huleedu.cj_assessment.completed.v1"
CJ_ASSESSMENT_FAILED = "huleedu.cj_assessment.failed.v1"
ASSESSMENT_RESULT_PUBLISHED = "huleedu.assessment.result.published.v1"
BATCH_PIPELINE_COMPLETED = "huleedu.batch.pipeline.completed.v1"
ESSAY_NLP_COMPLETED = "huleedu.essay.nlp.completed.v1"
ESSAY_AIFEEDBACK_COMPLETED = "huleedu.essay.aifeedback.completed.v1"

CONSUMED: dict[str, type[Any]] = {
    BATCH_ESSAYS_REGISTERED: consumed.BatchEssaysRegistered,
    ESSAY_SLOT_ASSIGNED: consumed.EssaySlotAssigned,
    BATCH_PHASE_OUTCOME: consumed.BatchPhaseOutcome,
    SPELLCHECK_COMPLETED: consumed.SpellcheckCompleted,
    SPELLCHECK_RESULTS: consumed.SpellcheckResult,
    CJ_ASSESSMENT_COMPLETED: consumed.CJAssessmentCompleted,
    CJ_ASSESSMENT_FAILED: consumed.CJAssessmentFailed,
    ASSESSMENT_RESULT_PUBLISHED: consumed.AssessmentResult,
    BATCH_PIPELINE_COMPLETED: consumed.BatchPipelineCompleted,
    ESSAY_NLP_COMPLETED: consumed.EssayNlpCompleted,
    ESSAY_AIFEEDBACK_COMPLETED: consumed.AIFeedbackResult,
}

BATCH_RESULTS_READY = "huleedu.ras.batch.results.ready.v1"
BATCH_ASSESSMENT_COMPLETED = "huleedu.ras.batch.assessment.completed.v1"
TEACHER_NOTIFICATION_REQUESTED = "huleedu.notification.teacher.requested.v1"

PUBLISHED: dict[str, type[BaseModel]] = {
    BATCH_RESULTS_READY: published.BatchResultsReady,
    BATCH_ASSESSMENT_COMPLETED: published.BatchAssessmentCompleted,
    TEACHER_NOTIFICATION_REQUESTED: published.TeacherNotificationRequested,
}

#: The field of a published payload whose value is the message's key on Kafka (specification, section 3).
KEY_FIELDS: dict[str, str] = {
    BATCH_RESULTS_READY: "batch_id",
    BATCH_ASSESSMENT_COMPLETED: "batch_id",
    TEACHER_NOTIFICATION_REQUESTED: "teacher_id",
}
