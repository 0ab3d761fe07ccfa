"""A loader worker does not grow, whether it reads files or objects."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from helpers.servers import range_server, s3_at
from nlnet.data.batches.loader import BatchLoader, ClipBatches, ClipSettings, RankSlice
from nlnet.data.batches.sampling import ClipGeometry
from nlnet.data.shards.find import load_manifest

PAGE = 4096


def resident(process):
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * PAGE


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the resident size is read from /proc")
@pytest.mark.parametrize(
    ("place", "clips"),
    [("files", 500), *(pytest.param(place, 5000, marks=pytest.mark.full) for place in ("files", "S3"))],
)
def test_the_resident_size_of_a_worker_stays_flat(charades_shards, place, clips):
    with ExitStack() as stack:
        root = str(charades_shards)
        if place == "S3":  # reads alone, which any web server answers
            stack.enter_context(s3_at(stack.enter_context(range_server(charades_shards.parent.parent))))
            root = f"s3://{charades_shards.parent.name}/{charades_shards.name}"
        manifest = load_manifest(root, "charades", "train")
        view = ClipSettings(ClipGeometry(6, 1), size=24, scale=(24, 32), flip=True, train=True)
        loader = BatchLoader(ClipBatches(manifest, root, view, RankSlice(16), 1, 2), num_workers=1)
        seen, sizes = 0, []
        while seen < clips:
            for batch in loader:
                assert not batch["failures"]
                seen += len(batch["weights"])
            if seen >= 0.2 * clips:  # after the first clips have brought in the decoder and its pools
                sizes.append(resident(loader._loader._iterator._workers[0]))
        loader.close()
    assert max(sizes) < 1.05 * sizes[0]
    assert min(sizes) > 0.95 * sizes[0]
    print(f"{place}: {max(sizes) / sizes[0] - 1:+.2%}")
