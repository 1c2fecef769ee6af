"""Reads what the service shows of itself over HTTP, as the API Gateway and Prometheus would."""

from collections import Counter
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
from prometheus_client.parser import text_string_to_metric_families

Json = dict[str, Any]

_TIMEOUT_SECONDS = 10.0
_PAGE = 20


class Observer:
    """A client of the service's API and metrics."""

    def __init__(self, api_url: str, api_key: str) -> None:
        self._http = httpx.Client(
            base_url=api_url,
            timeout=_TIMEOUT_SECONDS,
            trust_env=False,
            headers={"X-Internal-API-Key": api_key, "X-Service-ID": "api-gateway-service"},
        )

    def batch(self, batch_id: str) -> Json | None:
        """The answer about a batch; None for 404.

        Raises:
            httpx.HTTPError: any other answer than 200 or 404, or none.
        """
        answer = self._http.get(f"/internal/v1/batches/{quote(batch_id, safe='')}/status")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        answer.raise_for_status()
        found: Json = answer.json()
        return found

    def user(self, user_id: str, **query: str) -> tuple[list[str], set[int]]:
        """The ids of all batches of a user, page by page, and every total the pages named."""
        ids: list[str] = []
        totals: set[int] = set()
        while True:
            answer = self._http.get(
                f"/internal/v1/batches/user/{quote(user_id, safe='')}",
                params={"limit": str(_PAGE), "offset": str(len(ids)), **query},
            )
            answer.raise_for_status()
            page = answer.json()
            totals.add(page["pagination"]["total"])
            ids += [batch["batch_id"] for batch in page["batches"]]
            if not page["batches"] or len(ids) >= page["pagination"]["total"]:
                return ids, totals

    def quarantined(self) -> Counter[str]:
        """How many messages went to quarantine, by topic, since the service started."""
        found: Counter[str] = Counter()
        answer = self._http.get("/metrics")
        answer.raise_for_status()
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                if sample.name == "ras_invalid_messages_total":
                    found[sample.labels["topic"]] += int(sample.value)
        return found

    def is_ready(self) -> bool:
        """Whether the service says that it can serve."""
        try:
            return self._http.get("/readyz").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()
