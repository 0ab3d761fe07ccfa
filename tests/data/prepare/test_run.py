"""From folders of videos to shards: names, cuts, skips, restarts after an interruption, and refusals."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.preparing import charades, clip, digests, settings
from nlnet.data.media.decode import decode_clip
from nlnet.data.media.video import probe
from nlnet.data.prepare import run as module
from nlnet.data.prepare.output import Folder
from nlnet.data.prepare.run import prepare
from nlnet.data.shards.manifest import Manifest
from nlnet.errors import UserError

KINETICS = "label,youtube_id,time_start,time_end,split\n"


def read(path: Path | str) -> Manifest:
    return Manifest.from_json(Path(path).read_text(), str(path))


def failures(out: Path) -> list[tuple[str, str, str]]:
    with open(out / "failures.csv", newline="") as file:
        return sorted((row["split"], row["video"], row["cause"]) for row in csv.DictReader(file))


def test_charades_with_everything_that_goes_wrong(tmp_path: Path) -> None:
    source = charades(tmp_path / "in", 5, "gone,c001 0 1,1\nbroken,c001 0 1,1\nV00,c009 0 1,1\na.b,,1\na_b,,1\n")
    (source / "videos" / "broken.mp4").write_bytes(clip(0)[:500])
    (source / "more" / "deep").mkdir(parents=True)
    for name in ("a.b.mp4", "a_b.MP4"):
        (source / "more" / "deep" / name).write_bytes(clip(9))
    (source / "Charades_v1_test.csv").write_text("id,actions,length\nV01,c000 0 1,1\n")
    said: list[str] = []
    out = source / "shards"  # inside the folder that is searched
    paths = [Path(path) for path in prepare(settings(source, out, samples_per_shard=3), said.append)]

    train, test = (read(path) for path in paths)
    assert [path.name for path in paths] == ["charades-train-manifest.json", "charades-test-manifest.json"]
    assert (train.task, train.split, len(train.classes)) == ("multilabel", "train", 157)
    assert {s.key for s in train.samples} == {"V00", "V01", "V02", "V03", "V04", "a_b", "a_b-2"}
    assert [shard.name for shard in train.shards] == [f"charades-train-{i:06d}.tar" for i in range(3)]
    assert sum(shard.samples for shard in train.shards) == 7  # eight planned, one gap
    labels = {s.key: s.labels for s in train.samples}
    assert labels["V03"] == ((3, 0.0, 0.5), (100, 0.25, 1.0))
    assert labels["a_b"] == ()
    assert {(s.frames, s.fps, s.width, s.height) for s in train.samples} == {(8, 8.0, 48, 32)}
    assert [s.key for s in test.samples] == ["V01"]
    expected = [("train", "V00", "duplicate"), ("train", "broken", "undecodable"), ("train", "gone", "missing")]
    assert failures(out) == expected
    assert said[0].startswith("charades train: 7 videos in 3 shards, ")
    assert said[0].endswith("MB; skipped 3 (1 missing, 1 duplicate, 1 undecodable)")
    assert said[1].startswith("charades test: 1 videos in 1 shard, ")
    assert "skipped" not in said[1]

    again = prepare(settings(source, tmp_path / "again", samples_per_shard=3, workers=1), said.append)
    assert [Path(path).name for path in again] == [path.name for path in paths]
    assert digests(tmp_path / "again") == digests(out)


def test_kinetics_names_folders_and_segments(tmp_path: Path) -> None:
    rows = "yoga,aaa,2,4,train\njogging,bbb,0,2,train\nyoga,ccc,10,12,train\n"
    rows += "yoga,ddd,100,102,train\njogging,eee,5,7,validate\n"
    source = tmp_path / "in"
    for folder in ("yoga", "jogging", "other"):
        (source / folder).mkdir(parents=True)
    (source / "kinetics.csv").write_text(KINETICS + rows)
    whole, trimmed = clip(3, frames=48), clip(4, frames=16)
    (source / "yoga" / "aaa.mp4").write_bytes(whole)  # 6 s, to be cut
    (source / "jogging" / "bbb.mp4").write_bytes(trimmed)  # as long as its segment
    (source / "yoga" / "ccc_000010_000012.mp4").write_bytes(trimmed)
    (source / "yoga" / "ddd.mp4").write_bytes(whole)  # shorter than where its segment begins
    (source / "jogging" / "eee.mp4").write_bytes(whole)
    (source / "other" / "eee.mp4").write_bytes(whole)  # the class folder decides
    train, val = (read(path) for path in prepare(settings(source, tmp_path / "out", "kinetics"), lambda _: None))
    assert (train.task, train.classes, val.split) == ("multiclass", ("jogging", "yoga"), "val")
    by_key = {s.key: s for s in train.samples}
    assert {key: (s.frames, s.labels) for key, s in by_key.items()} == {
        "aaa": (16, ((1, 0.0, 2.0),)),
        "bbb": (16, ((0, 0.0, 2.0),)),
        "ccc": (16, ((1, 0.0, 2.0),)),
    }
    assert failures(tmp_path / "out") == [("train", "ddd", "segment outside the video")]

    copy = settings(source, tmp_path / "copy", "kinetics", encode="copy")
    [train] = (read(path) for path in prepare(copy, lambda _: None))
    assert {s.key for s in train.samples} == {"bbb", "ccc"}
    assert {cause for _, _, cause in failures(tmp_path / "copy")} == {"not cut"}
    [sample] = [s for s in train.samples if s.key == "bbb"]
    tar = (tmp_path / "copy" / train.shards[sample.shard].name).read_bytes()
    assert trimmed in tar[sample.offset : sample.offset + sample.length]


def test_the_real_files_go_through(media: Path, tmp_path: Path) -> None:
    names = ("hevc", "non_zero_start", "short_32_frames", "xvid")
    rows = "".join(f"{name},c001 0 1,1\n" for name in names)
    (tmp_path / "Charades_v1_train.csv").write_text("id,actions,length\n" + rows)
    [path] = prepare(settings(tmp_path, tmp_path / "out", videos=media, short_side=64), lambda _: None)
    manifest = read(path)
    assert {s.key: s.frames for s in manifest.samples} == dict(zip(names, (10, 12, 32, 164), strict=True))
    assert {min(s.width, s.height) for s in manifest.samples} == {64}
    tar = (tmp_path / "out" / manifest.shards[0].name).read_bytes()
    for sample in manifest.samples:
        video = tar[sample.offset : sample.offset + sample.length]
        mp4 = video[video.index(b"ftyp") - 4 :]
        assert probe(mp4).frames == sample.frames == len(decode_clip(mp4, range(sample.frames)))


def test_interrupted_from_the_keyboard_and_a_shard_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = charades(tmp_path / "in", 6)
    prepare(settings(source, tmp_path / "calm", samples_per_shard=2), lambda _: None)
    real, calls = module.read_sample, iter(range(100))

    def interrupted(*given: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return real(*given)

    out = tmp_path / "out"
    monkeypatch.setattr(module, "read_sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(settings(source, out, samples_per_shard=2, workers=1), lambda _: None)
    assert not [path for path in out.iterdir() if path.name.endswith((".tmp", "manifest.json"))]
    monkeypatch.setattr(module, "read_sample", real)
    for _ in range(2):
        prepare(settings(source, out, samples_per_shard=2), lambda _: None)
        assert digests(out) == digests(tmp_path / "calm")
        (out / "charades-train-000001.tar").unlink()


def test_order_is_shuffled_once_and_limit_takes_the_first_of_it(tmp_path: Path) -> None:
    source = charades(tmp_path / "in", 8)

    def keys(name: str, **more: Any) -> list[str]:
        [path] = prepare(settings(source, tmp_path / name, encode="copy", **more), lambda _: None)
        return [s.key for s in read(path).samples]

    order = keys("a")
    assert sorted(order) == [f"V{i:02d}" for i in range(8)] != order
    assert keys("b", seed=1) not in (order, sorted(order))
    assert keys("c", limit=3) == order[:3]


def test_a_used_folder_is_not_mixed(tmp_path: Path) -> None:
    source, out = charades(tmp_path / "in", 2), tmp_path / "out"
    prepare(settings(source, out), lambda _: None)
    before = digests(out)
    with pytest.raises(
        UserError, match=r"\(crf=20 then, 23 now\); choose another folder with out=, or delete this one"
    ):
        prepare(settings(source, out, crf=23), lambda _: None)
    (source / "videos" / "V01.mp4").write_bytes(clip(1, frames=9))
    with pytest.raises(UserError, match="the annotations or the video files have changed since"):
        prepare(settings(source, out), lambda _: None)
    assert digests(out) == before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "x-000000.tar").touch()
    with pytest.raises(UserError, match=r"holds x-000000\.tar, which this command has no record of"):
        prepare(settings(source, foreign), lambda _: None)
    assert [path.name for path in foreign.iterdir()] == ["x-000000.tar"]


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    source, out = charades(tmp_path / "in", 1), tmp_path / "out"
    out.mkdir()
    with Folder(out).alone(1, 1), pytest.raises(UserError, match="another process is writing shards there"):
        prepare(settings(source, out), lambda _: None)


def test_nothing_readable_leaves_nothing_to_trust(tmp_path: Path) -> None:
    source, out = charades(tmp_path / "in", 2), tmp_path / "out"
    good = {path: path.read_bytes() for path in (source / "videos").iterdir()}
    for path in good:
        path.write_bytes(b"not a video")
    with pytest.raises(UserError, match=r"none of the 2 videos could be used \(2 undecodable\).*failures\.csv"):
        prepare(settings(source, out), lambda _: None)
    assert [path.name for path in out.iterdir()] == ["failures.csv"]
    for path, data in good.items():
        path.write_bytes(data)
    assert len(prepare(settings(source, out), lambda _: None)) == 1


def no_videos(source: Path) -> dict[str, Any]:
    for path in (source / "videos").iterdir():
        path.unlink()
    return {}


def two_files(source: Path) -> dict[str, Any]:
    (source / "V00.webm").write_bytes(clip(0))
    return {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda source: {"dataset": "charade"}, "dataset=charade: no such data set; nearest: charades"),
        (lambda source: {"encode": "h265"}, "encode=h265: no such encoding; nearest: h264"),
        (lambda source: {"crf": 60}, "crf=60: expected a whole number from 0 to 51"),
        (lambda source: {"workers": 0}, "workers=0: expected a whole number from 1, or null"),
        (lambda source: {"limit": "some"}, "limit=some: expected a whole number from 1, or null"),
        (lambda source: {"videos": source / "nowhere"}, "nowhere: there is no such folder"),
        (lambda source: {"annotations": source / "nowhere"}, "nowhere: there is no such folder"),
        (lambda source: {"annotations": source / "videos"}, "no Charades_v1_train.csv or Charades_v1_test.csv here"),
        (lambda source: {"out": source / "Charades_v1_train.csv"}, "cannot write there: Not a directory"),
        (no_videos, "none of the 2 files of the annotations is here (looked in all folders for V00, V01"),
        (two_files, "two files could be the video V00"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: Callable[[Path], dict[str, Any]], words: str) -> None:
    source = charades(tmp_path / "in", 2)
    changed = {"dataset": "charades", "out": tmp_path / "out", **change(source)}
    with pytest.raises(UserError) as caught:
        prepare(settings(source, **changed), lambda _: None)
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()
