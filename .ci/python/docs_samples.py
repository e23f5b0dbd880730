"""Runs the samples of docs/: in each language a service, a client and a push to that client; and what scripts do."""

import os
import re
import shutil
import subprocess
import sys
import threading

from websockets.sync.client import connect

from gateway import CI, OUT, Gateway
from wire import GENERATED, v1

DOCS = CI.parent / "docs"
SAMPLES = OUT / "samples"
LANGUAGES = {"py": sys.executable, "mjs": "node"}
SCRIPTS = {"sh": "sh"}
PAGES = ("protocol.md", "operation.md")
TIMEOUT = 30


def extract():
    """Writes each block that follows `<!-- sample: FILE -->` to its file, beside what the page says it needs."""
    shutil.rmtree(SAMPLES, ignore_errors=True)
    SAMPLES.mkdir()
    for name, target in {"proto": CI.parent / "proto", "node_modules": CI / "node_modules", "ringway": GENERATED / "ringway"}.items():
        (SAMPLES / name).symlink_to(target)
    page = "".join((DOCS / page).read_text() for page in PAGES)
    blocks = re.findall(r"<!-- sample: (\S+) -->\n```\w+\n(.*?)```", page, re.DOTALL)
    for name, code in blocks:
        (SAMPLES / name).write_text(code)
    assert len(blocks) == page.count("<!-- sample:"), "a marker without a block"
    return {name for name, _ in blocks}


class Sample:
    """A running sample, whose lines are read one by one."""

    def __init__(self, name, *arguments):
        self.name = name
        command = [(LANGUAGES | SCRIPTS)[name.rsplit(".", 1)[1]], name, *arguments]
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(command, cwd=SAMPLES, stdout=subprocess.PIPE, text=True, env=environment)
        self.watchdog = threading.Timer(TIMEOUT, self.process.kill)
        self.watchdog.start()

    def prints(self, expected):
        line = self.process.stdout.readline().rstrip("\n")
        assert line == expected, f"{self.name} printed {line!r}, expected {expected!r}"
        print(f"ok: {self.name} printed {line!r}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.watchdog.cancel()
        self.process.terminate()
        self.process.wait()


def serve(gateway, language):
    """A service hears and answers a client of each shard, and a push of a third process reaches them."""
    with Sample(f"service.{language}", gateway.grpc) as service:
        service.prints("serving 2 shards")
        for user in ("alice", "carol"):
            with Sample(f"client.{language}", gateway.ws, user) as client:
                service.prints(f"{user}: hello")
                client.prints("you said: hello")
                with Sample(f"push.{language}", gateway.grpc, user, "some news") as push:
                    push.prints("delivered: 1")
                client.prints("some news")


def push_from_scripts(gateway):
    """The same push by curl, to a client that is there."""
    counts = '{"accepted":1,"delivered":%d,"no_target":%d,"dropped":0,"rejected":0}'
    user = "alice"
    with connect(gateway.user_url(user), proxy=None) as client:
        with Sample("push.sh", gateway.admin, user) as script:
            for nobody in (0, 1, 0):
                script.prints(counts % (1, nobody))
        assert [client.recv(timeout=TIMEOUT) for _ in range(3)] == ["some news", b"\0\xff", "for all"]
        with connect(gateway.user_url("carol"), proxy=None), Sample("notice.sh", gateway.admin) as script:
            script.prints(counts % (2, 0))
        assert client.recv(timeout=TIMEOUT) == "maintenance at 22:00"


def check_close_codes():
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", (DOCS / "close-codes.md").read_text(), re.MULTILINE)
    documented = {f"CLOSE_CODE_{name}": int(code) for code, name in rows}
    in_proto = {name: code for name, code in v1.CloseCode.items() if name not in ("CLOSE_CODE_UNSPECIFIED", "CLOSE_CODE_GOING_AWAY")}
    assert documented == in_proto, set(documented.items()) ^ set(in_proto.items())
    print(f"ok: the {len(rows)} close codes of the docs are those of the proto")


def main():
    samples = extract()
    expected = {f"{part}.{language}" for part in ("client", "push", "service") for language in LANGUAGES}
    assert samples == expected | {"push.sh", "notice.sh"}, samples
    check_close_codes()
    with Gateway("docs_samples") as gateway:
        for language in LANGUAGES:
            serve(gateway, language)
        push_from_scripts(gateway)


if __name__ == "__main__":
    main()
