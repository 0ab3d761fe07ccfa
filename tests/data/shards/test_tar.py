"""The tar reader against Python's own, and against tars that lie."""

import io
import tarfile

import pytest

from nlnet.data.shards.tar import TarError, sample_members, split_name, walk

FILES = {
    "a.mp4": b"x" * 1000,
    "a.cls": b"3",
    "folder.v1/b.mp4": b"",
    "n" * 150 + "/" + "b" * 90 + ".seg.png": b"y" * 512,
    "täg.json": b"{}",
}


def tar(files, **options):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as archive:
        folder = tarfile.TarInfo("folder.v1")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def listed(data, **options):
    return list(walk(lambda offset, length: data[offset : offset + length], len(data), **options))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_it_finds_what_tarfile_finds(form):
    data = tar(FILES, format=form)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = [(m.name, m.offset, m.offset_data, m.size) for m in archive if m.isreg()]
    ours = listed(data)
    assert [(m.name, m.offset, m.size) for m in ours] == [(name, at, size) for name, _, at, size in expected]
    assert {m.name: data[m.offset : m.offset + m.size] for m in ours} == FILES
    assert all(m.start <= m.offset - 512 and m.start % 512 == 0 and m.end % 512 == 0 for m in ours)


def test_a_tar_that_is_cut_anywhere_is_not_taken_for_whole():
    data = tar(FILES, format=tarfile.GNU_FORMAT)
    last = listed(data)[-1]
    for end in range(0, last.end + 1, 256):
        with pytest.raises(TarError):
            listed(data[:end])
    assert len(listed(data[: last.end], marked=False)) == len(FILES)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (slice(124, 136), b"77777777777\0", "goes on beyond the end"),
        (slice(124, 136), b"\x80" + b"\xff" * 11, "goes on beyond the end"),
        (slice(124, 136), b"\xff" * 12, "goes on beyond the end"),
        (slice(124, 136), b"not a number", "no tar header"),
        (slice(156, 157), b"S", "type b'S'"),
        (slice(0, 1), b"z", "no tar header"),  # the header's own checksum
    ],
)
def test_a_header_that_lies_is_refused(field, value, words):
    data = bytearray(tar({"a.mp4": b"x" * 10}, format=tarfile.USTAR_FORMAT))
    at = listed(bytes(data))[0].start
    data[at + field.start : at + field.stop] = value
    if field.start:
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    with pytest.raises(TarError, match=words):
        listed(bytes(data))


def test_only_the_asked_for_members_of_a_sample_are_touched():
    data = tar({"a.pkl": b"cos\nsystem\n", "a.mp4": b"film", "a.PyD": b"", "a.txt": b""}, format=tarfile.USTAR_FORMAT)
    begin, end = listed(data)[0].start, listed(data)[-1].end
    assert sample_members(data[begin:end], ("mp4",)) == {"mp4": b"film"}
    assert split_name("x/y.z/clip.seg.PNG") == ("x/y.z/clip", "seg.png")
    with pytest.raises(TarError):
        sample_members(b"<html>" * 200, ("mp4",))
