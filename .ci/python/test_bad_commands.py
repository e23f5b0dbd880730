"""Well-formed messages with invalid content: each costs that message only, with a reason, and is counted."""

import grpc
import pytest
from websockets.sync.client import connect

from exchange import Service
from wire import DEADLINE, shard_of, stub, v1

TEXT, BINARY = v1.PAYLOAD_KIND_TEXT, v1.PAYLOAD_KIND_BINARY
# Field 15 is none that this version knows: a target of a later one.
UNKNOWN_TARGET = v1.MessageRequest.FromString(b"\x7a\x03new" + v1.MessageRequest(payload=b"hi").SerializeToString())

INVALID = {
    "text that is not UTF-8": (v1.MessageRequest(user_id="a", payload=b"\xff", kind=TEXT), "INVALID_TEXT"),
    "no target": (v1.MessageRequest(payload=b"hi"), "UNKNOWN_TARGET"),
    "an unknown target": (UNKNOWN_TARGET, "UNKNOWN_TARGET"),
    "an empty user id": (v1.MessageRequest(user_id="", payload=b"hi"), "INVALID_NAME"),
    "a user id of 257 bytes": (v1.MessageRequest(user_id="u" * 257, payload=b"hi"), "INVALID_NAME"),
    "an empty list of users": (v1.MessageRequest(users=v1.Users(), payload=b"hi"), "INVALID_NAME"),
    "a topic of 257 bytes": (v1.MessageRequest(topic="t" * 257, payload=b"hi"), "INVALID_NAME"),
    "too many users": (v1.MessageRequest(users=v1.Users(user_ids=["u"] * 10_001), payload=b"hi"), "TOO_LARGE"),
    "a payload over the limit": (v1.MessageRequest(user_id="a", payload=bytes((1 << 20) + 1), kind=BINARY), "TOO_LARGE"),
}


@pytest.mark.parametrize("request_, reason", INVALID.values(), ids=INVALID)
def test_invalid_pushes_are_refused_in_every_way_to_push(gateway, counted, request_, reason):
    good = v1.MessageRequest(user_id="nobody", payload=b"hi")
    gateway_stub = stub(gateway.grpc)
    with counted("ringway_rejected_total", times=4, reason=reason.lower()):
        with pytest.raises(grpc.RpcError) as refused:
            gateway_stub.Push(request_, timeout=DEADLINE)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT and refused.value.details()

        expected = v1.MessageResponse(accepted=2, no_target=2, rejected=1)
        assert gateway_stub.PushMany(v1.PushBatch(messages=[good, request_, good]), timeout=DEADLINE) == expected
        assert gateway_stub.PushStream(iter([good, request_, good]), timeout=DEADLINE) == expected

        service = Service(gateway_stub, "", v1.SCOPE_GATEWAY, receive=())
        sequence = service.send(push=request_)
        rejected = service.next("rejected")
        assert (rejected.sequence, v1.RejectReason.Name(rejected.reason)) == (sequence, f"REJECT_REASON_{reason}")
        assert rejected.detail
        service.close()


COMMANDS = {
    "a frame without a body": ({}, "UNKNOWN_FRAME"),
    "a subscription of nobody": ({"subscribe": v1.Subscribe(topic="t")}, "UNKNOWN_TARGET"),
    "a subscription to nothing": ({"subscribe": v1.Subscribe(user_id="a")}, "INVALID_NAME"),
    "a close code that may not be sent": ({"disconnect": v1.Disconnect(user_id="a", code=1005)}, "BAD_CLOSE"),
    "a close reason that is too long": ({"disconnect": v1.Disconnect(user_id="a", reason="x" * 124)}, "BAD_CLOSE"),
    "a query without a question": ({"query": v1.Query()}, "UNKNOWN_TARGET"),
    "a query about nobody": ({"query": v1.Query(user_id="")}, "INVALID_NAME"),
    "a query about a topic with too long a name": ({"query": v1.Query(topic="x" * 257)}, "INVALID_NAME"),
}


@pytest.mark.parametrize("body, reason", COMMANDS.values(), ids=COMMANDS)
def test_invalid_commands_are_refused(gateway, counted, body, reason):
    service = Service(stub(gateway.grpc), "", v1.SCOPE_GATEWAY, receive=())
    with counted("ringway_rejected_total", reason=reason.lower()):
        sequence = service.send(**body)
        rejected = service.next("rejected")
        assert (rejected.sequence, v1.RejectReason.Name(rejected.reason)) == (sequence, f"REJECT_REASON_{reason}")
    service.close()


HELLOS = {
    "something else": (v1.LogicFrame(sequence=1, push=v1.MessageRequest(user_id="a")), grpc.StatusCode.FAILED_PRECONDITION),
    "a session id of 5 bytes": (v1.LogicFrame(hello=v1.Hello(session_id=b"short")), grpc.StatusCode.INVALID_ARGUMENT),
    "receiving for no service": (v1.LogicFrame(hello=v1.Hello(receive=[v1.RECEIVE_MESSAGES])), grpc.StatusCode.INVALID_ARGUMENT),
    "a shard that is not there": (v1.LogicFrame(hello=v1.Hello(expected_shard_plus_one=9)), grpc.StatusCode.FAILED_PRECONDITION),
}


@pytest.mark.parametrize("frame, status", HELLOS.values(), ids=HELLOS)
def test_a_stream_that_does_not_begin_with_a_good_hello_ends(gateway, counted, frame, status):
    with counted("ringway_stream_errors_total", reason="bad_hello"), pytest.raises(grpc.RpcError) as refused:
        next(stub(gateway.grpc).Exchange(iter([frame]), timeout=DEADLINE))
    assert refused.value.code() == status and refused.value.details()


def test_connections_that_are_gone_or_never_were_are_no_target(gateway, counted, unharmed):
    # The slot of the gone connection is taken by a newcomer at once: a push to the old id must not reach it.
    user = "passer-by"
    service = Service(stub(gateway.grpc), "observer", v1.SCOPE_GATEWAY)
    with connect(gateway.user_url(user), proxy=None):
        gone = service.next("opened", user).connection
    service.next("closed", user)
    with connect(gateway.user_url(user), proxy=None) as newcomer:
        present = service.next("opened", user).connection
        assert present != gone and shard_of(user, 2) == present.id >> 54
        strangers = {
            "gone": gone,
            "of another epoch": v1.Connection(epoch=present.epoch ^ 1, id=present.id),
            "without an epoch": v1.Connection(id=present.id),
            "zero": v1.Connection(epoch=present.epoch),
            "of a shard that is not there": v1.Connection(epoch=present.epoch, id=present.id | 1023 << 54),
            "of another generation": v1.Connection(epoch=present.epoch, id=present.id ^ 1),
            "all ones": v1.Connection(epoch=present.epoch, id=(1 << 64) - 1),
        }
        for name, connection in strangers.items():
            with counted("ringway_drops_total", reason="no_target"):
                request = v1.MessageRequest(connection=connection, payload=b"for a stranger")
                answer = stub(gateway.grpc).Push(request, timeout=DEADLINE)
                assert answer == v1.MessageResponse(accepted=1, no_target=1), name
        stub(gateway.grpc).Push(v1.MessageRequest(connection=present, payload=b"for you"), timeout=DEADLINE)
        assert newcomer.recv(timeout=DEADLINE) == "for you"
    service.next("closed", user)
    service.close()
    unharmed()
