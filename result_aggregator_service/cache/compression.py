"""Large answers are made into gzip once, when they are made, and are kept and sent as that.

Invariant: an answer's body is JSON, which begins with `{`, or gzip of it, which does not: so each says which it is.
"""

import asyncio
import gzip

# Level 1 takes 4 ms for a megabyte and leaves a fourteenth of it; level 6 twice as long, and leaves a nineteenth.
_LEVEL = 1
_MAGIC = b"\x1f\x8b"


def is_compressed(body: bytes) -> bool:
    """Whether a body is gzip."""
    return body.startswith(_MAGIC)


async def compressed(body: bytes) -> bytes:
    """A body as gzip, the same each time. Made beside the event loop."""
    return await asyncio.to_thread(gzip.compress, body, _LEVEL, mtime=0)


async def plain(body: bytes) -> bytes:
    """A body as JSON."""
    return await asyncio.to_thread(gzip.decompress, body) if is_compressed(body) else body
