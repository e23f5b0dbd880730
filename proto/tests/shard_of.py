"""Checks, and with --write makes, the test vectors of shard_of with an xxh3 that is not ours (PyPI: xxhash)."""

import pathlib
import sys

import xxhash

VECTORS = pathlib.Path(__file__).parent.parent / "vectors" / "shard_of.tsv"
USERS = [b"a", b"alice", b"bob", "Zoë".encode(), "用户".encode(), b"u" * 16, b"u" * 17, b"u" * 128, b"u" * 129,
         b"u" * 240, b"u" * 241, b"u" * 256] + [f"user-{n}".encode() for n in range(8)]
SHARDS = [1, 2, 3, 4, 7, 32, 1024]


def shard_of(user: bytes, shards: int) -> int:
    return (xxhash.xxh3_64_intdigest(user) * shards) >> 64


def main() -> None:
    if "--write" in sys.argv:
        lines = ["# shard_of(user) = (xxh3_64(user) * shards) >> 64: user in hexadecimal, shards, shard"]
        lines += [f"{user.hex()}\t{shards}\t{shard_of(user, shards)}" for user in USERS for shards in SHARDS]
        VECTORS.write_text("\n".join(lines) + "\n")
    rows = [line.split("\t") for line in VECTORS.read_text().splitlines() if not line.startswith("#")]
    for user, shards, expected in rows:
        actual = shard_of(bytes.fromhex(user), int(shards))
        assert actual == int(expected), f"{user} on {shards} shards: {actual}, the file says {expected}"
    assert len(rows) >= 100, f"only {len(rows)} vectors"
    print(f"{len(rows)} vectors hold")


if __name__ == "__main__":
    main()
