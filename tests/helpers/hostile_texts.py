"""Small manifests, JSON, YAML and Python configurations that claim to be large."""

import json
from collections.abc import Iterator
from typing import Any

HUGE = (2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63, 2**64, 10**30, -1, -(2**63))

Case = tuple[str, str, bytes]
"""A name, the file's name, and its content."""


def manifest(**changes: Any) -> dict[str, Any]:
    """A manifest of one sample in one shard of 1,024 bytes."""
    row = {"key": "a", "shard": 0, "offset": 0, "length": 1024, "crc32": 0, "frames": 8, "fps": 25.0, "width": 64}
    row |= {"height": 64, "labels": [[0, 0.0, 0.3]]}
    shard = {"name": "x-train-000000.tar", "samples": 1, "bytes": 1024, "sha256": "0" * 64}
    shard |= {name[6:]: value for name, value in changes.items() if name.startswith("shard_")}
    row |= {name: value for name, value in changes.items() if name in row}
    return {
        "format": 1,
        "dataset": "x",
        "split": "train",
        "task": "multilabel",
        "classes": ["c"],
        "groups": {},
        "shards": [list(shard.values())],
        "sample": list(row),
        "samples": [list(row.values())],
    }


def manifests() -> Iterator[Case]:
    for name in ("length", "offset", "frames", "width", "height", "shard", "shard_bytes", "shard_samples", "fps"):
        for value in HUGE:
            yield f"{name}={value}", "x-train-manifest.json", json.dumps(manifest(**{name: value})).encode()
    yield "many classes", "x-train-manifest.json", json.dumps(manifest() | {"classes": ["c"] * 100_000}).encode()
    yield "nested", "x-train-manifest.json", b'{"format": ' + b"[" * 100_000


def jsons() -> Iterator[Case]:
    texts = {
        "lists": b"[" * 10**6,
        "objects": b'{"a":' * 10**5,
        "closed lists": b"[" * 5000 + b"]" * 5000,
        "empty lists": b"[" + b"[]," * 10**7 + b"0]",
        "empty objects": b"[" + b"{}," * 10**7 + b"0]",
        "zeros": b"[" + b"0," * 2 * 10**7 + b"0]",
        "digits": b"9" * 10**6,
        "negative digits": b"-" + b"9" * 10**6,
        "a letter of four bytes": b'"' + "\U0001f600".encode() + b"a" * (100 << 20) + b'"',
        "hidden in a text": b'["' + b"]" * 10**6 + b'"' + b",[" * 10**5,
        "escapes": b'["' + b"\\\\" * 10**6 + b'",' + b"[" * 10**5,
        "open text": b'"' + b"a" * 10**6,
        "no text": b"\xff" * 1000,
        "empty": b"",
        "a word": b"nul",
        "two": b"[][]",
        "sixteen bits": '["'.encode("utf-16") + b"\0[" * 10**5,
        "quotes": b'"' * 10**6,
        "colons": b":" * 10**6,
        "pairs": b"[" + b'{"a":0},' * 5 * 10**6 + b"0]",
        "backslashes": b"\\" * (3 << 20),
        "half": b'{"a": [1, 2',
    }
    return ((name, "a.json", text) for name, text in texts.items())


def yamls() -> Iterator[Case]:
    laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    laughs += "".join(f"a{k}: &a{k} [{','.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 10))
    mappings = "a0: &a0 {x: 1}\n" + "".join(f"a{k}: &a{k} {{l: *a{k - 1}, r: *a{k - 1}}}\n" for k in range(1, 40))
    texts = {
        "aliases": laughs,
        "aliases of mappings": mappings,
        "merges": "a: &a {b: 1}\nc: {<<: *a}\n",
        "itself": "a: &a [*a]\n",
        "itself as a key": "&a {*a : 1}\n",
        "lists": "[" * 10**5,
        "mappings": "{a: " * 10**5,
        "dashes": "- " * 10**5,
        "questions": "? " * 10**5,
        "indented": "".join(" " * k + "a:\n" for k in range(900)),
        "a call": "!!python/object/apply:os.system [x]",
        "a name": "a: !!python/name:os.system",
        "a set": "!!set {a}",
        "binary": "!!binary aaaa",
        "a tag of its own": "a: !x 1",
        "long": "a" * (1 << 20),
        "digits": "a: " + "9" * 10**5,
        "sixties": "a: 1" + ":1" * 10**5,
        "escape": "a: \x1b[0m",
        "an open list": "a: [1, 2",
        "a tab": "\ta: 1",
        "unknown alias": "a: *b",
        "a float": "a: 1" + "0" * 10**5 + "e3",
        "a null byte": "a: \0",
    }
    return ((name, "config.yaml", text.encode()) for name, text in texts.items())


def configurations() -> Iterator[Case]:
    doubled = "a = [1]\n" + "".join("a = a + a\n" for _ in range(60))
    shared = "a = [1]\n" + "".join("a = [a, a]\n" for _ in range(60))
    texts = {
        "brackets": "a = " + "(" * 5000,
        "closed": "a = " + "[" * 5000 + "]" * 5000,
        "minus": "a = " + "-" * 10**5 + "1",
        "sums": "a = " + "+".join("1" * 10**5),
        "doubled": doubled,
        "shared": shared,
        "texts": doubled.replace("[1]", "'x'"),
        "itself": "_base_ = 'config.py'",
        "twice": "_base_ = ['config.py', './config.py']",
        "long": "a" * (1 << 20),
        "not": "a = " + "not " * 10**5 + "1",
        "lambdas": "a = " + "lambda: " * 10**4 + "1",
        "dots": "a = b" + ".c" * 10**5,
        "calls": "a = b" + "()" * 10**5,
        "conditions": "a = " + "1 if 1 else " * 10**4 + "1",
        "powers": "a = " + "2**" * 10**4 + "2",
        "a null byte": "a = '\0'",
        "open text": "a = '",
        "digits": "a = " + "9" * 10**5,
        "indents": "if 1:\n" * 1000,
        "a number as base": "_base_ = 5",
        "dictionaries": "a = " + "dict(a=" * 5000,
    }
    return ((name, "config.py", text.encode()) for name, text in texts.items())
