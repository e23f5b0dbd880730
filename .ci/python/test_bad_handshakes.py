"""What never becomes a WebSocket: each is told why in HTTP, counted by reason, and cut off."""

import pytest

from sockets import close_code, dial, read, read_to_end, request

LONG = "X-Long: " + "x" * 9000 + "\r\n"
MANY = "".join(f"X-{n}: y\r\n" for n in range(100))

ATTACKS = {
    "binary garbage": (b"\x00\x01\x02\x03\xff\xfe garbage\r\n\r\n", 400, "garbage"),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n", 400, "garbage"),
    "a line without end": (b"x" * 20_000, 400, "garbage"),
    "TLS to a plain port": (bytes.fromhex("16030100c8010000c40303") + b"\x55" * 100, 400, "tls"),
    "HTTP without upgrade": (b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n", 426, "no_upgrade"),
    "a header over the limit": (request(extra=LONG), 431, "header_too_large"),
    "too many headers": (request(extra=MANY), 431, "header_too_large"),
    "a target over the limit": (request("/ws?" + "x" * 9000), 431, "header_too_large"),
    "version 8": (request(Sec_WebSocket_Version="8"), 426, "bad_version"),
    "no version": (request(Sec_WebSocket_Version=None), 426, "bad_version"),
    "no key": (request(Sec_WebSocket_Key=None), 400, "bad_key"),
    "a key of 5 bytes": (request(Sec_WebSocket_Key="c2hvcnQ="), 400, "bad_key"),
    "a key that is no base64": (request(Sec_WebSocket_Key="!" * 24), 400, "bad_key"),
    "POST": (request(method="POST"), 405, "bad_method"),
    "a body": (request(extra="Content-Length: 5\r\n") + b"hello", 413, "body"),
    "HTTP/1.0": (request(http="HTTP/1.0"), 505, "http_version"),
    "an unknown path": (request("/nowhere"), 404, "path"),
    "no host": (request(Host=None), 400, "bad_request"),
}


@pytest.mark.parametrize("bytes_sent, status, reason", ATTACKS.values(), ids=ATTACKS)
def test_is_refused(gateway, counted, bytes_sent, status, reason):
    with counted("ringway_refused_handshakes_total", reason=reason), dial(gateway) as client:
        client.sendall(bytes_sent)
        answer = read_to_end(client)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert b"\r\nConnection: close" in head and body


@pytest.mark.parametrize("target, answers", [("/ws?user=", False), ("/ws?user=%ff", True), ("/ws?user=" + "u" * 257, True), ("/ws?user=a&user=b", True)])
def test_an_impossible_user_is_told_by_a_close_code(gateway, counted, target, answers):
    # Browsers hide the status of a refused handshake, so policy accepts and closes.
    with counted("ringway_refused_handshakes_total", reason="bad_user"), dial(gateway) as client:
        client.sendall(request(target))
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += read(client, 1)
        assert answer.startswith(b"HTTP/1.1 101 ")
        code, reason = close_code(client, answers)
    assert code == 4400 and "user" in reason


def test_a_client_that_leaves_in_the_middle_of_its_request(gateway, counted):
    with counted("ringway_refused_handshakes_total", reason="closed"), dial(gateway) as client:
        client.sendall(request()[:40])
