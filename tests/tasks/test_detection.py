"""The losses under missing images, a network that says NaN, and what an evaluation hands on."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed

from helpers.detection import CATEGORY_IDS, batch, demo_net, target, task
from helpers.processes import run_ranks
from nlnet.errors import UserError
from nlnet.runs.callbacks.exact_resume import seed_everything_for
from nlnet.runs.callbacks.finite import FiniteNumbers

MASK_LOSSES = {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}


def step(made, data):
    """The loss of a training step, its gradients, and what it logs."""
    seed_everything_for(0, 5, 0)  # torchvision draws the regions that it trains on
    made.zero_grad()
    loss = made.training_step(data, 0)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in made.parameters()], dict(made.logged)


def group_norm_task():
    """Group norm: an image's maps do not depend on the others in the batch."""
    return task(demo_net(norm="group"))


def test_images_that_could_not_be_read_count_for_nothing():
    made = group_norm_task()
    loss, gradients, logged = step(made, batch([1.0, 0.0, 0.0]))
    alone, expected, _ = step(made, batch([1.0]))
    assert loss == alone
    assert all(torch.equal(one, other) for one, other in zip(gradients, expected, strict=True))
    assert logged.keys() == {"train/loss"} | {f"train/{name}" for name in MASK_LOSSES}
    assert logged["train/loss"] == pytest.approx(sum(logged[f"train/{name}"] for name in MASK_LOSSES), rel=1e-6)


@pytest.mark.parametrize("kind", ["mask", "keypoint"])
def test_a_batch_without_a_readable_image_changes_nothing_and_still_reaches_every_parameter(kind):
    made = task(demo_net(kind, nonlocal_blocks=1, head_blocks=4 if kind == "keypoint" else 0))
    loss, gradients, _ = step(made, batch([0.0, 0.0]))
    assert loss == 0
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("spoiled", ["rpn.head.cls_logits", "roi_heads.box_predictor.bbox_pred", "backbone"])
def test_an_evaluation_of_a_network_that_says_nan_names_its_images(spoiled):
    """Such detections are filtered out one by one: what is left, nothing, would have a metric."""
    made, finite = task(demo_net()).eval(), FiniteNumbers()
    with torch.no_grad():
        next(made.net.get_submodule(spoiled).parameters()).view(-1)[0] = float("nan")
    data = batch([1.0, 0.0, 1.0])
    trainer = SimpleNamespace(datamodule=SimpleNamespace(val_keys=["first", "second", "third"]))
    finite.on_validation_start(trainer, made)
    finite.on_validation_batch_start(trainer, made, data, 0)
    made.validation_step(data, 0)
    with pytest.raises(UserError, match=r"of 2 images is not finite, and no metric is made of it: first, third;"):
        finite.on_validation_epoch_end(trainer, made)


def test_an_evaluation_counts_readable_images_once_and_writes_what_it_evaluated(tmp_path):
    annotations = {
        "images": [{"id": k, "width": 64, "height": 64} for k in (11, 12, 13)],
        "categories": [{"id": k, "name": str(k)} for k in CATEGORY_IDS],
        "annotations": [
            {"id": 1, "image_id": 11, "category_id": 1, "bbox": [4, 6, 36, 44], "area": 1584, "iscrowd": 0,
             "segmentation": [[4, 6, 40, 6, 40, 50, 4, 50]]},
        ],
    }  # fmt: skip
    made = task(demo_net(), ground_truth=lambda: annotations)
    made.trainer.default_root_dir = str(tmp_path)
    made.eval()
    found = target(11, [[4, 6, 40, 50]], [1])
    made.forward = lambda images, sizes: [
        {
            "boxes": found["boxes"],
            "labels": found["labels"],
            "scores": torch.tensor([0.9]),
            "masks": found["masks"][:, None],
        }
        for _ in images
    ]
    made.on_validation_epoch_start()
    data = batch([1.0, 0.0])
    data["failures"], data["padding"] = [], torch.tensor([False, True])
    assert len(made.validation_step(data, 0)["detections"]) == 1
    made.on_validation_epoch_end()
    assert made.logged.keys() == {f"val/{name}" for name in made.metric_names()}
    assert made.logged["val/images"] == 1
    assert made.logged["val/box_AP"] == made.logged["val/mask_AP"] == pytest.approx(1)
    assert made.logged["val/box_AP_large"] == -1
    assert made.absent_classes() == ["b", "c"]
    assert (
        (tmp_path / "predictions.json")
        .read_text()
        .startswith('[{"image_id":11,"category_id":1,"bbox":[4.0,6.0,36.0,44.0]')
    )
    made.on_test_epoch_start()
    made.test_step(batch([1.0, 0.0]), 0)
    with pytest.raises(UserError, match=r"1 validation images could not be read: image1 \(truncated\); .*eval=1"):
        made.on_test_epoch_end()


def unreadable():
    raise UserError("the annotations are gone")


def work(rank, world, port, folder):
    """One of two ranks: the images of the second cannot be read; then the first one cannot read the annotations."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    made = task(demo_net(norm="group"), world)
    loss, gradients, logged = step(made, batch([float(rank == 0)] * 2))
    for gradient in gradients:
        torch.distributed.all_reduce(gradient)  # as DDP does: the mean over the ranks
        gradient /= world
    made._ground_truth = unreadable
    with pytest.raises(UserError) as stopped:
        made.on_validation_epoch_end()
    torch.save([loss, gradients, logged, str(stopped.value)], folder / f"{rank}.pt")


def test_a_rank_whose_whole_slice_fails_changes_nothing_and_all_ranks_stop_together(tmp_path):
    assert run_ranks(work, 2, tmp_path) == [0, 0]
    (loss, gradients, logged, stopped), (none, others, again, too) = (
        torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # like the ranks: the order of the sums depends on it
    expected_loss, expected, expected_log = step(group_norm_task(), batch([1.0, 1.0]))
    torch.set_num_threads(threads)
    assert (loss, none) == (expected_loss * 2, 0)
    assert all(torch.equal(one, other) for one, other in zip(gradients, expected, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(gradients, others, strict=True))
    assert logged == again == pytest.approx(expected_log)
    assert stopped == too == "the annotations are gone"
