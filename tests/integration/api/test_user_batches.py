"""A user's batches: order, pages, totals, filters."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx

from result_aggregator_service.contracts.enums import BatchStatus
from tests.integration.api.read_model import ReadModel
from tests.unit.domain import messages as say
from tests.unit.domain.messages import CANCELLED, CRITICAL, FAILURES, SUCCESS

PATH = "/internal/v1/batches/user/teacher"


async def page(client: httpx.AsyncClient, query: str = "", path: str = PATH) -> tuple[list[str], dict[str, Any]]:
    """The batch ids of a page, and its pagination."""
    response = await client.get(f"{path}?{query}")
    assert response.status_code == 200, response.text
    document = response.json()
    assert set(document) == {"batches", "pagination"}
    return [batch["batch_id"] for batch in document["batches"]], document["pagination"]


async def test_a_user_without_batches_has_an_empty_list(client: httpx.AsyncClient) -> None:
    assert await page(client) == ([], {"limit": 20, "offset": 0, "total": 0})


async def test_batches_come_newest_first_and_of_one_moment_by_their_ids(
    client: httpx.AsyncClient, read_model: ReadModel
) -> None:
    await read_model.tell(
        say.registered(["a1"], "a", at=5),
        say.registered(["b1"], "b", at=7),
        say.registered(["c1"], "c", at=5),
        say.registered(["d1"], "d", at=6),
    )
    assert (await page(client))[0] == ["b", "d", "c", "a"]


async def test_each_batch_is_shown_whole_with_its_essays(client: httpx.AsyncClient, read_model: ReadModel) -> None:
    await read_model.tell(
        say.registered(["a1", "a2"], "a", at=1),
        say.registered(["b1"], "b", at=2),
        say.spellcheck("a1", "a"),
        say.spellcheck("b1", "b", ok=False, error="X"),
    )
    batches = (await client.get(PATH)).json()["batches"]
    for batch in batches:
        assert batch == (await client.get(f"/internal/v1/batches/{batch['batch_id']}/status")).json()
    assert [[essay["essay_id"] for essay in batch["essays"]] for batch in batches] == [["b1"], ["a1", "a2"]]


async def test_pages_do_not_overlap_and_each_says_the_true_total(
    client: httpx.AsyncClient, read_model: ReadModel
) -> None:
    ids = [f"b{number:02}" for number in range(45)]
    # Of one moment, so that only the id orders them.
    await read_model.tell(*(say.registered([f"{batch}-e"], batch, at=0) for batch in ids))
    seen: list[str] = []
    for offset in (0, 20, 40):
        batches, pagination = await page(client, f"offset={offset}")
        assert pagination == {"limit": 20, "offset": offset, "total": 45}
        seen += batches
    assert seen == ids[::-1]
    assert await page(client, "limit=100") == (ids[::-1], {"limit": 100, "offset": 0, "total": 45})
    assert await page(client, "limit=1&offset=44") == (["b00"], {"limit": 1, "offset": 44, "total": 45})


async def test_a_page_past_the_end_is_empty_and_says_the_true_total(
    client: httpx.AsyncClient, read_model: ReadModel
) -> None:
    await read_model.tell(say.registered(["e"], "b"))
    for offset in (1, 45, 2**63 - 1):
        assert await page(client, f"offset={offset}") == ([], {"limit": 20, "offset": offset, "total": 1})


async def test_nobody_sees_the_batches_of_others_or_those_of_nobody(
    client: httpx.AsyncClient, read_model: ReadModel
) -> None:
    await read_model.tell(
        say.registered(["a1"], "mine"), say.registered(["b1"], "theirs", user="other"), say.spellcheck("c1", "nobodys")
    )
    assert (await page(client))[0] == ["mine"]
    assert (await page(client, path="/internal/v1/batches/user/other"))[0] == ["theirs"]


async def test_a_batch_that_changes_hands_changes_lists(client: httpx.AsyncClient, read_model: ReadModel) -> None:
    await read_model.tell(say.registered(["e"], "b", at=0))
    assert (await page(client))[0] == ["b"]
    await read_model.tell(say.registered(["e"], "b", at=1, user="other"))
    assert (await page(client))[0] == []
    assert (await page(client, path="/internal/v1/batches/user/other"))[0] == ["b"]


FILTERS = [
    ("awaiting_content_validation", ["fresh"]),
    ("pending_content", ["fresh"]),
    ("processing_pipelines", ["running"]),
    ("processing", ["running"]),
    ("completed_successfully", ["good"]),
    ("completed_with_failures", ["mixed"]),
    ("failed_critically", ["bad"]),
    ("failed", ["bad"]),
    ("cancelled", ["stopped"]),
    ("ready", []),
    ("awaiting_student_validation", []),
    ("", ["stopped", "bad", "mixed", "good", "running", "fresh"]),
]


async def test_a_filter_takes_a_status_of_either_kind_and_counts_only_what_it_lets_through(
    client: httpx.AsyncClient, read_model: ReadModel
) -> None:
    def ended(batch: str, final_status: BatchStatus) -> Any:
        # An end about no phase that essays went through, so that it finishes the batch by its outcomes alone.
        finished = say.end(["student_matching"], batch, status=final_status)
        return say.outcome("student_matching", [], [], batch, status=final_status, at=200), finished

    names = ("fresh", "running", "good", "mixed", "bad", "stopped")
    registrations = [say.registered([f"{name}-e"], name, at=at) for at, name in enumerate(names)]
    outcomes = [
        event
        for batch, final in (("good", SUCCESS), ("mixed", FAILURES), ("bad", CRITICAL), ("stopped", CANCELLED))
        for event in ended(batch, final)
    ]
    await read_model.tell(*registrations, say.spellcheck("running-e", "running"), *outcomes)
    for status, expected in FILTERS:
        batches, pagination = await page(client, f"status={status}")
        assert (batches, pagination["total"]) == (expected, len(expected)), status


async def test_the_same_page_under_another_filter_is_another_answer(
    client: httpx.AsyncClient, read_model: ReadModel
) -> None:
    await read_model.tell(say.registered(["e"], "b"))
    for query, expected in (("", ["b"]), ("status=failed", []), ("status=pending_content", ["b"]), ("limit=1", ["b"])):
        for _ in range(2):
            assert (await page(client, query))[0] == expected


async def test_a_user_id_of_any_characters_finds_its_batches(client: httpx.AsyncClient, read_model: ReadModel) -> None:
    await read_model.tell(say.registered(["e"], "b", user="Åsa/ö:100% ?#"))
    path = "/internal/v1/batches/user/%C3%85sa%2F%C3%B6%3A100%25%20%3F%23"
    assert (await page(client, path=path))[0] == ["b"]


async def walk(client: httpx.AsyncClient, query: str = "limit=2&cursor=") -> AsyncIterator[list[str]]:
    """The batch ids of each page, from the first to the last, by the `next` links."""
    link: str | None = f"{PATH}?{query}"
    while link is not None:
        response = await client.get(link)
        assert response.status_code == 200, response.text
        document = response.json()
        assert set(document["pagination"]) == {"limit", "next"}
        yield [batch["batch_id"] for batch in document["batches"]]
        link = document["pagination"]["next"]


async def test_pages_by_cursor_hold_every_batch_once_whatever_their_size(
    client: httpx.AsyncClient, read_model: ReadModel
) -> None:
    # Of few moments, so that within each only the id orders them.
    batches = [(number % 3, f"b{number}") for number in range(12)]
    await read_model.tell(*(say.registered([f"{batch}-e"], batch, at=at) for at, batch in batches))
    newest_first = [batch for _, batch in sorted(batches, reverse=True)]
    for limit, pages in ((1, 12), (5, 3), (6, 2), (12, 1), (100, 1)):
        walked = [ids async for ids in walk(client, f"limit={limit}&cursor=")]
        assert [batch for ids in walked for batch in ids] == newest_first, limit
        assert len(walked) == pages


async def test_what_comes_goes_and_moves_while_a_list_is_read_repeats_and_skips_nothing_else(
    client: httpx.AsyncClient, read_model: ReadModel
) -> None:
    await read_model.tell(*(say.registered([f"b{at}-e"], f"b{at}", at=at) for at in range(8)))
    seen: list[str] = []
    async for ids in walk(client):
        seen += ids
        if len(seen) == 4:
            await read_model.tell(
                say.registered(["new-e"], "new", at=50),  # in front of what was read
                say.registered(["b6-e"], "b6", at=51, user="other"),  # one that was read
                say.registered(["b3-e"], "b3", at=52, user="other"),  # the next to be read
            )
    assert seen == ["b7", "b6", "b5", "b4", "b2", "b1", "b0"]


async def test_a_filter_and_a_view_go_with_the_next_link(client: httpx.AsyncClient, read_model: ReadModel) -> None:
    await read_model.tell(*(say.registered([f"b{at}-e"], f"b{at}", at=at) for at in range(6)))
    await read_model.tell(*(say.spellcheck(f"b{at}-e", f"b{at}") for at in (0, 2, 4)))
    first = (await client.get(f"{PATH}?cursor=&limit=2&status=processing&view=summary")).json()
    assert [batch["batch_id"] for batch in first["batches"]] == ["b4", "b2"]
    second = (await client.get(first["pagination"]["next"])).json()
    assert [batch["batch_id"] for batch in second["batches"]] == ["b0"]
    assert "essays" not in second["batches"][0]
    assert second["pagination"] == {"limit": 2, "next": None}


async def test_the_next_link_leads_back_to_whatever_user_was_asked_for(
    client: httpx.AsyncClient, read_model: ReadModel
) -> None:
    user = "Åsa/ö:100% ?#&=+"
    await read_model.tell(*(say.registered([f"b{at}-e"], f"b{at}", at=at, user=user) for at in range(2)))
    first = (await client.get(f"/internal/v1/batches/user/{quote(user, safe='')}?cursor=&limit=1")).json()
    second = (await client.get(first["pagination"]["next"])).json()
    assert [batch["batch_id"] for page in (first, second) for batch in page["batches"]] == ["b1", "b0"]


async def test_a_summary_is_the_full_view_without_essays(client: httpx.AsyncClient, read_model: ReadModel) -> None:
    await read_model.tell(
        say.registered(["a1", "a2"], "a", at=1),
        say.registered(["b1"], "b", at=2),
        say.spellcheck("a1", "a"),
        say.spellcheck("b1", "b", ok=False, error="X"),
    )
    for query in ("", "cursor=&", "limit=1&offset=1&", "status=processing&"):
        full, summary = [(await client.get(f"{PATH}?{query}view={view}")).json() for view in ("full", "summary")]
        for batch in full["batches"]:
            del batch["essays"]
        assert summary["batches"] == full["batches"]
        assert "next" in full["pagination"] or summary["pagination"] == full["pagination"]
