"""I3D with five non-local blocks: ours beside mmaction2's network with the same weights.

On a CPU: seconds for the logits of one clip, in float32 and, where the processor has bfloat16 instructions, in
bfloat16. The networks run in turn, round after round; time is the median. The checkpoint is written in mmaction2's
format, read by `nlnet.checkpoints.convert` and given to `nlnet.optimize_for_inference`, as a user's would be; the
logits are compared first. "as trained" is our network without that, in bfloat16 under autocast.

With `--device cuda`: one training step (forward, backward, SGD) in mixed precision at 8x8 and 32x2, in clips a second
and as a fraction of the rate of a large matrix product, and the peak memory of 128 frames at two clips. Where mmaction2
is not installed ours is measured alone, and the table says so.

    python benchmarks/video_models.py [--device cuda] [--tiny] [--batch 8] [--rounds 7] [--clip video.mp4] [--out FILE]
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure import RESULTS, live_bytes_peak, machine, median_seconds
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from helpers import mmaction2
from helpers.networks import randomise
from nlnet import build_model, optimize_for_inference
from nlnet.checkpoints import convert
from nlnet.models import describe

CONFIG = "i3d/i3d_imagenet-pretrained-r50-nl-embedded-gaussian_8xb8-32x2x1-100e_kinetics400-rgb"
MEAN, STD = (114.75, 114.75, 114.75), (57.375, 57.375, 57.375)
FRAMES = {"8x8": 8, "32x2": 32}  # the clips of the paper's short and long networks


def peer_network() -> tuple[nn.Module, Path] | None:
    """mmaction2's network with weights as after training, and its configuration file; None if it is not installed."""
    try:
        net, file = mmaction2.network(CONFIG)
    except ImportError:
        return None
    return randomise(net), file


