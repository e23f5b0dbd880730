"""What a hostile or broken script sends to `POST /v1/push`: each is told what is wrong, and counted."""

import http.client
import json
import socket

import pytest

from sockets import read_to_end

# Small enough that a body over the limit is sent quickly.
SETTINGS = {"grpc": {"max_message_bytes": 65536}, "limits": {"max_payload_bytes": 32768}}

PATH = "/v1/push"


def body(**fields):
    return json.dumps({"user": "a", "text": "hi"} | fields).encode()


REFUSED = {
    "nothing": (b"", 400),
    "no JSON": (b"user=a&text=hi", 400),
    "a list": (b"[]", 400),
    "a number": (b"1e400", 400),
    "no UTF-8": (b'{"user": "\xff", "text": ""}', 400),
    "half a surrogate pair": (rb'{"user": "a", "text": "\ud800"}', 400),
    "nested beyond reason": (b"[" * 60_000, 400),
    "nested in a value": (b'{"user": ' + b'{"a":' * 10_000, 400),
    "a key twice": (b'{"user": "a", "user": "b", "text": ""}', 400),
    "a key nobody knows": (body(receipt="targets"), 400),
    "two targets": (body(topic="t"), 400),
    "two payloads": (body(base64=""), 400),
    "no target": (b'{"text": "hi"}', 400),
    "base64 with a hole": (b'{"user": "a", "base64": "AA=A"}', 400),
    "a time to live that is negative": (body(ttl_ms=-1), 400),
    "a time to live beyond 32 bits": (body(ttl_ms=1 << 32), 400),
    "a time to live that is not whole": (body(ttl_ms=1.5), 400),
    "a connection of one number": (b'{"connection": "1", "text": ""}', 400),
    "a connection beyond 64 bits": (b'{"connection": "1:18446744073709551616", "text": ""}', 400),
    "an empty user id": (body(user=""), 400),
    "a user id of 257 bytes": (body(user="u" * 257), 400),
    "more users than allowed": (b'{"users": [' + b'"u",' * 10_000 + b'"u"], "text": ""}', 400),
    "a payload over the limit": (body(text="x" * 32_769), 400),
    "a body over the limit": (b" " * 65_537, 413),
}


def post(gateway, content, **head):
    connection = http.client.HTTPConnection(gateway.admin, timeout=20)
    connection.request("POST", PATH, content, head)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


@pytest.mark.parametrize("content, status", REFUSED.values(), ids=REFUSED)
def test_is_refused(gateway, counted, content, status):
    with counted("ringway_http_pushes_total", result="refused"):
        answer = post(gateway, content)
    assert answer[0] == status and set(answer[1]) == {"error"}, answer
    assert len(answer[1]["error"]) < 500


def test_a_web_page_may_not_push(gateway, counted):
    with counted("ringway_http_pushes_total", result="refused"):
        status, answer = post(gateway, body(), Origin="https://example.org")
    assert status == 403 and "web page" in answer["error"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_only_post_pushes(gateway, unharmed, method):
    connection = http.client.HTTPConnection(gateway.admin, timeout=20)
    connection.request(method, PATH)
    assert connection.getresponse().status == 405
    unharmed()


def test_a_body_that_does_not_come(gateway, counted):
    host, port = gateway.admin.rsplit(":", 1)
    with counted("ringway_http_pushes_total", result="refused"), socket.create_connection((host, int(port)), timeout=20) as script:
        script.sendall(b"POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        answer = read_to_end(script)
    assert answer.startswith(b"HTTP/1.1 408 "), answer


def test_a_chunked_body_without_end_is_cut_at_the_limit(gateway, counted):
    host, port = gateway.admin.rsplit(":", 1)
    with counted("ringway_http_pushes_total", result="refused"), socket.create_connection((host, int(port)), timeout=20) as script:
        script.sendall(b"POST /v1/push HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        # No byte more than it takes to be over: what is left unread would reset the connection before the answer is read.
        for size in [4096] * 16 + [1]:
            script.sendall(b"%x\r\n" % size + b" " * size + b"\r\n")
        answer = script.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 413 "), answer


def test_scripts_that_leave_before_the_answer(gateway, counted):
    host, port = gateway.admin.rsplit(":", 1)
    content = body(user="nobody")
    head = f"POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    for _ in range(100):
        with socket.create_connection((host, int(port)), timeout=20) as script:
            script.sendall(head + content)
    with counted("ringway_http_pushes_total", result="refused"):
        assert post(gateway, b"")[0] == 400
