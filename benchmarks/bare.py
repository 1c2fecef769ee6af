"""`python -m benchmarks.bare PORT FILE`: one Quart route that gives recorded answers, on the service's server and loop.

What the service is measured beside: the same bytes by the least that Quart can do. No hooks, no checks, no metrics.
"""

import asyncio
import json
import sys
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from quart import Quart, Response
from werkzeug.datastructures import Headers

from embedded.process import LOOPBACK


@dataclass(frozen=True, slots=True)
class Recorded:
    """An answer: what the service gave."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


def write(file: Path, answers: Mapping[str, Recorded]) -> None:
    """Keep answers for a bare process, which gives each under its name as the path."""
    content = {
        name: [answer.status, list(answer.headers), b64encode(answer.body).decode()] for name, answer in answers.items()
    }
    file.write_text(json.dumps(content))


def read(file: Path) -> dict[str, Recorded]:
    """What `write` kept."""
    content = json.loads(file.read_text())
    return {
        name: Recorded(status, [(header, value) for header, value in headers], b64decode(body))
        for name, (status, headers, body) in content.items()
    }


def create_app(answers: Mapping[str, Recorded]) -> Quart:
    """The application of the one route."""
    app = Quart("bare", static_folder=None)

    @app.get("/<name>")
    async def get_recorded(name: str) -> Response:
        answer = answers[name]
        headers = Headers(answer.headers)
        return Response(answer.body, answer.status, headers)

    return app


def main() -> None:
    """Serve until SIGTERM."""
    port, file = int(sys.argv[1]), Path(sys.argv[2])
    config = uvicorn.Config(
        create_app(read(file)),
        host=LOOPBACK,
        port=port,
        http="httptools",
        ws="none",
        loop="asyncio",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=75,
    )
    asyncio.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
