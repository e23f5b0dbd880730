"""A logic service in Python: `Exchange` both ways, with one shard and with the whole gateway."""

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from exchange import Service
from wire import DEADLINE, shard_stubs, stub, users_on, v1


def talk(gateway, service, user):
    """Opens a client, sends both ways, and closes it; the service sees all of that, in order."""
    with connect(f"{gateway.user_url(user)}&colour=red", proxy=None) as client:
        opened = service.next("opened", user)
        assert (opened.user_id, opened.path) == (user, "/ws")
        assert "colour=red" in opened.query and opened.remote_address.startswith("127.0.0.1:")
        assert opened.connection.epoch == service.welcome.epoch

        client.send("text up")
        client.send(b"\x00\xff")
        first, second = service.next("message"), service.next("message")
        assert (first.user_id, first.payload, first.kind) == (user, b"text up", v1.PAYLOAD_KIND_TEXT)
        assert (second.connection, second.payload, second.kind) == (opened.connection, b"\x00\xff", v1.PAYLOAD_KIND_BINARY)
        assert (first.id, second.id) == (opened.id + 1, opened.id + 2)

        service.send(push=v1.MessageRequest(user_id=user, payload=b"text down"))
        service.send(push=v1.MessageRequest(
            connection=opened.connection, payload=b"\xfe", kind=v1.PAYLOAD_KIND_BINARY))
        assert [client.recv(timeout=DEADLINE), client.recv(timeout=DEADLINE)] == ["text down", b"\xfe"]
        client.close(4999, "good night")
    closed = service.next("closed")
    assert (closed.user_id, closed.code, closed.reason) == (user, 4999, "good night")


def test_shard_scope_both_ways(gateway):
    # A stream on each shard's own port, as a mesh has: each sees the users of its shard and no others.
    services = [Service(shard, "mesh", v1.SCOPE_SHARD) for shard in shard_stubs(gateway)]
    for shard, service in enumerate(services):
        assert (service.welcome.shard, service.welcome.shards) == (shard, 2)
        talk(gateway, service, next(users_on(shard, 2)))
    for service in services:
        service.close()


def test_shard_scope_refuses_users_of_other_shards(gateway):
    service = Service(shard_stubs(gateway)[0], "strict", v1.SCOPE_SHARD)
    stranger = next(users_on(1, 2))
    sequence = service.send(push=v1.MessageRequest(user_id=stranger, payload=b"hi"))
    rejected = service.next("rejected")
    assert (rejected.sequence, rejected.reason) == (sequence, v1.REJECT_REASON_WRONG_SHARD)
    assert rejected.detail
    service.close()


def test_gateway_scope_receives_the_clients_of_every_shard(gateway):
    # One stream through the common port: wherever it lands, at least one of the two users is of another shard.
    service = Service(stub(gateway.grpc), "small", v1.SCOPE_GATEWAY)
    for shard in (0, 1):
        talk(gateway, service, next(users_on(shard, 2)))
    service.close()


def test_topics_receipts_and_disconnect(gateway):
    # Subscribe before the user comes, push to the topic with a receipt, then close the client with a code of ours.
    service = Service(stub(gateway.grpc), "topics", v1.SCOPE_GATEWAY)
    for shard in (0, 1):
        user = next(users_on(shard, 2, "reader"))
        service.send(subscribe=v1.Subscribe(user_id=user, topic=f"news-{shard}"))
        with connect(gateway.user_url(user), proxy=None) as client:
            service.next("opened", user)
            sequence = service.send(push=v1.MessageRequest(
                topic=f"news-{shard}", payload=b"extra!", delivery=v1.Delivery(receipt=v1.RECEIPT_MODE_COUNTS)))
            assert client.recv(timeout=DEADLINE) == "extra!"
            receipt = service.next("receipt")
            assert receipt.sequence == sequence
            assert [(entry.outcome, entry.count) for entry in receipt.outcomes] == [(v1.OUTCOME_WRITTEN, 1)]
            service.send(disconnect=v1.Disconnect(user_id=user, code=4001, reason="enough"))
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=DEADLINE)
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "enough")
        assert service.next("closed").code == 4001
    service.close()


def test_acks_cover_every_command(gateway):
    service = Service(stub(gateway.grpc), "acks", v1.SCOPE_GATEWAY)
    last = [service.send(push=v1.MessageRequest(user_id="nobody", payload=b"x")) for _ in range(1000)][-1]
    while service.next("ack").sequence < last:
        pass
    service.close()


def test_queries_are_answered_for_the_whole_gateway(gateway):
    service = Service(stub(gateway.grpc), "", v1.SCOPE_GATEWAY, receive=())
    for shard in range(2):
        user = next(users_on(shard, 2))
        with connect(gateway.user_url(user), proxy=None) as client:
            # Whatever it is sent, it is there.
            service.send(push=v1.MessageRequest(user_id=user, payload=b"hi"))
            assert client.recv(timeout=DEADLINE) == "hi"
            sequence = service.send(query=v1.Query(user_id=user))
            result = service.next("result")
            assert (result.sequence, result.connection_count) == (sequence, 1)
            assert result.connections[0].epoch == service.welcome.epoch
    service.close()
