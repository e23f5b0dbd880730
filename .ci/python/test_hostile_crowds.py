"""Many hostile clients at once: the gateway's memory follows what they send, not what they announce, and others live on."""

import time

import pytest
from websockets.sync.client import connect

from conftest import wait_until
from sockets import BINARY, FIN, dial, frame, read_to_end, upgraded

SETTINGS = {"ws": {"max_message_bytes": 32 << 20, "handshake_timeout_ms": 8000}}
MIB = 1 << 20


def test_memory_stays_flat_over_5000_frames_that_announce_16_mib(gateway, unharmed):
    # The limit is above 16 MiB here, so that nobody is refused: 80 GB are announced, 120 KB are sent.
    crowd = [upgraded(gateway, f"crowd-{n}") for n in range(5000)]
    received = gateway.count("ringway_received_bytes_total", **{"from": "client"})
    before = gateway.rss_bytes()
    attack = frame(FIN | BINARY, bytes(10), announced=16 * MIB)
    for client in crowd:
        client.sendall(attack)
    wait_until(lambda: gateway.count("ringway_received_bytes_total", **{"from": "client"}) >= received + 5000 * len(attack),
               "not all frames were read")
    grown = gateway.rss_bytes() - before
    print(f"{grown / MIB:.1f} MiB more for 5,000 announcements of 16 MiB")
    assert grown < 8 * MIB
    unharmed()
    lost = gateway.count("ringway_closed_total", code="1006")
    for client in crowd:
        client.close()
    wait_until(lambda: gateway.count("ringway_closed_total", code="1006") >= lost + 5000, "not all were counted as lost")
    wait_until(lambda: gateway.count("ringway_connections") < 5000, "connections stay")
    unharmed()


def test_10000_half_open_connections_are_told_the_time_and_others_are_served(gateway, unharmed):
    # They connect from several addresses and say nothing. The deadline is 8 s here, 10 s by default.
    refused = gateway.count("ringway_refused_handshakes_total", reason="timeout")
    began = time.monotonic()
    crowd = [dial(gateway, source=f"127.0.0.{2 + n % 8}") for n in range(10_000)]
    print(f"10,000 connected in {time.monotonic() - began:.1f} s")
    wait_until(lambda: gateway.count("ringway_handshaking") >= 9_999, "not all were accepted")
    unharmed()
    with connect(gateway.user_url("newcomer"), proxy=None, open_timeout=5) as newcomer:
        newcomer.ping().wait(5)
    answers = {}
    for client in crowd:
        answer = read_to_end(client).split(b"\r\n")[0]
        answers[answer] = answers.get(answer, 0) + 1
        client.close()
    assert answers == {b"HTTP/1.1 408 Request Timeout": 10_000}
    assert gateway.count("ringway_refused_handshakes_total", reason="timeout") == refused + 10_000
    wait_until(lambda: gateway.count("ringway_handshaking") == 0, "half-open connections stay")
    unharmed()