def converted(theirs: nn.Module, config: Path) -> nn.Module:
    """Our network with their weights, through the file that their program would write."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "theirs.pth"
        torch.save({"state_dict": theirs.state_dict()}, path)
        return convert(path, "mmaction2", config=config).build()


def clip(video: Path | None, frames: int) -> Tensor:
    """(1, 3, frames, 224, 224): the middle of a video's first frames, normalized, or noise."""
    if video is None:
        return torch.randn(1, 3, frames, 224, 224, generator=torch.Generator().manual_seed(0))
    from nlnet.data.media.decode import decode_clip

    frames_THWC = torch.as_tensor(decode_clip(video.read_bytes(), list(range(0, 8 * frames, 8))))
    top, left = ((n - 224) // 2 for n in frames_THWC.shape[1:3])
    crop = frames_THWC[:, top : top + 224, left : left + 224].float()
    return ((crop - torch.tensor(MEAN)) / torch.tensor(STD)).permute(3, 0, 1, 2)[None].contiguous()


def in_turn(cases: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """Median seconds of each case; they run one after the other in every round, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds + 1):
        for name, fn in cases.items():
            times[name].append(median_seconds(fn, 1, warmup=0, device=device))
    return {name: median(values[1:]) for name, values in times.items()}


def has_bf16_instructions() -> bool:
    """Whether the processor says so (Linux); PyTorch's own test is also true where it emulates them."""
    path = Path("/proc/cpuinfo")
    return path.exists() and bool({"avx512_bf16", "amx_bf16", "bf16"} & set(path.read_text().split()))


def infer(rounds: int, video: Path | None) -> dict[str, Any]:
    """Seconds for the logits of one clip of 8x224x224."""
    peer = peer_network()
    if peer is None:
        raise SystemExit("mmaction2 and mmcv-lite are not installed: make peers")
    theirs, config = peer
    plain, theirs, x = converted(theirs, config), theirs.eval(), clip(video, 8)
    networks = {"float32": optimize_for_inference(plain)}
    if has_bf16_instructions():
        networks["bfloat16"] = optimize_for_inference(plain, torch.bfloat16)
    else:
        print("bfloat16 is left out: this processor has no instructions for it")
    results: dict[str, Any] = {}
    with torch.inference_mode():
        wanted = theirs(x)
        error = float((networks["float32"](x) - wanted).norm() / wanted.norm())
        autocast = partial(torch.autocast, "cpu", torch.bfloat16)
        for name, net in networks.items():
            cases = {"ours": partial(run, net, x), "mmaction2 float32": partial(run, theirs, x)}
            cases["ours as trained"] = partial(run, plain, x, nullcontext if name == "float32" else autocast)
            seconds = in_turn(cases, rounds, "cpu")
            cosine = float(nn.functional.cosine_similarity(net(x), wanted))
            results[name] = seconds | {"ratio": seconds["mmaction2 float32"] / seconds["ours"], "cosine": cosine}
    return {"relative error of the logits": error, **results}


def run(net: nn.Module, x: Tensor, context: Callable[[], Any] = nullcontext) -> Tensor:
    with context():
        return net(x)


def training_step(net: nn.Module, x: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """Forward, backward and SGD in mixed precision, as a function; float16 with a scaled loss."""
    net.train()
    target = torch.zeros(len(x), dtype=torch.long, device=x.device)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    scaler = torch.amp.GradScaler(x.device.type, enabled=dtype is torch.float16)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, dtype):
            loss = nn.functional.cross_entropy(net(x), target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


@dataclass(frozen=True)
class Training:
    """What is trained: a batch of clips with `side` pixels a side, of each of `lengths`, and then two of `longest`."""

    device: str
    batch: int
    side: int
    lengths: Mapping[str, int]
    longest: int
    product: int
    """Rows and columns of the matrices whose product gives the rate to compare with."""

    def clips(self, count: int, frames: int) -> Tensor:
        return torch.randn(count, 3, frames, self.side, self.side, device=self.device)


def matmul_rate(size: int, device: str) -> float:
    """Operations a second of a large matrix product in bfloat16."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda: a @ b, 10, warmup=3, device=device)


def train(case: Training, rounds: int) -> dict[str, Any]:
    """Clips a second of a training step at each length, and the memory of the longest. mmaction2 trains in float16."""
    rate, results = matmul_rate(case.product, case.device), {}
    peer = peer_network()
    if peer is None:
        print("mmaction2 is not installed: ours is measured alone")
    for name, frames in case.lengths.items():
        x = case.clips(case.batch, frames)
        ours = converted(*peer) if peer else build_model("i3d_r50", nonlocal_blocks=5)
        macs = describe(ours, (3, frames, case.side, case.side)).gmacs * 1e9
        steps = {"ours bfloat16": training_step(ours.to(case.device), x, torch.bfloat16)}
        if peer:
            steps["mmaction2 float16"] = training_step(peer[0].to(case.device), x, torch.float16)
        clips = {key: case.batch / value for key, value in in_turn(steps, rounds, case.device).items()}
        # backward is twice forward, an operation half a multiply-add
        fraction = 6 * macs * clips["ours bfloat16"] / rate
        ratio = clips["ours bfloat16"] / clips["mmaction2 float16"] if peer else None
        results[name] = {"clips/s": clips, "fraction of the matrix product's rate": fraction, "ratio": ratio}
    return results | {f"{case.longest} frames, 2 clips, peak GiB": long_clip_memory(case)}


def long_clip_memory(case: Training) -> float:
    """GiB of a training step with two of the longest clips, network and optimizer included."""
    net = build_model("i3d_r50", nonlocal_blocks=5, nonlocal_groups={"res3": 4})
    made: list[Callable[[], None]] = []

    def first_step() -> None:
        made.append(training_step(net.to(case.device), case.clips(2, case.longest), torch.bfloat16))
        made[0]()

    return live_bytes_peak(first_step, case.device) / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tiny", action="store_true", help="training steps on the CPU, to see that they run")
    parser.add_argument("--batch", type=int, default=8, help="clips in a training step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clip", type=Path, help="a video for the logits to be compared on; noise without")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    if args.tiny:
        results = train(Training("cpu", 2, 64, {"8x8": 8}, 32, 256), 1)
    elif args.device == "cuda":
        results = train(Training("cuda", args.batch, 224, FRAMES, 128, 8192), args.rounds)
    else:
        results = infer(args.rounds, args.clip)
    if not args.tiny:
        out = args.out or RESULTS / f"video_models_{args.device}.json"
        out.write_text(json.dumps({"machine": machine(args.device), **results}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
