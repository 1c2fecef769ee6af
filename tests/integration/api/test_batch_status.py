"""The answer about one batch, as the sample messages make it."""

import httpx

from tests.integration.api.read_model import ReadModel
from tests.samples import CONSUMED_NAMES
from tests.unit.domain import messages as say

BATCH = "b7e6c1f2-3a44-4d0c-9b61-6f1f2a7f9d10"


async def test_x(client: httpx.AsyncClient, read_model: ReadModel) -> None:
    names = [
        "batch_essays_registered","essay_slot_assigned","spellcheck_completed","spellcheck_results",
        "spellcheck_completed.failed","els_batch_phase_outcome.spellcheck","essay_nlp_completed","cj_assessment_completed",
        "assessment_result_published","essay_aifeedback_completed","els_batch_phase_outcome.cj_assessment","batch_pipeline_completed"]
    await read_model.tell(*map(say.sample, names))
    answer = await client.get(f"/internal/v1/batches/{BATCH}/status")
    import json
    print(answer.status_code, dict(answer.headers), json.dumps(answer.json(), indent=1))
    for p in ("/internal/v1/batches/user/teacher-4711", "/internal/v1/batches/nope/status", "/nope", "/livez","/readyz","/healthz","/metrics"):
        answer = await client.get(p)
        print(p, answer.status_code, dict(answer.headers), answer.text[:300])
    assert 0
