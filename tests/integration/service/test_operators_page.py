"""The operator's page as a browser shows it: of a process under traffic, without PostgreSQL, and once it is gone."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

from embedded import EmbeddedPostgres
from embedded.process import LOOPBACK
from result_aggregator_service.contracts.topics import CONSUMED, ESSAY_NLP_COMPLETED
from tests.integration.service.process import ServiceProcess, in_thread
from tests.integration.service.wiring import Wire
from tests.samples import CONSUMED_NAMES, consumed, consumed_bytes
from tests.servers import KafkaServer, leave_out_for, migrate
from tests.waiting import eventually

BATCH = str(consumed("batch_essays_registered")["data"]["entity_id"])
USER = str(consumed("batch_essays_registered")["data"]["user_id"])
PHONE = {"width": 360, "height": 740}
LEAST_CONTRAST = 4.5  # WCAG 2.2, 1.4.3, for text of any size

#: Of each visible text the contrast of its colour with what lies behind it, as WCAG 2.2 defines it.
CONTRASTS = """
() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).slice(0, 3).map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((parts(colour)[3] ?? 1) === 1) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.body.querySelectorAll("*")]
    .filter((element) => element.checkVisibility() && [...element.childNodes].some(
      (node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim()))
    .map((element) => {
      const [one, other] = [light(getComputedStyle(element).color), light(behind(element))].sort();
      return [element.textContent.trim().slice(0, 40), (other + 0.05) / (one + 0.05)];
    });
}
"""


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    path = shutil.which("chromium")
    leave_out_for(None if path else "no Chromium (Debian's package `chromium`)")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


class Watched:
    """A page, what it asked for, and what it complained of."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.on("request", self._note_request)
        page.on("console", self._note_message)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note_request(self, request: Request) -> None:
        self.asked.append(request.url)

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    async def says(self, selector: str, *parts: str, within: float = 40.0) -> str:
        """The text of an element, once all of these are in it."""

        async def probe() -> str:
            text = await self.page.locator(selector).inner_text()
            assert all(part in text for part in parts), text
            return text

        return await eventually(probe, within=within, what=f"{parts} in {selector}")

    async def chart(self, series: str, *parts: str) -> str:
        return await self.says(f'figure[data-series="{series}"]', *parts)

    async def draws(self, series: str) -> None:
        """Wait until a chart has a line, which has two points."""
        trace = self.page.locator(f'figure[data-series="{series}"] .trace')

        async def has_line() -> bool:
            return "L" in (await trace.get_attribute("d") or "")

        await eventually(has_line, within=40, what=f"a line in the chart of {series}")

    async def colours(self) -> dict[str, Any]:
        """Texts with too little contrast, and the colour behind everything."""
        contrasts = await self.page.evaluate(CONTRASTS)
        assert len(contrasts) > 40
        return {
            "faint": [(text, contrast) for text, contrast in contrasts if contrast < LEAST_CONTRAST],
            "ground": await self.page.evaluate("() => getComputedStyle(document.body).backgroundColor"),
        }


async def test_it_says_how_the_service_is_under_traffic_without_a_server_and_after_its_end(
    own_folder: Path,
    own_postgres: EmbeddedPostgres,
    redis_url: str,
    kafka_server: KafkaServer,
    kafka_group: Callable[[Iterable[str]], Awaitable[str]],
) -> None:
    await in_thread(migrate, own_postgres.url)
    process = ServiceProcess(
        own_folder / "service",
        DATABASE_URL=own_postgres.url,
        KAFKA_BOOTSTRAP_SERVERS=kafka_server.bootstrap_servers,
        REDIS_URL=redis_url,
        KAFKA_CONSUMER_GROUP_ID=await kafka_group(CONSUMED),
    )
    origin = f"http://{LOOPBACK}:{process.environment['METRICS_PORT']}/"
    async with (
        chromium() as browser,
        Wire(kafka_server.bootstrap_servers, is_apache=kafka_server.is_apache) as wire,
    ):
        with process as service:
            await service.answers("/readyz", 200)
            watched = Watched(await browser.new_page(viewport=PHONE, color_scheme="light"))  # type: ignore[arg-type]
            response = await watched.page.goto(origin)
            assert response is not None
            assert "default-src 'none'" in response.headers["content-security-policy"]

            for name in CONSUMED_NAMES:
                await wire.send(consumed(name)["event_type"], consumed_bytes(name), key=BATCH.encode())
            await wire.send(ESSAY_NLP_COMPLETED, b"{", key=BATCH.encode())
            await service.answers(f"/internal/v1/batches/{BATCH}/status", 200)
            await service.answers(f"/internal/v1/batches/{BATCH}/status", 200)

            await watched.says("#verdict", "All is well")
            await watched.says("#quarantined", "not json", "1")
            await watched.chart("quarantine", "In quarantine", "1", "max 1")
            await watched.says("#servers", "PostgreSQL", "there", "Kafka", "Redis", "done")
            await watched.says("#loops", "consumer", "relay", "grace", "housekeeping")
            await watched.says("#breakers", "closed")
            await watched.says("#replicas", "In the group", "1", "publishes")
            await watched.draws("handled")
            label = await watched.page.locator('figure[data-series="lag"] svg').get_attribute("aria-label")
            assert "messages" in (label or "")

            assert await watched.page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]
            light = await watched.colours()
            await watched.page.emulate_media(color_scheme="dark")
            dark = await watched.colours()
            assert light["faint"] == dark["faint"] == []
            assert light["ground"] != dark["ground"]

            plot = watched.page.locator('figure[data-series="handled"] svg')
            await plot.focus()
            await watched.page.keyboard.press("ArrowLeft")
            assert ":" in await watched.page.locator('figure[data-series="handled"] .at').inner_text()
            assert await plot.evaluate("(element) => getComputedStyle(element).outlineStyle") == "solid"

            assert watched.complaints == []
            assert {url for url in watched.asked if not url.startswith((origin, "data:"))} == set()
            history = await watched.page.request.get(f"{origin}history.json")
            shown = await watched.page.content() + await history.text()
            for secret in (BATCH, USER, service.environment["INTERNAL_API_KEY"], kafka_server.bootstrap_servers):
                assert secret not in shown

            await in_thread(own_postgres.stop)
            await watched.says("#verdict", "PostgreSQL is away since", "nothing is lost")
            await watched.chart("outbox_depth", "not known")
            await watched.says("#servers", "PostgreSQL", "away since")
            await watched.says("#quarantined-none", "Not known.")
        await watched.says("#verdict", "No contact with the service since")
