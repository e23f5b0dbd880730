"""Every file of tests has a gateway of its own, so that what one does to it is no other's concern."""

import contextlib
import itertools
import time

import pytest
from websockets.sync.client import connect

from gateway import Gateway
from wire import stub, users_on, v1


@pytest.fixture(scope="module")
def gateway(request):
    settings = getattr(request.module, "SETTINGS", {})
    with Gateway(request.module.__name__, **settings) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def unharmed(gateway):
    """Call it: a client on each shard, connected since before the attack, gets a push at once."""
    witnesses = [next(users_on(shard, gateway.shards, "witness")) for shard in range(gateway.shards)]
    service, numbers = stub(gateway.grpc), itertools.count()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(gateway.user_url(user), proxy=None)) for user in witnesses]

        def check():
            for user, client in zip(witnesses, clients):
                text = f"are you well? {next(numbers)}"
                assert service.Push(v1.MessageRequest(user_id=user, payload=text.encode()), timeout=5).delivered == 1
                assert client.recv(timeout=5) == text

        yield check


@pytest.fixture
def counted(gateway, unharmed):
    """`with counted(metric, times, **labels):` the attack inside is counted exactly so often, and harms nobody else."""

    @contextlib.contextmanager
    def counted(metric, times=1, **labels):
        expected = gateway.count(metric, **labels) + times
        yield
        wait_until(lambda: gateway.count(metric, **labels) >= expected, f"{metric} {labels} has not reached {expected}")
        assert gateway.count(metric, **labels) == expected
        unharmed()

    return counted


def wait_until(condition, otherwise, timeout=20):
    """Asks until the condition holds; what another process does gives no event to wait for."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)
