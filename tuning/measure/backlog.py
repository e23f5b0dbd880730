"""What net.core.somaxconn changes when many clients come back at once: run it in a network namespace of its own,

    sudo unshare -n python3 tuning/measure/backlog.py

For each value a listener asks for a backlog of 65,535 and is busy for 100 ms, as a shard may be, while clients connect. Told are what
the kernel dropped, how many clients were accepted within 5 s, and when the last one of them was.
"""

import fcntl
import resource
import socket
import struct
import threading
import time

CLIENTS = 5_000
BUSY = 0.1
WAIT = 5.0
VALUES = (128, 4096, 65535)


def loopback_up():
    with socket.socket() as any_socket:
        request = struct.pack("16sH14x", b"lo", 1)  # IFF_UP
        fcntl.ioctl(any_socket, 0x8914, request)  # SIOCSIFFLAGS


def overflows():
    head, values = [line.split()[1:] for line in open("/proc/net/netstat") if line.startswith("TcpExt:")]
    return int(dict(zip(head, values))["ListenOverflows"])


def storm():
    listener = socket.create_server(("127.0.0.1", 0), backlog=65535)
    began, before = time.monotonic(), overflows()
    accepted, times = [], []

    def serve():
        time.sleep(BUSY)
        while len(accepted) < CLIENTS and (left := began + WAIT - time.monotonic()) > 0:
            listener.settimeout(left)
            try:
                accepted.append(listener.accept()[0])
            except TimeoutError:
                break
            times.append(time.monotonic() - began)

    server = threading.Thread(target=serve)
    server.start()
    clients = []
    for _ in range(CLIENTS):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
        clients.append(client)
    server.join()
    for sock in [listener] + accepted + clients:
        sock.close()
    return overflows() - before, len(times), times[-1]


def main():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loopback_up()
    for value in VALUES:
        with open("/proc/sys/net/core/somaxconn", "w") as knob:
            knob.write(str(value))
        dropped, accepted, last = storm()
        print(f"somaxconn {value:>5}: {dropped:>5} drops; {accepted} of {CLIENTS} accepted, the last after {last:.2f} s", flush=True)


if __name__ == "__main__":
    main()
