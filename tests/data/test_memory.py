"""A loader worker does not grow."""

from pathlib import Path

import pytest

from nlnet.data.clips import ClipGeometry
from nlnet.data.find import load_manifest
from nlnet.data.loader import ClipBatches, ClipLoader, Share, View

PAGE = 4096


def resident(process):
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * PAGE


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the resident size is read from /proc")
@pytest.mark.parametrize("clips", [500, pytest.param(5000, marks=pytest.mark.full)])
def test_the_resident_size_of_a_worker_stays_flat(charades_shards, clips):
    manifest = load_manifest(str(charades_shards), "charades", "train")
    view = View(ClipGeometry(6, 1), size=24, scale=(24, 32), flip=True, train=True)
    loader = ClipLoader(ClipBatches(manifest, str(charades_shards), view, Share(16), 1, 2), num_workers=1)
    seen, sizes = 0, []
    while seen < clips:
        for batch in loader:
            seen += len(batch["weights"])
        if seen >= 0.2 * clips:  # after the first clips have brought in the decoder and its pools
            sizes.append(resident(loader._loader._iterator._workers[0]))
    loader.close()
    assert max(sizes) < 1.05 * sizes[0]
    assert min(sizes) > 0.95 * sizes[0]
