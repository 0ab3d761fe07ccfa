"""Image restoration: Gaussian noise is taken away."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from nlnet.checkpoints.weights import load_weights
from nlnet.data.restoration.noise import LEVELS
from nlnet.distributed import gather, is_first, print_once, sum_over_ranks, world_size
from nlnet.errors import UserError, nearest
from nlnet.evaluation.predictions import Predictions
from nlnet.evaluation.restoration import BORDER_RULE, psnr, ssim
from nlnet.evaluation.views import Views
from nlnet.models.restoration.denoiser import Denoiser
from nlnet.models.restoration.tiles import restore
from nlnet.saving import write_bytes
from nlnet.tasks.classical import BASELINES
from nlnet.tasks.missing import describe_missing
from nlnet.tasks.task import Batch, Task

SCORES = "images.csv"


class Score(NamedTuple):
    """How near one version of an image is to the clean one."""

    image: int
    """Its index."""
    method: str
    """"network", "noisy", or one of the baselines."""
    sigma: float
    psnr: float
    ssim: float


class RestorationTask(Task):
    """A denoiser, its loss and its scores.

    The loss of a patch is the mean squared error in levels of 8 bits, mean (255 (restored - clean))^2; that of a batch
    is sum_b w_b l_b / sum_b w_b over all ranks, where w_b is 0 for a patch that could not be read. As the network
    adds its output to the image it is also that of the noise, as NLRN and DnCNN have it.

    An evaluation restores whole images, each once on any number of ranks: `val/PSNR` in dB and `val/SSIM`, means over
    the images, and `val/noisy_PSNR` of the images as they came. `src/eval.py` also applies the baselines, and writes
    every image's scores to `images.csv`.

    Args:
        net: images (B, C, H, W) in [0, 1] -> the same shape.
        kind: "restoration".
        tile, overlap: how large images are worked on; see `nlnet.models.restoration.tiles.restore`.
        baselines: names of filters that an evaluation compares with; see `nlnet.tasks.classical`.
        val_keys: names of the validation images.
        shared: optimizer and what else every task has; see `Task`.
    """

    samples = "images"
    outputs: ClassVar[Mapping[str, str]] = {SCORES: "PSNR and SSIM of every image, by method"}
    predictor = "nlnet.prediction.restoration.predict_restored"

    def __init__(
        self,
        net: nn.Module,
        kind: str,
        *,
        tile: int | None = None,
        overlap: int | None = None,
        baselines: Sequence[str] = (),
        val_keys: Sequence[str] = (),
        **shared: Any,
    ) -> None:
        super().__init__(net, kind, **shared)
        if not isinstance(net, Denoiser):
            raise UserError(
                f"task.kind={kind}: {type(net).__name__} is no network that restores images; set model=nlrn"
            )
        check_tiles(tile, overlap)
        for name in baselines:
            if name not in BASELINES:
                raise UserError(f"task.baselines={list(baselines)}: no such filter; {nearest(name, BASELINES)}")
        self.tile, self.overlap = tile, overlap
        self.baselines, self.val_keys = tuple(baselines), val_keys
        self._compare = False
        self.reset()

    @property
    def denoiser(self) -> Denoiser:
        """The network, as what it is."""
        return cast(Denoiser, self.net)

    @classmethod
    def network_arguments(cls, data: Any) -> dict[str, Any]:
        return {}

    @classmethod
    def data_arguments(cls, data: Any) -> dict[str, Any]:
        return super().data_arguments(data) | {"val_keys": data.val_keys}

    @classmethod
    def check_kind(cls, kind: str, data: Any) -> None:
        if not hasattr(data, "channels"):
            raise UserError(
                f"task.kind={kind}: the data ({type(data).__name__}) are no images with noise; set data=photographs"
            )

    @classmethod
    def check(cls, net: nn.Module, data: Any) -> None:
        channels = getattr(net, "channels", data.channels)
        if channels != data.channels:
            raise UserError(
                f"data.channels={data.channels}, but the network is for {channels}; train one with"
                f" data.channels={data.channels}"
            )

    @classmethod
    def initial_weights(cls, net: nn.Module, init: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
        if init["images"]:
            raise UserError(
                f"init.images={init['images']}: weights of a classifier do not restore images; leave it out"
            )
        return [load_weights(net, init["checkpoint"])] if init["checkpoint"] else []

    def model_summary(self, data: Any) -> tuple[list[str], dict[str, float]]:
        parameters = sum(parameter.numel() for parameter in self.net.parameters())
        reach = self.denoiser.reach
        sees = "everywhere" if reach is None else f"{reach} pixels around each"
        return [f"{self.denoiser.title}: {parameters / 1e6:.3f} M parameters, looks {sees}"], {"parameters": parameters}

    def evaluate(
        self, trainer: pl.Trainer, data: pl.LightningDataModule, protocol: DictConfig, views: Views | None
    ) -> Predictions | None:
        self._compare = True
        trainer.validate(self, data, verbose=False)
        return None

    def forward(self, images: Tensor) -> Tensor:
        weight = next(self.net.parameters())  # of another type with a precision such as 64-true
        return self.net(images.to(weight.dtype))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        weights = batch["weights"]
        total = sum_over_ranks(weights.sum())
        errors = (self(batch["inputs"]).float() - batch["targets"]) * LEVELS
        # DDP averages gradients over the ranks; times the number of ranks it is the sum over the global batch.
        loss = (weights * errors.square().mean((1, 2, 3))).sum() * world_size() / total.clamp(min=1)
        self.log("train/loss", sum_over_ranks(loss.detach() / world_size()), prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._score(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._score(batch)

    def reset(self) -> None:
        super().reset()
        self._scores: list[Score] = []

    def log_metrics(self, stage: str) -> None:
        failed = self.failures()
        scores = sorted({score for of_rank in gather(self._scores) for score in of_rank})
        metrics: dict[str, float] = {"images": len({score.image for score in scores})}
        for method in dict.fromkeys(score.method for score in scores):
            prefix = "" if method == "network" else f"{method}_"
            metrics[f"{prefix}PSNR"] = _mean([score.psnr for score in scores if score.method == method])
            metrics[f"{prefix}SSIM"] = _mean([score.ssim for score in scores if score.method == method])
        if failed:  # beside the others, so that nobody takes them for those of all images
            metrics["images_missing"] = float(len(failed))
            print_once(f"{stage}: {describe_missing(int(metrics['images']), failed, 'images')}")
        if is_first() and not self.trainer.sanity_checking:
            _write(Path(self.trainer.default_root_dir) / SCORES, scores, self.val_keys)
        self.log_same({f"{stage}/{name}": torch.tensor(float(value)) for name, value in metrics.items()})

    def metric_names(self) -> list[str]:
        return ["images", *(f"{prefix}{name}" for prefix in ("", "noisy_") for name in ("PSNR", "SSIM"))]

    def rules(self) -> dict[str, str]:
        return {"PSNR": BORDER_RULE}

    def _score(self, batch: Batch) -> None:
        self.note_failures(batch)
        for k, weight in enumerate(batch["weights"].tolist()):
            if weight > 0:
                index, sigma = int(batch["indices"][k]), float(batch["sigma"][k])
                self._scores += self._versions(index, sigma, batch["inputs"][k], batch["targets"][k])

    def _versions(self, index: int, sigma: float, noisy: Tensor, clean: Tensor) -> list[Score]:
        """The scores of an image as the network restores it, as it came, and where it is asked for by the baselines."""
        images = noisy[None].to(next(self.net.parameters()).dtype)
        restored = {"network": restore(self.denoiser, images, tile=self.tile, overlap=self.overlap)[0].float().cpu()}
        restored["noisy"] = noisy = noisy.cpu()
        for name in self.baselines if self._compare else ():
            restored[name] = BASELINES[name](noisy, sigma / LEVELS)
        clean = clean.cpu()
        return [Score(index, name, sigma, psnr(image, clean), ssim(image, clean)) for name, image in restored.items()]


def check_tiles(tile: int | None, overlap: int | None, part: str = "task.") -> None:
    """Raises UserError for tiles that cannot be."""
    if tile is not None and (tile < 16 or tile % 2):
        raise UserError(f"{part}tile={tile}: give an even number of pixels, at least 16, or null for whole images")
    if overlap is not None and overlap < 0:
        raise UserError(f"{part}overlap={overlap}: give pixels, or null for all that the network sees")


def _mean(values: Sequence[float]) -> float:
    """Of those that are numbers: an image may be too small for a SSIM."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _write(path: Path, scores: Sequence[Score], keys: Sequence[str]) -> None:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["image", "sigma", "method", "PSNR", "SSIM"])
    for score in scores:
        name = keys[score.image] if score.image < len(keys) else score.image
        rows.writerow([name, f"{score.sigma:g}", score.method, f"{score.psnr:.4f}", f"{score.ssim:.5f}"])
    write_bytes(path, text.getvalue().encode())
