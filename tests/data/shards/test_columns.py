"""Samples as columns are the samples they were made of, here and in other processes, however the JSON is laid out."""

import json
import multiprocessing
import pickle
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nlnet.data.shards.columns.samples import NUMBERS, Samples
from nlnet.data.shards.manifest import Manifest, Sample, Shard, joined
from nlnet.errors import UserError

N = 5000  # more than are made at a time


def sample(k: int, rng: random.Random) -> Sample:
    frames = rng.randrange(1, 9)
    labels = tuple((rng.randrange(3), rng.random(), 9 * rng.random()) for _ in range(rng.choice((0, 1, 1, 3))))
    table = rng.choice(((), (), (1, 30, 5), (1, 1000, 0, *[33] * (frames - 1))))
    key = rng.choice(("k{}", "ключ-{}", "\ud800{}", "x" * 99 + "{}")).format(k)
    numbers = (512 * k, 512, rng.randrange(1 << 32), frames, rng.choice((30000 / 1001, 25.0)), 32 + k % 7, 24)
    return Sample(key, k * 3 // N, *numbers, labels, table)


ROWS = tuple(sample(k, random.Random(k)) for k in range(N))
COUNTS = [sum(row.shard == s for row in ROWS) for s in range(3)]
SHARDS = tuple(Shard(f"x-train-{s:06d}.tar", count, 512 * N, "ab" * 32) for s, count in enumerate(COUNTS))
MANIFEST = Manifest("x", "train", "multilabel", ("a", "b", "c"), {"g": (0,)}, SHARDS, ROWS)


def test_columns_are_the_samples_they_were_made_of() -> None:
    samples = Samples.of(ROWS)
    assert len(samples) == N
    assert tuple(samples) == ROWS
    assert [samples[k] for k in range(0, N, 7)] == list(ROWS[::7])
    assert (samples[-1], samples[-N]) == (ROWS[-1], ROWS[0])
    with pytest.raises(IndexError):
        samples[N]
    assert tuple(samples[10:4000:3]) == ROWS[10:4000:3]
    assert tuple(samples[::-1]) == ROWS[::-1]
    assert tuple(samples[5:5]) == ()
    mask = np.array([bool(row.labels) for row in ROWS])
    assert tuple(samples.take(mask)) == tuple(row for row in ROWS if row.labels)
    assert list(samples.keys) == [row.key for row in ROWS] == samples.keys[:]
    assert (samples.keys[4], samples.keys[-1]) == (ROWS[4].key, ROWS[-1].key)
    assert list(samples.labels) == [row.labels for row in ROWS]
    assert list(samples.tables) == [row.table for row in ROWS]
    for name in NUMBERS:
        assert samples.number(name).tolist() == [getattr(row, name) for row in ROWS]
    assert samples == Samples.joined([samples[:17], samples[17:17], samples[17:]])
    assert samples != samples[1:]
    assert samples.digest() == Samples.of(list(ROWS)).digest()
    assert len({Samples.of(ROWS).digest(), samples[::-1].digest(), samples[1:].digest()}) == 3


def test_every_value_is_in_the_digest() -> None:
    one = ROWS[next(k for k, row in enumerate(ROWS) if row.labels and len(row.table) == 3)]
    others = [replace(one, **{name: getattr(one, name) + 1}) for name in NUMBERS]
    others += [replace(one, key=one.key + "x"), replace(one, labels=()), replace(one, table=(1, 30, 6))]
    digests = {Samples.of([row]).digest() for row in (one, *others)}
    assert len(digests) == len(others) + 1


@pytest.mark.parametrize("values", [{"shard": 1 << 31}, {"crc32": -1}, {"frames": -(1 << 40)}, {"offset": 1 << 63}])
def test_a_number_without_a_place_is_refused_and_not_cut(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Samples.of([replace(ROWS[0], **values)])


def test_a_sample_takes_some_hundred_bytes() -> None:
    plain = [
        replace(row, key=f"{k:011d}_000000_000010", labels=((k % 3, 0.0, 9.0),), table=()) for k, row in enumerate(ROWS)
    ]
    columns = Samples.of(plain)
    assert len(pickle.dumps(columns)) / N < 110


def test_the_layout_of_the_json_changes_nothing() -> None:
    text = MANIFEST.to_json()
    content = json.loads(text)
    assert Manifest.from_json(text, "") == MANIFEST
    for layout in (json.dumps(content), json.dumps(content, indent=1), json.dumps(content, indent=2).encode()):
        assert Manifest.from_json(layout, "") == MANIFEST
    moved = {"samples": content.pop("samples"), **content}
    assert Manifest.from_json(json.dumps(moved), "") == MANIFEST


def outcome(text: bytes) -> object:
    """The manifest, or that there is none."""
    try:
        return Manifest.from_json(text, "m")
    except UserError:
        return None


def test_a_text_is_read_by_line_as_it_is_read_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts that look as if their samples stood one a line, and are something else to a reader of JSON."""
    shards = (replace(SHARDS[0], samples=40),)
    rows = [replace(row, key=f"k{k}") for k, row in enumerate(ROWS[:40])]
    text = replace(MANIFEST, samples=rows, shards=shards).to_json().encode()
    head, mark, body = text.partition(b'"samples": [\n')
    end = body.index(b"\n]\n}")
    tricky = [
        head + mark + b"\n]\n}\n",
        head + mark + body[:end] + b",\n\n]\n}\n",
        head + mark + b",\n" + body,
        head + mark + body.replace(b",\n", b",\n,\n", 1),
        head + mark + body.replace(b",\n", b"\n", 1),
        head + mark + body + b"}",
        head + b'"details": {\n' + mark + body + b"}",
        head + b'"details": {\n' + mark + b"\n]\n},\n" + mark + body,
        head + mark + b'"\n]\n}, "x": [\n' + body,
        head + mark + b"\n],\n" + mark + body,
        text + b"{}",
        b"\xef\xbb\xbf" + text,
        text.decode().encode("utf-16"),
    ]
    rng = random.Random(0)
    for _ in range(300):
        place, length = rng.randrange(len(text)), rng.randrange(3)
        tricky.append(
            text[:place] + rng.choice((b"", b"[", b"]", b",\n", b"\n", b'"', b"}", b"1")) + text[place + length :]
        )
    monkeypatch.setattr("nlnet.data.shards.columns.rows._PIECE", 200)
    by_line = [outcome(found) for found in tricky]
    monkeypatch.setattr("nlnet.data.shards.columns.rows._BEGIN", b"never")
    assert by_line == [outcome(found) for found in tricky]
    assert sum(found is not None for found in by_line) > 10


def test_a_mistake_anywhere_is_named_by_its_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nlnet.data.shards.columns.rows._PIECE", 1000)
    for k in (0, 1234, N - 1):
        content = json.loads(MANIFEST.to_json())
        content["samples"][k][2] = 0.5
        text = MANIFEST.to_json().split('"samples": [')[0] + '"samples": [\n'
        text += ",\n".join(map(json.dumps, content["samples"])) + "\n]\n}\n"
        with pytest.raises(UserError, match=f"sample {k}: offset is 0.5, not a whole number"):
            Manifest.from_json(text, "m")
        rows = [replace(row, width=0) if row is ROWS[k] else row for row in ROWS]
        with pytest.raises(UserError, match="has 0 x 24 pixels"):
            Manifest.from_json(replace(MANIFEST, samples=rows).to_json(), "m")


def test_splits_are_joined_by_their_columns() -> None:
    other = replace(MANIFEST, split="val", samples=[replace(row, key=f"other-{k}") for k, row in enumerate(ROWS)])
    both = joined([MANIFEST, other])
    assert tuple(both.samples[:N]) == ROWS
    assert list(both.samples[N:]) == [replace(row, shard=row.shard + 3) for row in other.samples]
    with pytest.raises(UserError, match="5,000 samples are in more than one of them, first k"):
        joined([replace(MANIFEST, samples=[replace(r, key=f"k{k}") for k, r in enumerate(ROWS)])] * 2)


def _look(samples: Samples, answer: "multiprocessing.connection.Connection") -> None:
    private = sum(
        int(line.split()[1])
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines()
        if line.startswith("Private")
    )
    answer.send((samples.digest(), samples[N - 1], samples.number("fps").flags.writeable, private))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from /proc")
def test_a_process_shares_the_columns_and_cannot_change_them() -> None:
    samples = Samples.joined([Samples.of(ROWS)] * 200)
    digest = samples.digest()
    megabytes = len(pickle.dumps(samples)) / 1e6
    context = multiprocessing.get_context("forkserver")
    found = []
    for sent in (samples[:N], samples):
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=_look, args=(sent, send))
        process.start()
        assert receive.poll(60)
        found.append(receive.recv())
        process.join(60)
    (_, _, _, small), (seen, last, writeable, large) = found
    assert (seen, last, writeable) == (digest, ROWS[-1], False)
    assert (large - small) / 1000 < 0.2 * megabytes  # which are there once
    assert samples.digest() == digest
