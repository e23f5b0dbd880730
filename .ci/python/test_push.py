"""Stock grpcio pushes to stock `websockets` clients: every way to push, on the common port and on the shards' own."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from clients import Clients
from wire import DEADLINE, shard_of, shard_stubs, stub, v1

USERS = [f"user-{n}" for n in range(100)]
MESSAGES = 100_000
PAYLOAD_BYTES = 128


@pytest.fixture(scope="module")
def clients(gateway):
    with Clients(gateway, USERS) as clients:
        yield clients


def test_describe(gateway):
    described = stub(gateway.grpc).Describe(v1.DescribeRequest(), timeout=DEADLINE)
    assert described.shards == 2 and len(described.shard_addresses) == 2
    assert described.epoch != 0 and described.version and described.driver
    assert described.limits.max_message_bytes >= 1 << 20


def test_health(gateway):
    health = health_pb2_grpc.HealthStub(grpc.insecure_channel(gateway.grpc))
    for service in ("", "ringway.v1.GatewayService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("kind, payload, expected", [
    (v1.PAYLOAD_KIND_TEXT, "grüß dich".encode(), "grüß dich"),
    (v1.PAYLOAD_KIND_BINARY, bytes(range(256)), bytes(range(256))),
    (v1.PAYLOAD_KIND_UNSPECIFIED, b"", ""),
])
def test_push(gateway, clients, kind, payload, expected):
    request = v1.MessageRequest(user_id=USERS[0], payload=payload, kind=kind)
    assert stub(gateway.grpc).Push(request, timeout=DEADLINE) == v1.MessageResponse(accepted=1, delivered=1)
    assert clients.take(1)[USERS[0]] == [expected]


def test_push_to_nobody(gateway):
    request = v1.MessageRequest(user_id="nobody", payload=b"hi")
    assert stub(gateway.grpc).Push(request, timeout=DEADLINE) == v1.MessageResponse(accepted=1, no_target=1)


def test_push_many_to_every_kind_of_target(gateway, clients):
    # One batch whose targets lie on both shards: users, all, nobody, and one message that is refused.
    batch = v1.PushBatch(messages=[
        v1.MessageRequest(user_id=USERS[1], payload=b"one"),
        v1.MessageRequest(users=v1.Users(user_ids=USERS[2:5] + ["nobody"]), payload=b"three"),
        v1.MessageRequest(everyone=v1.Everyone(), payload=b"all"),
        v1.MessageRequest(topic="empty", payload=b"none"),
        v1.MessageRequest(user_id=USERS[1], payload=b"\xff", kind=v1.PAYLOAD_KIND_TEXT),
    ])
    answer = stub(gateway.grpc).PushMany(batch, timeout=DEADLINE)
    assert (answer.accepted, answer.delivered, answer.dropped, answer.rejected) == (4, 1 + 3 + 100, 0, 1)
    received = clients.take(104)
    assert sorted(received[USERS[1]]) == ["all", "one"]
    assert all(sorted(received[user]) == ["all", "three"] for user in USERS[2:5])
    assert all(received[user] == ["all"] for user in USERS[5:])


def requests(users, per_user):
    """`per_user` messages to each user, taking turns; each tells its place, and is as long as PAYLOAD_BYTES."""
    for n, user in itertools.product(range(per_user), users):
        yield v1.MessageRequest(user_id=user, payload=f"{user} {n:06}".ljust(PAYLOAD_BYTES, ".").encode())


def assert_complete_and_in_order(received, per_user):
    for user, messages in received.items():
        assert messages == [f"{user} {n:06}".ljust(PAYLOAD_BYTES, ".") for n in range(per_user)], user


def test_push_stream_through_the_common_port(gateway, clients):
    per_user = MESSAGES // len(USERS)
    crossings = gateway.count("ringway_crossings_total", kind="push")
    answer = stub(gateway.grpc).PushStream(requests(USERS, per_user), timeout=DEADLINE)
    assert answer == v1.MessageResponse(accepted=MESSAGES, delivered=MESSAGES)
    assert_complete_and_in_order(clients.take(MESSAGES), per_user)
    # One shard took the stream: what belongs to the other one crossed, and only that.
    by_shard = [per_user * sum(shard_of(user, 2) == shard for user in USERS) for shard in (0, 1)]
    assert gateway.count("ringway_crossings_total", kind="push") - crossings in by_shard


def test_push_stream_through_the_ports_of_the_shards(gateway, clients):
    per_user = MESSAGES // len(USERS)
    crossings = gateway.count("ringway_crossings_total", kind="push")
    own = [[user for user in USERS if shard_of(user, 2) == shard] for shard in (0, 1)]

    def push(shard_stub, users):
        return shard_stub.PushStream(requests(users, per_user), timeout=DEADLINE)

    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(push, shard_stubs(gateway), own))
    for answer, users in zip(answers, own):
        assert answer == v1.MessageResponse(accepted=per_user * len(users), delivered=per_user * len(users))
    assert_complete_and_in_order(clients.take(MESSAGES), per_user)
    assert gateway.count("ringway_crossings_total", kind="push") == crossings
