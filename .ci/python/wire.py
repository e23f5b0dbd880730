"""The types and stubs of ringway.v1, generated from `proto/` when imported, and what every test says with them."""

import itertools
import sys

import grpc
import xxhash
from grpc_tools import protoc

from gateway import CI, OUT

GENERATED = OUT / "python"


def generate():
    GENERATED.mkdir(parents=True, exist_ok=True)
    arguments = [f"-I{CI.parent / 'proto'}", f"--python_out={GENERATED}", f"--grpc_python_out={GENERATED}"]
    if protoc.main(["protoc", *arguments, "ringway/v1/gateway.proto"]) != 0:
        raise RuntimeError("protoc refuses gateway.proto")
    sys.path.insert(0, str(GENERATED))


generate()

from ringway.v1 import gateway_pb2 as v1  # noqa: E402
from ringway.v1 import gateway_pb2_grpc  # noqa: E402

# A push may wait behind others, a test may not wait for ever.
DEADLINE = 60


def stub(address):
    """A client of the gateway at `address`, on a connection of its own."""
    channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
    return gateway_pb2_grpc.GatewayServiceStub(channel)


def shard_of(user, shards):
    return (xxhash.xxh3_64_intdigest(user.encode()) * shards) >> 64


def users_on(shard, shards, prefix="user"):
    """Names of users that belong to `shard`, without end."""
    names = (f"{prefix}-{n}" for n in itertools.count())
    return (name for name in names if shard_of(name, shards) == shard)


def shard_stubs(gateway):
    """A client for the port of every shard, in order: what `Describe` tells, at the host that was dialled."""
    described = stub(gateway.grpc).Describe(v1.DescribeRequest(), timeout=DEADLINE)
    host = gateway.grpc.rsplit(":", 1)[0]
    return [stub(host + address if address.startswith(":") else address) for address in described.shard_addresses]
