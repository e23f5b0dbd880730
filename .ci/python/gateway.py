"""A gateway process for a test: free ports, its metrics, its memory, and an orderly end."""

import os
import pathlib
import re
import signal
import subprocess
import threading
import urllib.request

CI = pathlib.Path(__file__).parent.parent
OUT = CI / "out"
BINARY = os.environ.get("RINGWAY", str(CI.parent / "target/debug/ringway"))

# Ends at once when told to: tests wait for events, not for drains.
QUICK_DRAIN = {"drain": {"spread_ms": 0, "grace_ms": 1000}}


class Gateway:
    """`ringway serve` (or `demo`) with two shards on free ports of loopback. Use it in a `with`."""

    def __init__(self, name, mode="serve", shards=2, **settings):
        self.log = OUT / f"{name}.log"
        command = [BINARY, mode, "--shards", str(shards)]
        for listener in ("--ws", "--grpc", "--admin"):
            command += [listener, "127.0.0.1:0"]
        with self.log.open("w") as log:
            environment = os.environ | variables(QUICK_DRAIN | settings)
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        ready = self._ready_line()
        self.ws, self.grpc, self.admin = (ready[key] for key in ("ws", "grpc", "admin"))
        self.shards = int(ready["shards"])

    def _ready_line(self):
        watchdog = threading.Timer(60, self.process.kill)
        watchdog.start()
        for line in self.process.stdout:
            if line.startswith("ringway ready "):
                watchdog.cancel()
                # Whatever else it prints must not fill the pipe.
                threading.Thread(target=self.process.stdout.read, daemon=True).start()
                return dict(field.split("=", 1) for field in line.split()[2:])
        watchdog.cancel()
        raise RuntimeError(f"ringway did not become ready; its log:\n{self.log.read_text()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        assert code == 0, f"ringway ended with {code}; see {self.log}"

    def user_url(self, user):
        return f"ws://{self.ws}/ws?user={user}"

    def address(self):
        """Host and port of the WebSocket listener, for plain sockets."""
        host, port = self.ws.rsplit(":", 1)
        return host, int(port)

    def count(self, metric, **labels):
        """The sum of a metric over all its labels, or over those that match."""
        return sum(value for name, found, value in self._samples() if name == metric and labels.items() <= found.items())

    def errors(self):
        """Every count of something that was refused or went wrong, by (metric, label): what an attack must raise."""
        families = ("refused_handshakes", "client_errors", "stream_errors", "rejected", "accept_errors", "drops")
        names = {f"ringway_{family}_total" for family in families}
        counts = {}
        for name, labels, value in self._samples():
            if name in names:
                key = (name, labels["reason"])
                counts[key] = counts.get(key, 0) + value
        return counts

    def _samples(self):
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=10) as response:
            text = response.read().decode()
        for line in text.splitlines():
            match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if match:
                name, labels, value = match.groups()
                yield name, dict(re.findall(r'(\w+)="([^"]*)"', labels or "")), float(value)

    def rss_bytes(self):
        """Resident memory of the process."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024


def variables(settings):
    """{section: {key: value}} as environment variables."""
    return {f"RINGWAY_{section}_{key}".upper(): str(value)
            for section, values in settings.items() for key, value in values.items()}
