"""A training step of I3D with five non-local blocks: precision x compile x channels_last x checkpoint_stages.

Each variant is arranged as a run arranges it (`nlnet.runs.execution`) and stepped in turn with mmaction2's network as
its users train it, in mixed precision (float16 with a scaled loss on a GPU, bfloat16 on a CPU): forward, backward, SGD.
What is written down is clips a second, the memory that a step takes, the share of the rate of a large bfloat16 product
that was measured in the same run, and the ratio to mmaction2.

Then the losses of 200 steps on clips that can be told apart, from the same weights, beside those of float32, and beside
how much float32 differs from itself where its sums are ordered otherwise. Last the step under ddp and under fsdp, both
with one rank.

    python benchmarks/training_step.py --device cuda [--batch 8] [--rounds 7] [--steps 200] [--variants NAME,NAME]
    python benchmarks/training_step.py --device cpu --batch 2 --side 112 --rounds 3 --steps 20
    python benchmarks/training_step.py --tiny          # a demo network on a CPU, in seconds: to see that all of it runs

A variant is called by its parts, such as bf16-mixed+compile+channels_last.
"""

import argparse
import copy
import gc
import itertools
import json
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from measure import RESULTS, live_bytes_peak, machine
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from video_models import FRAMES, converted, in_turn, matmul_rate, peer_network

from nlnet import build_model
from nlnet.models import describe
from nlnet.models.memory.channels_last import to_channels_last
from nlnet.models.memory.recomputing import recompute_stages
from nlnet.runs.sharding.network import shard_network

