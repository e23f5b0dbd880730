"""Why connections end that did nothing wrong: each with the close code of docs/close-codes.md."""

import contextlib
import re
import signal

import grpc
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from exchange import Service
from gateway import Gateway
from sockets import upgraded
from wire import DEADLINE, stub, v1


def ending(client):
    """Code and reason with which a client's connection ends."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            client.recv(timeout=DEADLINE)
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_messages_that_no_service_takes_end_with_4503():
    # No service has ever come; the gateway keeps 10 events for one, and the client says more than that.
    with Gateway("no_service", upstream={"buffer_events": 10}) as gateway:
        with connect(gateway.user_url("alice"), proxy=None) as client:
            with contextlib.suppress(ConnectionClosed):
                for n in range(20):
                    client.send(f"is anyone there? {n}")
            assert ending(client)[0] == 4503
        assert gateway.count("ringway_closed_total", code="4503") == 1
        assert gateway.count("ringway_drops_total", reason="no_service") > 0


def test_a_client_that_does_not_read_ends_with_4408_and_stalls_nobody():
    # More is pushed to a client that never reads than the kernel and its outbox hold; its neighbour gets everything.
    with Gateway("slow", outbox={"max_bytes": 1 << 20}) as gateway:
        slow = upgraded(gateway, "slow")
        with connect(gateway.user_url("quick"), proxy=None, max_size=None) as quick:
            pushes = 0
            while gateway.count("ringway_closed_total", code="4408") == 0:
                for user in ("slow", "quick"):
                    request = v1.MessageRequest(user_id=user, payload=bytes(256 << 10), kind=v1.PAYLOAD_KIND_BINARY)
                    stub(gateway.grpc).Push(request, timeout=DEADLINE)
                assert len(quick.recv(timeout=DEADLINE)) == 256 << 10
                pushes += 1
                assert pushes < 200, "50 MiB are pending for a client that does not read"
            assert gateway.count("ringway_client_errors_total", reason="slow") == 1
            assert gateway.count("ringway_drops_total", reason="slow") > 0
        slow.close()


def test_a_drain_ends_with_1012_and_says_when_to_come_back():
    with (Gateway("drain", drain={"spread_ms": 200, "retry_after_ms": 3000}) as gateway,
          contextlib.ExitStack() as stack):
        clients = [stack.enter_context(connect(gateway.user_url(f"user-{n}"), proxy=None)) for n in range(10)]
        service = Service(stub(gateway.grpc), "", v1.SCOPE_GATEWAY, receive=())
        gateway.process.send_signal(signal.SIGTERM)
        assert service.next("draining").remaining_ms > 0
        for client in clients:
            code, reason = ending(client)
            # Not before the drain is over, and not all at once.
            assert code == 1012 and int(re.fullmatch(r"retry_after_ms=(\d+)", reason).group(1)) <= 200 + 3000
        with pytest.raises(grpc.RpcError) as ended:
            service.next("nothing")
        assert ended.value.code() == grpc.StatusCode.UNAVAILABLE and "going away" in ended.value.details()
        assert gateway.process.wait(timeout=20) == 0
