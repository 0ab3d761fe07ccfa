"""WebDataset shards from elsewhere, without manifest."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
import webdataset as wds

from helpers.servers import plain_server, range_server
from helpers.shards import FPS, FRAMES, SIZE, write_tiny
from nlnet.data.media.encode import encode_frames
from nlnet.data.modules.clips import ClipDataModule
from nlnet.data.shards.gopen import register_gopen
from nlnet.data.shards.manifest import Manifest
from nlnet.data.shards.storage import SCHEMES
from nlnet.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning:webdataset")


def clip(k):
    return encode_frames(np.full((FRAMES, SIZE, SIZE, 3), 20 * k, np.uint8), FPS)


def write(path, samples):
    with wds.TarWriter(str(path)) as writer:
        for key, members in samples:
            writer.write({"__key__": key} | members)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Two shards to train on, whose keys repeat, and one to validate on that lacks the last class."""
    folder = tmp_path_factory.mktemp("foreign")
    for s in range(2):
        write(
            folder / f"clips-train-{s:06d}.tar",
            [(f"{k:04d}", {"mp4": clip(k), "cls": 2 * s + k % 2}) for k in range(5)],
        )
    write(folder / "clips-val-000000.tar", [(f"{k:04d}", {"mp4": clip(k), "json": {"label": k % 3}}) for k in range(4)])
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def module(root, train="clips-train-{000000..000001}.tar", val="clips-val-000000.tar", **more):
    settings = {"frames": 4, "stride": 1, "size": 24, "scale": (24, 32), "batch_size": 4, "num_workers": 0}
    return ClipDataModule(f"{root}/{train}", "foreign", val_shards=f"{root}/{val}", **(settings | more))


def check(data):
    assert data.train.task == data.val.task == "multiclass"
    assert data.train.classes == data.val.classes == ("0", "1", "2", "3")
    assert [s.key for s in data.train.samples][:2] == ["clips-train-000000/0000", "clips-train-000000/0001"]
    assert [s.labels[0][0] for s in data.train.samples] == [0, 1, 0, 1, 0, 2, 3, 2, 3, 2]
    assert {(s.frames, s.width, s.height, s.fps) for s in data.train.samples} == {(FRAMES, SIZE, SIZE, FPS)}
    batches = [*data.train_dataloader(), *data.val_dataloader()]
    data.close()
    assert [batch["failures"] for batch in batches] == [[]] * 3
    shown = {s.key: k for k, s in enumerate(data.val.samples)}
    for slot, index in enumerate(batches[-1]["indices"].tolist()):
        gray = 20 * shown[data.val.samples[index].key]
        assert abs(int(batches[-1]["clips"][slot].float().mean()) - gray) < 6


def test_a_pattern_is_indexed_once_and_then_read_like_prepared_shards(foreign, monkeypatch):
    check(module(foreign))
    monkeypatch.setattr("nlnet.data.shards.index._index_all", None)  # a second indexing would fail
    check(module(foreign))
    check(module(foreign, train="clips-train-*.tar"))


@pytest.mark.parametrize("server", [range_server, plain_server])
def test_over_http_with_and_without_ranges(foreign, server):
    with server(foreign) as address:
        check(module(f"http://{address}", read_timeout_s=3))


def test_through_a_command(foreign):
    data = ClipDataModule(
        f"pipe:cat {foreign}/clips-train-{{000000..000001}}.tar",
        "foreign",
        val_shards=f"pipe:cat {foreign}/clips-val-000000.tar",
        allow_pipe=True, frames=4, stride=1, size=24, scale=(24, 32), batch_size=4, num_workers=0,
    )  # fmt: skip
    check(data)
    with pytest.raises(UserError, match="allow_pipe"):
        ClipDataModule("pipe:cat a.tar", "foreign", val_shards="pipe:cat a.tar")


