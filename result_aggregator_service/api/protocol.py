"""HTTP on the wire: what is no request never reaches the application; a problem answers it, too."""

from uuid import uuid4

import orjson
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from result_aggregator_service.api.errors import PROBLEM_CONTENT_TYPE, not_http, problem_document

_log = structlog.get_logger(__name__)


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's, but for what it says to a client that speaks no HTTP."""

    def send_400_response(self, msg: str) -> None:
        """Answer 400 and hang up; `msg` is the server's own word on it, and goes to the log."""
        problem, correlation_id = not_http(), str(uuid4())
        _log.info("request_malformed", reason=msg, correlation_id=correlation_id)
        body = orjson.dumps(problem_document(problem, "/", correlation_id))
        head = (
            f"HTTP/1.1 {problem.status.value} {problem.status.phrase}",
            f"Content-Type: {PROBLEM_CONTENT_TYPE}",
            f"Content-Length: {len(body)}",
            f"X-Correlation-ID: {correlation_id}",
            "Cache-Control: no-store",
            "Connection: close",
        )
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()
