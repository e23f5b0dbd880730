"""A logic service in Python: one `Exchange` stream."""

import os
import queue

from wire import DEADLINE, v1

EVENTS = {"opened", "message", "closed"}


class Service:
    """An `Exchange` stream; one with a name receives client events."""

    def __init__(self, gateway_stub, name, scope, receive=(v1.RECEIVE_MESSAGES,)):
        self._down = queue.SimpleQueue()
        self._sequence = 0
        self._up = gateway_stub.Exchange(iter(self._down.get, None), timeout=DEADLINE)
        self._down.put(v1.LogicFrame(hello=v1.Hello(
            service=name, session_id=os.urandom(16), receive=receive, scope=scope)))
        self.welcome = self.next("welcome")

    def next(self, body, user=None):
        """The next frame, which must be of this kind; acks come when they like, and are skipped unless asked for. With a
        user: the next event of this user."""
        for frame in self._up:
            kind = frame.WhichOneof("body")
            content = getattr(frame, kind)
            if kind == body and (user is None or user == content.user_id):
                return content
            of_others = user is not None and kind in EVENTS and content.user_id != user
            assert kind == "ack" or of_others, f"expected {body}, got {frame}"
        raise AssertionError(f"the stream ended; expected {body}")

    def send(self, **body):
        self._sequence += 1
        self._down.put(v1.LogicFrame(sequence=self._sequence, **body))
        return self._sequence

    def close(self):
        """Ends the stream in good order: the gateway sends what it owes, no refusals among it, and then OK."""
        self._down.put(None)
        rest = {frame.WhichOneof("body") for frame in self._up}
        assert rest <= {"ack"} | EVENTS, rest
