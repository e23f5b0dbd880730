"""A WebSocket by hand: bytes no decent client library would send."""

import os
import socket
import struct

TIMEOUT = 15
CONTINUATION, TEXT, BINARY, CLOSE, PING = 0x0, 0x1, 0x2, 0x8, 0x9
FIN = 0x80


def dial(gateway, source=None):
    """From an address of its own, if one is given. (To bind without need is dear: the kernel looks for a port that is free for all.)"""
    return socket.create_connection(gateway.address(), timeout=TIMEOUT, source_address=source and (source, 0))


def request(target="/ws", method="GET", http="HTTP/1.1", extra="", **changes):
    """A handshake request; `changes` replace headers by name, with `_` for `-`, or leave them out (None)."""
    headers = {
        "Host": "localhost", "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    } | {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{method} {target} {http}"] + [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return ("\r\n".join(lines) + "\r\n" + extra + "\r\n").encode()


def upgraded(gateway, user):
    """A socket whose handshake is done."""
    client = dial(gateway)
    client.sendall(request(f"/ws?user={user}"))
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += read(client, 1)
    assert answer.startswith(b"HTTP/1.1 101 "), answer
    return client


def frame(first_byte, payload=b"", announced=None, masked=True):
    """A frame; it may announce another length than that of its payload, and come unmasked."""
    length = len(payload) if announced is None else announced
    bit = 0x80 if masked else 0
    if length < 126:
        head = bytes([first_byte, bit | length])
    elif length < 1 << 16:
        head = struct.pack("!BBH", first_byte, bit | 126, length)
    else:
        head = struct.pack("!BBQ", first_byte, bit | 127, length)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def read(client, count):
    data = b""
    while len(data) < count:
        chunk = client.recv(count - len(data))
        if not chunk:
            raise EOFError(f"the connection ended after {data!r}")
        data += chunk
    return data


def read_to_end(client):
    """Everything until the peer closes. A reset after the answer is a way to close too, one without an answer is not."""
    data = b""
    try:
        while chunk := client.recv(65536):
            data += chunk
    except ConnectionResetError:
        assert data, "a reset instead of an answer"
    return data


def close_code(client, answers=False):
    """Code and reason of the Close frame that comes next; after it the gateway must close the connection: also, in its own
    time, that of a client that does not answer."""
    first, length = read(client, 2)
    assert first == FIN | CLOSE, f"expected a Close frame, got {first:#x}"
    payload = read(client, length)
    if answers:
        client.sendall(frame(FIN | CLOSE, payload))
    assert read_to_end(client) == b""
    return struct.unpack("!H", payload[:2])[0], payload[2:].decode()