DTYPES = {"32": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
OPTIONS = ("compile", "channels_last", "checkpointing")
TINY = ["32", "32+channels_last", "32+checkpointing", "bf16-mixed", "bf16-mixed+compile+channels_last+checkpointing"]


@dataclass(frozen=True)
class Case:
    """What is measured: `make` gives the network in float32 on the CPU."""

    device: str
    batch: int
    side: int
    rounds: int
    steps: int
    product: int
    make: Callable[[], nn.Module]
    stages: Sequence[str]
    backend: str = "inductor"

    def clips(self, frames: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Clips whose mean says which of four classes they are of."""
        generator = torch.Generator().manual_seed(seed)
        target = torch.randint(4, (self.batch,), generator=generator)
        noise = torch.randn(self.batch, 3, frames, self.side, self.side, generator=generator)
        return (noise + (target - 1.5).view(-1, 1, 1, 1, 1)).to(self.device), target.to(self.device)


def variants(precisions: Sequence[str]) -> list[str]:
    """All combinations, the plain one of each precision first."""
    chosen = [set(c) for n in range(len(OPTIONS) + 1) for c in itertools.combinations(OPTIONS, n)]
    return [
        "+".join([p, *(option for option in OPTIONS if option in options)]) for p in precisions for options in chosen
    ]


def arranged(case: Case, name: str) -> tuple[nn.Module, torch.dtype | None]:
    """The network of a variant on its device, and the type that it computes in; None for float32."""
    precision, *options = name.split("+")
    net = case.make().to(case.device).train()
    if "checkpointing" in options:
        recompute_stages(net, case.stages)
    if "channels_last" in options:
        to_channels_last(net)
    if "compile" in options:
        net.compile(backend=case.backend)
    return net, DTYPES[precision]


class Step:
    """Forward, backward and SGD; `loss` is that of the last step."""

    def __init__(self, net: nn.Module, dtype: torch.dtype | None, device: str, rate: float = 1e-4) -> None:
        self.net, self.dtype, self.device = net, dtype, device
        self.optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)
        self.scaler = torch.amp.GradScaler(device, enabled=dtype is torch.float16)
        self.loss = torch.zeros(())

    def __call__(self, x: Tensor, target: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device, self.dtype, enabled=self.dtype is not None):
            loss = nn.functional.cross_entropy(self.net(x).float(), target)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.loss = loss.detach()


def measured(case: Case, frames: int, names: Sequence[str], rate: float, peer: nn.Module | None) -> dict[str, Any]:
    """Figures of each variant at a length, each in turn with the peer."""
    x, target = case.clips(frames)
    macs = describe(case.make(), (3, frames, case.side, case.side)).gmacs * 1e9
    half = torch.float16 if case.device == "cuda" else torch.bfloat16
    theirs = Step(copy.deepcopy(peer).to(case.device).train(), half, case.device) if peer else None
    results: dict[str, Any] = {}
    if theirs:
        theirs(x, target)
        peak = live_bytes_peak(lambda: theirs(x, target), case.device) / 2**30
        results["mmaction2"] = {"precision": str(half).removeprefix("torch."), "peak GiB": peak}
    for name in names:
        try:
            results[name] = _variant(case, name, x, target, theirs, macs, rate)
        except torch.OutOfMemoryError as error:
            results[name] = {"failed": str(error).splitlines()[0]}
        print(f"{frames} frames, {name}: {results[name]}", flush=True)
        gc.collect()
    return results


def _variant(
    case: Case, name: str, x: Tensor, target: Tensor, theirs: Step | None, macs: float, rate: float
) -> dict[str, Any]:
    ours = Step(*arranged(case, name), case.device)
    ours(x, target)  # compiles, and makes the optimizer's state
    cases: dict[str, Callable[[], object]] = {"ours": lambda: ours(x, target)}
    if theirs:
        cases["mmaction2"] = lambda: theirs(x, target)
    seconds = in_turn(cases, case.rounds, case.device)
    clips = {key: case.batch / value for key, value in seconds.items()}
    return {
        "clips/s": clips["ours"],
        "mmaction2 clips/s": clips.get("mmaction2"),
        "ratio": clips["ours"] / clips["mmaction2"] if theirs else None,
        "peak GiB": live_bytes_peak(lambda: ours(x, target), case.device) / 2**30,
        # backward is twice forward, an operation half a multiply-add; what is recomputed does not count
        "share of the matrix product's rate": 6 * macs * clips["ours"] / rate,
    }


def losses(case: Case, frames: int, name: str) -> list[float]:
    """The losses of a variant from the same weights on the same clips."""
    step = Step(*arranged(case, name), case.device, rate=1e-3)
    found = []
    for number in range(case.steps):
        torch.manual_seed(number)  # of dropout
        step(*case.clips(frames, seed=number % 8))
        found.append(step.loss)
    return torch.stack(found).tolist()


def compared(case: Case, frames: int, names: Sequence[str]) -> dict[str, Any]:
    """Mean absolute differences of losses to those of float32, and that of float32 to itself in another layout."""
    expected = torch.tensor(losses(case, frames, "32"))
    others = {name: torch.tensor(losses(case, frames, name)) for name in ("32+channels_last", *names)}
    tail = max(1, case.steps // 10)
    ends = {name: float(value[-tail:].mean()) for name, value in {"32": expected, **others}.items()}
    apart = {name: float((value - expected).abs().mean()) for name, value in others.items()}
    noise = apart.pop("32+channels_last")
    return {"steps": case.steps, "noise of float32": noise, "mean difference": apart, "mean of the last tenth": ends}


def parallel(case: Case, frames: int, precision: str) -> dict[str, Any]:
    """Clips a second and memory of a step in one process, under ddp and under fsdp, both with one rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group("nccl" if case.device == "cuda" else "gloo")
    try:
        x, target = case.clips(frames)
        nets: dict[str, nn.Module] = {name: arranged(case, precision)[0] for name in ("one process", "ddp", "fsdp")}
        nets["ddp"] = DistributedDataParallel(nets["ddp"])
        shard_network(nets["fsdp"], [nets["fsdp"]], torch.device(case.device))
        steps = {name: Step(net, DTYPES[precision], case.device) for name, net in nets.items()}
        for step in steps.values():
            step(x, target)
        cases = {name: (lambda step=step: step(x, target)) for name, step in steps.items()}
        seconds = in_turn(cases, case.rounds, case.device)
        peaks = {name: live_bytes_peak(fn, case.device) / 2**30 for name, fn in cases.items()}
        return {name: {"clips/s": case.batch / seconds[name], "peak GiB": peaks[name]} for name in cases}
    finally:
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--batch", type=int, default=8, help="clips in a step")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=200, help="of the comparison of losses; 0 leaves it out")
    parser.add_argument("--variants", help="with commas; all of them without")
    parser.add_argument("--lengths", default=",".join(FRAMES), help="8x8, 32x2 or both, with a comma")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")  # as the matrix products of a run under AMP
    peer = None if args.tiny else peer_network()
    if args.tiny:
        make: Callable[[], nn.Module] = _tiny
        case = Case("cpu", 2, 32, 1, 3, 256, make, ["res3"], "aot_eager")
        lengths = {"tiny": 4}
    else:
        start = converted(*peer) if peer else build_model("i3d_r50", nonlocal_blocks=5)
        make = lambda: copy.deepcopy(start)  # noqa: E731 - one word of what it is
        product = 8192 if args.device == "cuda" else 1024
        case = Case(args.device, args.batch, args.side, args.rounds, args.steps, product, make, ["res2", "res3"])
        lengths = {name: FRAMES[name] for name in args.lengths.split(",")}
    precisions = list(DTYPES) if case.device == "cuda" else ["32", "bf16-mixed"]
    names = args.variants.split(",") if args.variants else TINY if args.tiny else variants(precisions)
    rate = matmul_rate(case.product, case.device)
    results: dict[str, Any] = {"machine": machine(case.device), "batch": case.batch, "side": case.side}
    results["bfloat16 product, operations/s"] = rate
    for name, frames in lengths.items():
        results[name] = measured(case, frames, names, rate, peer[0] if peer else None)
    frames = next(iter(lengths.values()))
    if case.steps:
        results["losses"] = compared(case, frames, [name for name in names if name != "32"])
    results["one rank"] = parallel(case, frames, "bf16-mixed")
    out = args.out or (None if args.tiny else RESULTS / f"training_step_{case.device}.json")
    if out:
        out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


def _tiny() -> nn.Module:
    torch.manual_seed(0)
    return build_model("c2d_demo", nonlocal_blocks=2, num_classes=4)


if __name__ == "__main__":
    main()
