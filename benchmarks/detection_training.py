"""How fast Mask R-CNN R50-FPN trains with a non-local block, beside torchvision's plain one in the same run.

Whole training steps at 800 x 1088 in mixed precision, on random images with 8 objects each, the two networks in turn,
so that whatever slows the machine slows both: forward, losses, backward, SGD. Prints a table and writes it as JSON.
Without a GPU it runs in float32 on the CPU; `--tiny` takes small images and few steps, to see that it runs.

    python benchmarks/detection_training.py [--batch 4] [--steps 20] [--rounds 5] [--tiny] [--out NAME]
"""

import argparse
import time
from contextlib import nullcontext
from statistics import median
from typing import Any

import torch
from measure import machine, write_json
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from nlnet.models.detection.build import build_detector

TARGET = 0.93  # of the plain network's rate


def networks(short: int, long: int) -> dict[str, nn.Module]:
    """All for 80 classes, with frozen norms, the stem and res2 fixed."""
    sizes = {"min_size": short, "max_size": long}
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
    return {
        "torchvision, plain": MaskRCNN(backbone, 81, **sizes),
        "ours, plain": build_detector("mask_rcnn", "r50", num_classes=80, **sizes),
        "ours, one non-local block": build_detector("mask_rcnn", "r50", num_classes=80, nonlocal_blocks=1, **sizes),
    }


def data(batch: int, height: int, width: int, device: str) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images in 0 to 1 and their targets: eight rectangles each."""
    generator = torch.Generator().manual_seed(0)
    images, targets = [], []
    for _ in range(batch):
        low = torch.rand(8, 2, generator=generator) * torch.tensor([width * 0.6, height * 0.6])
        size = (0.1 + 0.3 * torch.rand(8, 2, generator=generator)) * torch.tensor([width, height])
        boxes = torch.cat([low, low + size], 1)
        masks = torch.zeros(8, height, width, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        labels = torch.randint(1, 81, (8,), generator=generator)
        images.append(torch.rand(3, height, width, generator=generator).to(device))
        targets.append({"boxes": boxes.to(device), "labels": labels.to(device), "masks": masks.to(device)})
    return images, targets


def steps(net: nn.Module, batch: tuple[Any, Any], count: int, device: str) -> float:
    """Seconds of `count` training steps."""
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1e-5, momentum=0.9)
    images, targets = batch
    mixed = torch.autocast("cuda", torch.bfloat16) if device == "cuda" else nullcontext()
    _wait(device)
    start = time.perf_counter()
    for _ in range(count):
        with mixed:
            loss = sum(net(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", default="detection_training")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    height, width = (64, 96) if arguments.tiny else (800, 1088)
    batch_size, count, rounds = (1, 1, 1) if arguments.tiny else (arguments.batch, arguments.steps, arguments.rounds)
    torch.manual_seed(0)
    nets = {name: net.to(device).train() for name, net in networks(height, width).items()}
    batch = data(batch_size, height, width, device)
    times: dict[str, list[float]] = {name: [] for name in nets}
    for net in nets.values():
        steps(net, batch, 1 if arguments.tiny else 5, device)  # the first ones choose kernels
    for _ in range(rounds):
        for name, net in nets.items():
            times[name].append(steps(net, batch, count, device))
    rates = {name: batch_size * count / median(values) for name, values in times.items()}
    plain = rates["torchvision, plain"]
    print(f"| network at {height}x{width}, batch {batch_size} | images/s | of torchvision's |\n| --- | ---: | ---: |")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.2f} | {rate / plain:.3f} |")
    if not arguments.tiny:
        print(f"target with the block: {TARGET}")
        rows = [{"network": name, "images_per_second": rate, "ratio": rate / plain} for name, rate in rates.items()]
        settings = {"batch": batch_size, "steps": count, "rounds": rounds, "image": [height, width], "device": device}
        write_json(arguments.out, {"machine": machine(device), "settings": settings, "rows": rows})


if __name__ == "__main__":
    main()
