"""Preparation that is killed, spread over machines, or written to an object store gives the bytes of a calm one."""

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from helpers.preparing import charades, digests, prepare_slowly, settings
from helpers.processes import context
from nlnet.data.prepare.output import Bucket, Folder, open_output
from nlnet.data.prepare.run import prepare
from nlnet.data.prepare.settings import Settings
from nlnet.errors import UserError

CHOSEN: dict[str, Any] = {"samples_per_shard": 1, "seed": 3}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return charades(tmp_path_factory.mktemp("source") / "in", 12, "gone,c001 0 1,1\n")


@pytest.fixture(scope="module")
def calm(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run makes."""
    out = tmp_path_factory.mktemp("calm") / "out"
    prepare(settings(source, out, **CHOSEN), lambda _: None)
    return out


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """An S3 server on a socket with the bucket `videos`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_REGION", "us-east-1")
        made = boto3.client("s3", region_name="us-east-1")
        made.create_bucket(Bucket="videos")
        yield made
    server.stop()


def objects(client: Any, prefix: str) -> dict[str, str]:
    """Everything below a prefix, by name, as `digests` shows a folder."""
    listed = client.list_objects_v2(Bucket="videos", Prefix=prefix + "/")["Contents"]
    bodies = {o["Key"]: client.get_object(Bucket="videos", Key=o["Key"])["Body"].read() for o in listed}
    return {key.removeprefix(prefix + "/"): hashlib.sha256(body).hexdigest() for key, body in bodies.items()}


def kill_when_done(source: Path, out: Path, count: int) -> None:
    """A preparation in a process of its own, killed once `count` shards are recorded."""
    process = context.Process(target=prepare_slowly, args=(str(source), str(out), CHOSEN | {"workers": 1}, 0.05))
    process.start()
    deadline = time.monotonic() + 60
    while len(list(out.glob(".parts/*.tar.json"))) < count and time.monotonic() < deadline:
        assert process.is_alive()
        time.sleep(0.005)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_killed_three_times_and_run_again(source: Path, calm: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for count in (2, 5, 8):
        kill_when_done(source, out, count)
        assert not list(out.glob("*-manifest.json"))
    done = {
        path.name: path.stat().st_mtime_ns
        for path in out.glob("*.tar")
        if (out / ".parts" / f"{path.name}.json").is_file()
    }
    assert 8 <= len(done) < 12
    (out / ".charades-train-000011.tar.tmp").write_bytes(b"half a shard")
    (out / ".parts" / ".plan.json.0123abcd.tmp").write_bytes(b"half a record")
    prepare(settings(source, out, **CHOSEN), lambda _: None)
    assert digests(out) == digests(calm)
    assert done == {name: (out / name).stat().st_mtime_ns for name in done}  # none was made twice


def test_parts_at_the_same_time_and_merged(source: Path, calm: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "out", list[str]()

    def make(part: str) -> list[str]:
        return prepare(settings(source, out, part=part, **CHOSEN), said.append)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(make, ["1/3", "3/3"])) == [[], []]
    assert sorted(said)[0].startswith("part 1/3: 4 videos in 4 of 12 shards; when all parts are done, the same command")
    merge = settings(source, out, merge=True, **CHOSEN)
    with pytest.raises(UserError, match=r"4 of 12 shards are still to be made, the first of them .*-000001\.tar"):
        prepare(merge)
    assert not list(out.glob("*-manifest.json"))
    make("2/3")
    [path] = prepare(merge, said.append)
    assert path == str(out / "charades-train-manifest.json")
    assert said[-1].startswith("charades train: 12 videos in 12 shards, ")
    assert digests(out) == digests(calm)


def test_parts_keep_each_other_out(source: Path, tmp_path: Path) -> None:
    out = Folder(tmp_path / "out")
    with out.alone(1, 3), out.alone(2, 3):
        for number, count in ((1, 3), (1, 1)):
            with pytest.raises(UserError, match="another process is writing shards there"), out.alone(number, count):
                pass
    with out.alone(1, 1), pytest.raises(UserError, match="another process"), out.alone(2, 3):
        pass


def test_parts_to_an_object_store(source: Path, calm: Path, client: Any) -> None:
    url = "s3://videos/some/place"
    for part in ("1/3", "2/3", "3/3"):
        prepare(settings(source, url, part=part, **CHOSEN), lambda _: None)
    client.delete_object(Bucket="videos", Key="some/place/charades-train-000004.tar")
    with pytest.raises(UserError, match="1 of 12 shards are still to be made"):
        prepare(settings(source, url, merge=True, **CHOSEN))
    prepare(settings(source, url, part="2/3", **CHOSEN), lambda _: None)
    paths = prepare(settings(source, url, merge=True, **CHOSEN), lambda _: None)
    assert paths == [f"{url}/charades-train-manifest.json"]
    assert objects(client, "some/place") == digests(calm)
    with pytest.raises(UserError, match="out=s3://videos/some/place holds shards made differently"):
        prepare(settings(source, url, samples_per_shard=2, seed=3), lambda _: None)
    with pytest.raises(UserError, match="out=s3://nowhere/x: cannot write there: "):
        prepare(settings(source, "s3://nowhere/x", **CHOSEN), lambda _: None)


def test_large_files_go_up_in_parts_and_appear_whole(client: Any, tmp_path: Path) -> None:
    bucket, data = Bucket("s3://videos/large"), os.urandom(12 << 20)

    def interrupted() -> None:
        with bucket.draft("a.tar") as path:
            path.write_bytes(data)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert bucket.names() == []
    with bucket.draft("a.tar") as path:
        path.write_bytes(data)
    assert not path.exists()
    assert (bucket.names(), bucket.size("a.tar"), bucket.read("a.tar")) == (["a.tar"], len(data), data)
    assert client.head_object(Bucket="videos", Key="large/a.tar")["ETag"].strip('"').endswith("-3")
    with bucket.draft("none.tar"):
        pass
    bucket.write(".parts/x.json", b"{}")
    bucket.clear(".parts")
    assert (bucket.read(".parts/x.json"), bucket.size("none.tar"), bucket.names()) == (None, None, ["a.tar"])


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        (["out=x y"], {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16"}, ["out=x y", "part=3/16"]),
        (["out=x"], {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "1", "PARTS": "16"}, ["out=x", "part=5/16"]),
        (["out=x", "merge=true"], {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "1"},
         ["out=x", "merge=true", "part=null"]),
    ],
)  # fmt: skip
def test_the_slurm_script(arguments: list[str], variables: dict[str, str], expected: list[str], tmp_path: Path) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    script = Path(__file__).resolve().parents[3] / "data" / "prepare_array.sbatch"
    command = ["bash", str(script), *arguments]
    environment = {"PATH": os.environ["PATH"], "SLURM_CPUS_PER_TASK": "4", **variables}
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["src/prepare.py", "workers=4", *expected]


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "1/0", "a/b", "-1/3"])
def test_a_part_that_is_none_is_refused(part: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"part={part}: expected i/n with 1 <= i <= n, such as 3/16"):
        Settings("charades", tmp_path, tmp_path, tmp_path, part=part)


def test_other_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="part=1/3 and merge=true"):
        Settings("charades", tmp_path, tmp_path, tmp_path, part="1/3", merge=True)
    with pytest.raises(UserError, match="tune=film: expected fastdecode or null"):
        Settings("charades", tmp_path, tmp_path, tmp_path, tune="film")
    with pytest.raises(UserError, match="https://host/x: shards can be written to a folder or to s3://, gs://, az://"):
        open_output("https://host/x")
