"""After a run the process is as before: its signal handlers, and its memory."""

import gc
import signal
import weakref

from nlnet.config.resolve import load
from nlnet.runs.train import train

SMALL = ["experiment=charades_nl", "size=demo", "data.batch_size=8", "data.num_workers=0", "trainer.max_epochs=1"]
SMALL += ["trainer.limit_train_batches=1", "trainer.limit_val_batches=1", "callbacks.progress=null"]


def test_a_run_leaves_no_handler_and_no_network_behind(charades_shards, tmp_path):
    """One after the other in one process, as the points of a multirun are."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in signals]
    _, objects = train(load([*SMALL, f"data.shards={charades_shards}", f"paths.run_dir={tmp_path}/run"]))
    task = weakref.ref(objects["task"])
    del objects
    gc.collect()
    assert task() is None
    assert [signal.getsignal(number) for number in signals] == before
