"""Essays as the API shows them, put into JSON by PostgreSQL: of nearly all of them there is nothing to be decided.

It tells only of an essay whose results are all its own, and completed, or not there yet. What is shown of any other,
whose results failed, or that an outcome or the CJ service's failure speaks of, follows from its facts by the rules of
`domain.batch`. A property compares the two.
"""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import orjson

from result_aggregator_service.domain.batch import EssayFacts
from result_aggregator_service.domain.facets import (
    AIFeedbackResult,
    CJGrades,
    CJResult,
    EssayFile,
    NlpResult,
    SpellcheckMetrics,
    SpellcheckResult,
)
from result_aggregator_service.storage.stored_facts import essay_of

_FACETS = (EssayFile, SpellcheckResult, SpellcheckMetrics, CJResult, CJGrades, NlpResult, AIFeedbackResult)
_TIMES = ("heard_at", "started_at", *(f"{facet.PREFIX}_at" for facet in _FACETS))
_EVENT_IDS = tuple(f"{facet.PREFIX}_event_id" for facet in _FACETS)


def _time(column: str) -> str:
    """SQL for `contracts.fields.wire_time`."""
    form = r'YYYY-MM-DD"T"HH24\:MI\:SS.US"Z"'  # without the backslashes SQLAlchemy would look for parameters there
    return f"to_char({column} AT TIME ZONE 'UTC', '{form}')"


def _result(phase: str, own: str) -> dict[str, str]:
    """What is shown of every completed result, whose columns begin with `own`."""
    return {
        f"{phase}_status": f"{own}_status",
        f"{phase}_completed_at": _time(f"{own}_at"),
        f"{phase}_error": "NULL",
        f"{phase}_error_detail": "NULL",
    }


#: The fields of the API's `EssayDocument`, in its order, and SQL for each over a row of `essay_results`.
DOCUMENT: Mapping[str, str] = {
    "essay_id": "essay_id",
    "filename": "file_name",
    "file_upload_id": "file_upload_id",
    "original_text_storage_id": "file_text_storage_id",
    "last_updated": _time("heard_at"),
    **_result("spellcheck", "spellcheck"),
    "spellcheck_correction_count": "spellcheck_correction_count",
    "spellcheck_corrected_text_storage_id": "spellcheck_corrected_text_storage_id",
    "spellcheck_metrics": "spellcheck_metrics_values",
    **_result("cj_assessment", "cj"),
    "cj_rank": "cj_rank",
    "cj_score": "cj_score",
    "cj_comparison_count": "cj_grades_comparison_count",
    "cj_letter_grade": "cj_grades_letter_grade",
    "cj_normalized_score": "cj_grades_normalized_score",
    "cj_confidence_score": "cj_grades_confidence_score",
    "cj_confidence_label": "cj_grades_confidence_label",
    **_result("nlp", "nlp"),
    "nlp_lexical_diversity_score": "nlp_lexical_diversity_score",
    "nlp_cohesion_score": "nlp_cohesion_score",
    "nlp_grammatical_error_rate": "nlp_grammatical_error_rate",
    "nlp_metrics": "nlp_metrics",
    **_result("ai_feedback", "ai_feedback"),
    "ai_feedback_storage_id": "ai_feedback_storage_id",
    "ai_feedback_details": "ai_feedback_details",
}

# Grades are shown with a rank only, and may be there without one; metrics of a spell check never are.
_NOTHING_TO_DECIDE = """
    coalesce(spellcheck_status, 'completed') = 'completed' AND coalesce(cj_status, 'completed') = 'completed'
    AND coalesce(nlp_status, 'completed') = 'completed' AND coalesce(ai_feedback_status, 'completed') = 'completed'
    AND (cj_at IS NOT NULL OR (cj_grades_at IS NULL AND b.cj_verdict_error IS NULL))
    AND (batch_id, essay_id) NOT IN (
        SELECT o.batch_id, failed FROM phase_outcomes o, jsonb_array_elements_text(o.failed_essay_ids) AS failed
        WHERE o.batch_id {these}
    )
"""

#: SQL, after which `essays` are the members of the batch `b`, by id: `documents` as they are shown, null where that is
#: to be decided, and `undecided` the rows of these, as `facts_of` takes them. `{these}` is to be the condition for the
#: ids of all batches that are read: so lists are hashed once, and no plan compares every essay with every list.
JOIN_ESSAYS = f"""
CROSS JOIN LATERAL (
    SELECT array_agg(CASE WHEN decided THEN row_to_json(document)::text END) AS documents,
           array_agg(row_to_json(e)::text) FILTER (WHERE NOT decided) AS undecided
    FROM (
        SELECT *, {_NOTHING_TO_DECIDE} AS decided FROM essay_results
        WHERE batch_id = b.batch_id AND (batch_id, essay_id) NOT IN (
            SELECT a.batch_id, anchor FROM batch_results a, jsonb_array_elements_text(a.anchor_ids) AS anchor
            WHERE a.batch_id {{these}}
        )
        ORDER BY essay_id COLLATE "C"
    ) AS e
    CROSS JOIN LATERAL (SELECT {", ".join(f"{sql} AS {field}" for field, sql in DOCUMENT.items())}) AS document
) AS essays
"""


def facts_of(text: str) -> EssayFacts:
    """An essay's facts, of its row as PostgreSQL puts it into JSON."""
    row = orjson.loads(text)
    for names, read in ((_TIMES, datetime.fromisoformat), (_EVENT_IDS, UUID)):
        row |= {name: read(row[name]) for name in names if row[name] is not None}
    return essay_of(row)
