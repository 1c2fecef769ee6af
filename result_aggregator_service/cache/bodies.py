"""Bodies of answers that this process has had from Redis, by place and tag, so that they need not be carried again.

Nothing is served from here before Redis has said that its tag is the present one: a tag stands for the very bytes.
"""

from collections import OrderedDict
from typing import NamedTuple

#: Of all bodies together; the one that nobody has asked for longest goes first.
MAX_BYTES = 8 * 1024 * 1024


class Body(NamedTuple):
    """An answer's bytes and its tag."""

    etag: str
    content: bytes


class Bodies:
    """The last body from each place, as far as there is room."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bodies: OrderedDict[str, Body] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> Body | None:
        """The body that was kept of a place, whether it is still the present one or not."""
        body = self._bodies.get(key)
        if body is not None:
            self._bodies.move_to_end(key)
        return body

    def keep(self, key: str, body: Body) -> None:
        """Keep a body instead of the place's last one."""
        before = self._bodies.pop(key, None)
        self._bytes += len(body.content) - (0 if before is None else len(before.content))
        self._bodies[key] = body
        while self._bytes > self._max_bytes:
            _, oldest = self._bodies.popitem(last=False)
            self._bytes -= len(oldest.content)
