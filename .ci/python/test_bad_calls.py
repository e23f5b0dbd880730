"""gRPC that breaks its framing: the call gets a status, the link and everyone else go on."""

import socket

import pytest

from http2 import Link, prefixed
from sockets import read_to_end
from wire import v1

INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = "3", "8", "12", "13"
GOOD = v1.MessageRequest(user_id="nobody", payload=b"hi").SerializeToString()

BROKEN = {
    "a truncated prefix": (b"\x00\x00\x00", INVALID_ARGUMENT, "truncated"),
    "a truncated message": (prefixed(GOOD)[:-3], INVALID_ARGUMENT, "truncated"),
    "a prefix that announces 4 GiB": (prefixed(b"hello", announced=0xFFFF_FFFF), RESOURCE_EXHAUSTED, "message_too_large"),
    "protobuf garbage": (prefixed(b"\xff" * 40), INVALID_ARGUMENT, "invalid_protobuf"),
    "a user id that is not UTF-8": (prefixed(b"\x0a\x02\xff\xfe"), INVALID_ARGUMENT, "invalid_protobuf"),
    "an unknown flag": (prefixed(GOOD, flag=0x42), INTERNAL, "bad_message"),
    "a compressed message that is none": (prefixed(b"not gzip", flag=1), INTERNAL, "bad_message"),
}


@pytest.mark.parametrize("method", ["Push", "PushStream", "PushMany", "Exchange"])
@pytest.mark.parametrize("data, status, reason", BROKEN.values(), ids=BROKEN)
def test_broken_framing_ends_the_call(gateway, counted, method, data, status, reason):
    if method != "Push" and reason == "invalid_protobuf":
        data = prefixed(b"\xff" * 40)
    with counted("ringway_stream_errors_total", reason=reason), Link(gateway) as link:
        bystander = link.call("PushStream")
        stream = link.call(method)
        link.send(stream, data)
        headers, _ = link.answer(stream)
        assert headers["grpc-status"] == status and headers["grpc-message"], headers
        # Another stream on the same connection is none the worse.
        link.send(bystander, prefixed(GOOD))
        assert link.answer(bystander)[0]["grpc-status"] == "0"


@pytest.mark.parametrize("method", ["Push", "PushStream", "Exchange"])
def test_a_reset_in_the_middle_of_a_message(gateway, counted, method):
    with counted("ringway_stream_errors_total", reason="reset"), Link(gateway) as link:
        stream = link.call(method)
        link.send(stream, prefixed(GOOD)[:7], end=False)
        link.reset(stream)
        other = link.call("Push")
        link.send(other, prefixed(GOOD))
        assert link.answer(other)[0]["grpc-status"] == "0"


def test_an_unknown_method(gateway, counted):
    with counted("ringway_stream_errors_total", reason="unknown_method"), Link(gateway) as link:
        headers, _ = link.answer(link.call("Launch", end=True))
        assert headers["grpc-status"] == UNIMPLEMENTED and "Launch" in headers["grpc-message"]


@pytest.mark.parametrize("changes, status", [({"content_type": "text/html"}, "415"), ({"http_method": "GET"}, "405")])
def test_http_that_is_not_grpc(gateway, counted, changes, status):
    with counted("ringway_stream_errors_total", reason="bad_request"), Link(gateway) as link:
        headers, _ = link.answer(link.call("Push", end=True, **changes))
        assert headers[":status"] == status


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", bytes(range(256)) * 4])
def test_a_link_that_speaks_no_http2(gateway, counted, garbage):
    with counted("ringway_stream_errors_total", reason="link_protocol"):
        host, port = gateway.grpc.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=15) as client:
            client.sendall(garbage)
            read_to_end(client)


def test_a_lost_link_ends_its_streams(gateway, counted):
    with counted("ringway_stream_errors_total", times=2, reason="link_lost"):
        with Link(gateway) as link:
            streams = [link.call("PushStream") for _ in range(2)]
            link.send(streams[0], prefixed(GOOD), end=False)
            # The answer to a call made after them says that the gateway has seen the streams.
            last = link.call("Push")
            link.send(last, prefixed(GOOD))
            link.answer(last)
