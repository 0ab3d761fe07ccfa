"""What differs between two data sets, in words."""

from dataclasses import replace

import pytest

from nlnet.data.modules.fingerprint import differences, fingerprint, hashed_keys, hashed_samples
from nlnet.data.shards.manifest import Manifest, Sample, Shard

SAMPLES = tuple(
    Sample(f"k{i:02d}", i // 8, 512 * i, 512, i + 1, 8, 8.0, 32, 32, ((i % 3, 0.0, 1.0),)) for i in range(16)
)
MANIFEST = Manifest("x", "train", "multilabel", ("a", "b", "c"), {"g": (0,)}, (Shard("s", 16, 9000, ""),), SAMPLES)
KEYS = [sample.key for sample in SAMPLES]


def made(samples=SAMPLES, classes=("a", "b", "c"), groups=None, **changes):
    manifest = replace(MANIFEST, samples=tuple(samples), **changes)
    return fingerprint(classes, groups or {"g": (0,)}, hashed_samples(manifest), hashed_samples(MANIFEST))


def said(new, old=None):
    return differences(old or made(), new, lambda a, b: f"was {a}, is now {b}", KEYS)


def with_one(k, **changes):
    return [replace(sample, **changes) if i == k else sample for i, sample in enumerate(SAMPLES)]


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (made(), []),
        (made(with_one(3, labels=((1, 0.0, 1.0),))), ["labels of 1 training samples differ, first k03"]),
        (made(with_one(3, labels=((0, 0.0, 1.5),))), ["labels of 1 training samples differ, first k03"]),
        (made(with_one(5, crc32=0)), ["content of 1 training samples differ, first k05"]),
        (made(with_one(5, length=1024)), ["content of 1 training samples differ, first k05"]),
        (made(reversed(SAMPLES)), ["the training samples are in another order, first k15"]),
        (made(SAMPLES[4:]), ["the number of training samples was 16, is now 12; 4 are not in both, first k0"]),
        (
            made(with_one(2, key="new")),
            ["the number of training samples was 16, is now 16; 2 are not in both, first k02"],
        ),
        (made(classes=("b", "a", "c")), ["class names in another order: 0 was a, is now b"]),
        (made(classes=("a", "b", "d")), ["other class names: 2 was c, is now d"]),
        (made(classes=("a", "b")), ["the number of classes was 3, is now 2"]),
        (made(groups={"g": (1,)}), ["the groups of classes differ"]),
        (made(with_one(3, shard=1)), ["the training samples are the same, but not how they are divided into shards"]),
        (made(details={"x": 1}), ["the training samples are the same, but not how they are divided into shards"]),
        (
            made([replace(s, labels=()) for s in SAMPLES[:12]], classes=("c", "b", "a")),
            ["class names in another order", "the number of training", "labels of 12 training samples differ, first"],
        ),
    ],
)
def test_each_difference_is_a_line(new, words):
    lines = said(new)
    assert len(lines) == len(words), lines
    for line, word in zip(lines, words, strict=True):
        assert word in line


def test_data_of_which_the_names_alone_are_known_are_compared_by_these():
    old = fingerprint(["a"], {}, hashed_keys(["p", "q"]), hashed_keys([]))
    assert said(fingerprint(["a"], {}, hashed_keys(["p", "q"]), hashed_keys([])), old) == []
    (line,) = said(fingerprint(["a"], {}, hashed_keys(["q"]), hashed_keys([])), old)
    assert line == "the number of training samples was 2, is now 1; 1 are not in both"
