"""A rank whose whole share of a batch is corrupt: no rank waits, and the gradient is that of the others."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
import torch.distributed
from torch import nn

from helpers.processes import run_ranks
from nlnet.data.batches.loader import BatchLoader, ClipBatches, ClipSettings, RankSlice
from nlnet.data.batches.sampling import ClipGeometry
from nlnet.data.shards.find import load_manifest
from nlnet.errors import UserError
from nlnet.runs.callbacks.sample_counter import SampleCounter
from nlnet.tasks.classification import ClassificationTask

B = 8


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3 * 4 * 24 * 24, 4)

    def forward(self, x):
        return self.head(x.flatten(1))


def task(world):
    torch.manual_seed(0)
    made = ClassificationTask(
        Tiny(), "multilabel", monitor="val/mAP", classes="abcd", groups={}, optimizer=None, schedule=None
    )
    made._trainer = SimpleNamespace(world_size=world)
    made.log = made.log_dict = lambda *_, **__: None
    return made


def batches(shards, rank, world, broken):
    manifest = load_manifest(str(shards), "charades", "train")
    samples = tuple(
        dataclasses.replace(s, crc32=s.crc32 ^ 1) if k in broken else s for k, s in enumerate(manifest.samples)
    )
    view = ClipSettings(ClipGeometry(4, 1), size=24, scale=(24, 24), flip=True, train=True)
    whole = dataclasses.replace(manifest, samples=samples)
    return BatchLoader(ClipBatches(whole, str(shards), view, RankSlice(B, rank, world), 1, 2))


def gradients(made, loader):
    from nlnet.data.batches.clip_transforms import prepare_clips

    for batch in loader:
        batch["inputs"] = prepare_clips(batch["clips"], batch["flips"], 24)
        made.zero_grad()
        made.training_step(batch, 0).backward()
        yield batch, made.net.head.weight.grad


def work(rank, world, port, shards, broken, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    found = []
    for _, grad in gradients(task(world), batches(shards, rank, world, broken)):
        torch.distributed.all_reduce(grad)  # as DDP does: the mean over the ranks
        found.append(grad / world)
    torch.save(found, folder / f"{rank}.pt")

    account = SampleCounter(max_skipped=1.0, max_consecutive=4)
    stopped = False
    for batch in batches(shards, rank, world, broken):
        try:
            trainer = SimpleNamespace(world_size=world)
            module = SimpleNamespace(device=torch.device("cpu"), log_dict=lambda *_, **__: None)
            account.on_train_batch_end(trainer, module, None, batch, 0)
        except UserError as error:
            stopped = True
            (folder / f"{rank}.txt").write_text(str(error))
            break
    assert stopped
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("lost", [0, 1])
def test_the_gradient_is_that_of_the_samples_that_could_be_read(charades_shards, tmp_path, lost):
    rank_slice = next(iter(batches(charades_shards, lost, 2, ())))["indices"].tolist()  # of the first batch, whole
    assert run_ranks(work, 2, charades_shards, tuple(rank_slice), tmp_path, timeout=60) == [0, 0]
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    alone = gradients(task(1), batches(charades_shards, 0, 1, ()))
    for t, (batch, whole) in enumerate(alone):
        expected = whole
        if t == 0:
            other = slice(0, B // 2) if lost == 1 else slice(B // 2, B)
            made = task(1)
            part = {name: batch[name][other] for name in ("inputs", "targets", "weights")}
            made.training_step(part, 0).backward()
            expected = made.net.head.weight.grad
        assert torch.equal(ranks[0][t], ranks[1][t])
        torch.testing.assert_close(ranks[0][t], expected, atol=1e-7, rtol=1e-5)
    messages = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert messages[0] == messages[1]  # both ranks stop, for the same reason, though one of them has read everything
    assert "4 of 8 training samples could not be read (4 checksum; the first checksum: train" in messages[0]
    assert "), 4 of them one after the other" in messages[0]
