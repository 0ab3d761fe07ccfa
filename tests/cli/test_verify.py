"""The command: its exit code, its lines, its page."""

from pathlib import Path

from nlnet.cli.verify import main


def test_good_shards_end_with_zero_and_a_page(command, charades_shards: Path, tmp_path: Path) -> None:
    html = tmp_path / "page.html"
    code, out, err = command(main, str(charades_shards), "--html", str(html), "--decode", "0.5", "--span", "8")
    assert (code, err) == (0, "")
    assert "charades train: 34 videos in 3 shards; 4 classes, 0 of them empty; most frequent: c00" in out
    assert out.rstrip().endswith("of 54 videos decoded: no faults")
    assert html.read_text().count("<img ") == 54


def test_faults_end_with_one(command, charades_shards: Path, tmp_path: Path) -> None:
    for path in charades_shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = tmp_path / "charades-train-000001.tar"
    data = bytearray(shard.read_bytes())
    data[2000] ^= 1
    shard.write_bytes(data)
    code, out, _ = command(main, str(tmp_path))
    assert code == 1
    assert "charades-train-000001.tar: checksum: its SHA-256 is not the manifest's" in out
    assert "54 videos have fewer than 64 frames" in out
    assert out.rstrip().endswith("2 faults (2 checksum)")


def test_mistakes_are_one_message(command, tmp_path: Path) -> None:
    for arguments, words in {
        (str(tmp_path),): "no *-manifest.json here",
        (str(tmp_path), "--decode", "2"): "--decode 2.0: expected a fraction from 0 to 1",
        (str(tmp_path), "--workers", "0"): "--workers 0: expected a whole number from 1",
        (str(tmp_path), "--html", str(tmp_path / "no" / "page.html")): "there is no such folder",
    }.items():
        code, out, err = command(main, *arguments)
        assert (code, out) == (1, "")
        assert err.startswith("error: ")
        assert words in err
        assert len(err.splitlines()) == 1
