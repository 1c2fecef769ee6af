"""The opaque text by which a client asks for the page after a batch. Whoever keeps one need not know what is in it.

It names a place in the order of a user's batches, not a number of rows, so that what comes or goes in front of it moves
nothing. It carries a checksum: a mangled one is refused, rather than taken for another place.
"""

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

from result_aggregator_service.storage.batch_reader import Position

_FORM = b"\x01"  # of this layout; another gets another number
_TIME = struct.Struct(">q")  # microseconds since 1970
_CHECKSUM_BYTES = 4
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def write_cursor(position: Position) -> str:
    """The cursor of the page after a batch: letters, digits, `-` and `_` only."""
    place = _FORM + _TIME.pack((position.created_at - _EPOCH) // _MICROSECOND) + position.batch_id.encode()
    return urlsafe_b64encode(_checksum(place) + place).rstrip(b"=").decode()


def read_cursor(text: str) -> Position:
    """The place that a cursor names.

    Raises:
        ValueError: it is none of this service's, or was changed on the way.
    """
    try:
        raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (UnicodeError, Base64Error):
        raise ValueError("not a cursor") from None
    checksum, place = raw[:_CHECKSUM_BYTES], raw[_CHECKSUM_BYTES:]
    if checksum != _checksum(place) or not place.startswith(_FORM):
        raise ValueError("not a cursor")
    batch_id_at = len(_FORM) + _TIME.size
    (microseconds,) = _TIME.unpack(place[len(_FORM) : batch_id_at])
    position = Position(_EPOCH + microseconds * _MICROSECOND, place[batch_id_at:].decode())
    if write_cursor(position) != text:  # base64 has several texts for the same bytes
        raise ValueError("not a cursor")
    return position


def _checksum(place: bytes) -> bytes:
    return blake2b(place, digest_size=_CHECKSUM_BYTES, person=b"ras cursor").digest()
