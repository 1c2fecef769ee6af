"""The sockets on which the service answers."""

import socket

from result_aggregator_service.server import listen


def test_a_body_does_not_wait_until_its_headers_are_acknowledged() -> None:
    with listen("PORT", "127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()[:2]):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
