"""A gRPC client by hand, on the h2 library: calls no decent client would make."""

import socket
import struct

import h2.config
import h2.connection
import h2.events
import h2.settings

TIMEOUT = 15
SERVICE = "/ringway.v1.GatewayService/"


class Link:
    """An HTTP/2 connection to the common gRPC port."""

    def __init__(self, gateway):
        host, port = gateway.grpc.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=TIMEOUT)
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
        self._h2 = h2.connection.H2Connection(config)
        self._h2.initiate_connection()
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def flush(self):
        self.socket.sendall(self._h2.data_to_send())

    def call(self, method, *, end=False, **changes):
        """Opens a stream; `changes` replace headers, with `_` for `-`. Returns its id."""
        headers = {":method": "POST", ":scheme": "http", ":path": SERVICE + method, ":authority": "localhost"}
        headers[":method"] = changes.pop("http_method", "POST")
        headers |= {"te": "trailers", "content-type": "application/grpc"}
        headers |= {name.replace("_", "-"): value for name, value in changes.items()}
        stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, list(headers.items()), end_stream=end)
        self.flush()
        return stream

    def send(self, stream, data, end=True):
        self._h2.send_data(stream, data, end_stream=end)
        self.flush()

    def reset(self, stream):
        self._h2.reset_stream(stream, error_code=8)
        self.flush()

    def answer(self, stream):
        """Waits for the end of a stream; returns all its headers and trailers, and its data."""
        headers, data = {}, b""
        while True:
            chunk = self.socket.recv(65536)
            assert chunk, f"the connection ended; so far: {headers} {data!r}"
            for event in self._h2.receive_data(chunk):
                if getattr(event, "stream_id", None) != stream:
                    assert not isinstance(event, h2.events.ConnectionTerminated), f"the connection was ended: {event}"
                    continue
                if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                    headers |= dict(event.headers)
                elif isinstance(event, h2.events.DataReceived):
                    data += event.data
                    self._h2.acknowledge_received_data(event.flow_controlled_length, stream)
                elif isinstance(event, h2.events.StreamReset):
                    headers["reset"] = str(event.error_code)
                    return headers, data
                elif isinstance(event, h2.events.StreamEnded):
                    self.flush()
                    return headers, data
            self.flush()


def prefixed(message, announced=None, flag=0):
    """A message behind gRPC's prefix, which may announce another length."""
    return struct.pack("!BI", flag, len(message) if announced is None else announced) + message