def test_prepared_shards_index_to_what_their_manifest_says(tmp_path):
    write_tiny(tmp_path, "charades", train=9, val=4, shards=2)
    data = ClipDataModule(
        f"{tmp_path}/charades-train-*.tar", "charades", val_shards=f"{tmp_path}/charades-test-*.tar",
        frames=4, stride=1, size=24, scale=(24, 32), batch_size=4, num_workers=0,
    )  # fmt: skip
    said = Manifest.from_json((tmp_path / "charades-train-manifest.json").read_text(), "")
    for ours, theirs in zip(data.train.samples, said.samples, strict=True):
        assert ours.key.endswith(f"/{theirs.key}")
        assert (ours.offset, ours.length, ours.crc32) == (theirs.offset, theirs.length, theirs.crc32)
        assert (ours.frames, ours.labels) == (theirs.frames, theirs.labels)
    assert [s.sha256 for s in data.train.shards] == [s.sha256 for s in said.shards]
    assert data.train.task == said.task


def test_samples_that_cannot_be_used_are_named_and_left_out(tmp_path, foreign, capsys):
    bad = [
        ("good", {"mp4": clip(1), "cls": 3}),
        ("nolabel", {"mp4": clip(1)}),
        ("negative", {"mp4": clip(1), "cls": -1}),
        ("words", {"mp4": clip(1), "json": {"label": "dancing"}}),
        ("novideo", {"cls": 1}),
        ("html", {"mp4": b"<html>", "cls": 1}),
        ("pickle", {"mp4": clip(1), "pyd": b"cos\nsystem\n(S'false'\ntR."}),
    ]
    write(tmp_path / "clips-train-000000.tar", bad)
    (tmp_path / "clips-val-000000.tar").write_bytes((foreign / "clips-val-000000.tar").read_bytes())
    with pytest.raises(UserError, match="more than the 1 training samples"):
        module(tmp_path, train="clips-train-000000.tar")
    said = capsys.readouterr().err
    assert "6 samples are left out (4 without a label, 1 without a video, 1 undecodable)" in said
    assert "clips-train-000000/nolabel" in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>not here</html>" * 100, "no tar header at 0"),
        (b"", "without an end mark"),
        (bytes(10240), "no usable sample"),
        (None, "without an end mark"),
    ],
)
def test_what_is_no_tar_or_not_all_of_one_is_named(tmp_path, foreign, content, words):
    whole = (foreign / "clips-train-000000.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        boundary = archive.getmembers()[4].offset
    (tmp_path / "clips-train-000000.tar").write_bytes(whole[:boundary] if content is None else content)
    (tmp_path / "clips-val-000000.tar").write_bytes((foreign / "clips-val-000000.tar").read_bytes())
    with pytest.raises(UserError, match=words):
        module(tmp_path, train="clips-train-000000.tar")


def test_a_missing_shard_a_missing_setting_and_two_kinds_of_labels(tmp_path, foreign):
    with pytest.raises(UserError, match=r"clips-train-000002.tar"):
        module(foreign, train="clips-train-{000000..000002}.tar")
    with pytest.raises(UserError, match="no file matches"):
        module(foreign, train="nothing-*.tar")
    with pytest.raises(UserError, match=r"data.val_shards is not set"):
        ClipDataModule(f"{foreign}/clips-train-000000.tar", "foreign")
    mixed = [("a", {"mp4": clip(1), "cls": 0}), ("b", {"mp4": clip(1), "json": {"labels": [0, [1, 0.0, 0.5]]}})]
    write(tmp_path / "clips-train-000000.tar", mixed)
    with pytest.raises(UserError, match="both one label a sample and several"):
        module(tmp_path, train="clips-train-000000.tar")


def test_webdataset_itself_reads_through_the_same_storage(foreign, monkeypatch):
    for scheme in (*SCHEMES, "pipe"):
        monkeypatch.setitem(wds.gopen_schemes, scheme, None)  # put back afterwards
    register_gopen(timeout_s=3)
    for server in (range_server(foreign), plain_server(foreign)):
        with server as address:
            url = f"http://{address}/clips-val-000000.tar"
            samples = list(wds.tariterators.tarfile_samples([{"url": url}]))
            assert [sample["__key__"] for sample in samples] == ["0000", "0001", "0002", "0003"]
            assert samples[2]["mp4"] == clip(2)
            assert json.loads(samples[2]["json"]) == {"label": 2}
    with pytest.raises(UserError, match="allow_pipe"):
        wds.gopen("pipe:cat a.tar")
    with pytest.raises(ValueError, match="only read"):
        wds.gopen("s3://bucket/a.tar", "wb")


def shadowed(path, folder=""):
    """A tar as macOS' own program makes it: a hidden file before every file, links, and a key that comes again."""
    shadow = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(130)
    with tarfile.open(path, "w") as archive:
        for k in (0, 1, 0):
            for suffix, data in (("cls", b"%d" % k), ("mp4", clip(k))):
                for name, content in ((f"._{k:06d}.{suffix}", shadow), (f"{k:06d}.{suffix}", data)):
                    info = tarfile.TarInfo(f"{folder}{name}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        for name in ("000002.mp4", "000002.cls"):
            info = tarfile.TarInfo(f"{folder}{name}")
            info.type, info.linkname = tarfile.SYMTYPE, "000000.mp4"
            archive.addfile(info)


@pytest.mark.parametrize("folder", ["./", "", "clips.v1/"])
def test_shadows_links_and_repeated_keys(tmp_path, foreign, capsys, folder):
    shadowed(tmp_path / "clips-train-000000.tar", folder)
    (tmp_path / "clips-val-000000.tar").write_bytes((foreign / "clips-val-000000.tar").read_bytes())
    data = module(tmp_path, train="clips-train-000000.tar", batch_size=3)
    said = capsys.readouterr().err
    assert "8 files are left out (6 hidden, 2 link)" in said
    keys = [sample.key for sample in data.train.samples]
    key = f"clips-train-000000/{folder}"
    assert keys == [f"{key}000000", f"{key}000001", f"{key}000000-2"]
    [batch] = data.train_dataloader()
    data.close()
    assert batch["failures"] == []
    again = module(tmp_path, train="clips-train-000000.tar", batch_size=3)  # from the index that was kept
    assert [sample.key for sample in again.train.samples] == keys
    again.close()


def test_the_case_from_a_mac(media, tmp_path):
    case = media.parent / "cases" / "data" / "macos_tar" / "mac.tar"
    if not case.is_file():
        pytest.skip("the case is not here")
    data = ClipDataModule(str(case), "foreign", val_shards=str(case), frames=4, stride=1, size=24, scale=(24, 32),
                          batch_size=4, num_workers=0)  # fmt: skip
    theirs = [s["__key__"] for s in wds.tariterators.tarfile_samples([{"url": str(case)}]) if "mp4" in s]
    assert [sample.key for sample in data.train.samples] == [f"mac/{key}" for key in theirs]
    assert len(theirs) == 4
    data.close()


@pytest.mark.parametrize("name", ["x.tar.gz", "packed.tar", "x.tgz"])
def test_a_packed_tar_is_named_with_what_unpacks_it(tmp_path, foreign, name):
    whole = (foreign / "clips-train-000000.tar").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(whole))
    with pytest.raises(UserError, match=rf"{name} cannot be indexed: it is packed, .* unpack it with gunzip$"):
        module(tmp_path, train=name, val=name)


def test_a_file_twice_in_a_sample_and_a_second_tar_behind_the_first_are_named(tmp_path, foreign, capsys):
    shard = tmp_path / "clips-train-000000.tar"
    write(shard, [("a", {"mp4": clip(0), "cls": 0}), ("b", {"mp4": clip(1), "cls": 1}), ("b", {"cls": 1})])
    shard.write_bytes(shard.read_bytes() + shard.read_bytes())
    (tmp_path / "clips-val-000000.tar").write_bytes((foreign / "clips-val-000000.tar").read_bytes())
    data = module(tmp_path, train=shard.name, batch_size=1)
    said = capsys.readouterr().err
    assert "1 samples are left out (1 with a file twice): clips-train-000000/b" in said
    assert "1 files are left out (1 tar after the first)" in said
    assert [sample.key for sample in data.train.samples] == ["clips-train-000000/a"]
    data.close()


def test_shards_of_one_name_in_several_folders(tmp_path, foreign):
    for place in ("0", "1"):
        (tmp_path / place).mkdir()
        write(tmp_path / place / "x.tar", [("a", {"mp4": clip(0), "cls": 0}), ("b", {"mp4": clip(1), "cls": 1})])
    for _ in range(2):  # made, and as it was kept
        data = module(tmp_path, train="{0..1}/x.tar", val="0/x.tar")
        assert [sample.key for sample in data.train.samples] == ["x/a", "x/b", "x/a-2", "x/b-2"]
        data.close()
