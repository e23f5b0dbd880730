"""Clients that break the WebSocket protocol, or a limit: each gets a close code with a reason, and is counted."""

import socket
import struct

import pytest

from sockets import BINARY, CLOSE, CONTINUATION, FIN, PING, TEXT, close_code, frame, upgraded

MIB = 1 << 20  # the default limit of a client's message
RST = struct.pack("ii", 1, 0)

ATTACKS = {
    "an unmasked frame": (frame(FIN | TEXT, b"hi", masked=False), 1002, "unmasked"),
    "reserved bits": (frame(FIN | 0x40 | TEXT, b"hi"), 1002, "reserved_bits"),
    "a reserved opcode": (frame(FIN | 0x3, b"hi"), 1002, "reserved_opcode"),
    "a fragmented ping": (frame(PING, b"hi"), 1002, "fragmented_control"),
    "a ping of 126 bytes": (frame(FIN | PING, b"x" * 126), 1002, "oversize_control"),
    "a continuation of nothing": (frame(FIN | CONTINUATION, b"hi"), 1002, "unexpected_continuation"),
    "a message in a message": (frame(TEXT, b"hi") + frame(FIN | TEXT, b"ho"), 1002, "expected_continuation"),
    "a close of one byte": (frame(FIN | CLOSE, b"x"), 1002, "bad_close_payload"),
    "a close code that may not be sent": (frame(FIN | CLOSE, struct.pack("!H", 1005)), 1002, "bad_close_code"),
    "text that is not UTF-8": (frame(FIN | TEXT, b"\xc0\xaf"), 1007, "invalid_utf8"),
    "fragments that are not UTF-8 together": (frame(TEXT, b"\xe2\x82") + frame(FIN | CONTINUATION, b"x"), 1007, "invalid_utf8"),
    "a message over the limit": (frame(FIN | BINARY, bytes(MIB + 1)), 1009, "too_big"),
    "16 MiB announced, 10 bytes sent": (frame(FIN | BINARY, bytes(10), announced=16 * MIB), 1009, "too_big"),
    "2^63 - 1 bytes announced": (frame(FIN | BINARY, b"", announced=(1 << 63) - 1), 1009, "too_big"),
}


@pytest.mark.parametrize("bytes_sent, code, reason", ATTACKS.values(), ids=ATTACKS)
def test_is_closed(gateway, counted, bytes_sent, code, reason):
    closed = gateway.count("ringway_closed_total", code=str(code))
    with counted("ringway_client_errors_total", reason=reason), upgraded(gateway, "mallory") as client:
        client.sendall(bytes_sent)
        actual, words = close_code(client)
    assert actual == code and words
    assert gateway.count("ringway_closed_total", code=str(code)) == closed + 1


@pytest.mark.parametrize("payload, fragments, code, reason", [
    (bytes(64 << 10), 17, 1009, "too_big"),
    (b"", 131_073, 1008, "too_many_fragments"),
])
def test_fragments_without_end(gateway, counted, payload, fragments, code, reason):
    # With and without content: a client must not grow a message, nor its number of fragments, for ever.
    with counted("ringway_client_errors_total", reason=reason), upgraded(gateway, "mallory") as client:
        client.sendall(frame(BINARY, payload) + frame(CONTINUATION, payload) * (fragments - 1))
        assert close_code(client)[0] == code


def test_a_reset_in_the_middle_of_a_message(gateway, counted):
    with counted("ringway_client_errors_total", reason="reset"):
        client = upgraded(gateway, "mallory")
        client.sendall(frame(FIN | BINARY, bytes(10), announced=1000))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
        client.close()
