"""The task of restoring images: its loss, its scores, the filters beside them."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.restoration import denoise_nl_means, denoise_wavelet

from helpers.photographs import picture, write_photographs
from nlnet.config.resolve import load
from nlnet.errors import UserError
from nlnet.models.restoration.build import build_denoiser
from nlnet.optim.schedules import constant
from nlnet.runs.build import make_data, make_task
from nlnet.tasks.classical import BASELINES
from nlnet.tasks.restoration import RestorationTask


def task(**options: Any) -> RestorationTask:
    torch.manual_seed(0)
    net = options.pop("net", None) or build_denoiser("dncnn", sizes="demo", depth=3)
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    shared = {"monitor": "val/PSNR", "classes": [], "optimizer": optimizer, "schedule": constant}
    made = RestorationTask(net, "restoration", **shared, **options)
    made.log = lambda *arguments, **options: None
    return made.eval()


def test_the_loss_is_the_squared_error_in_levels_of_what_could_be_read() -> None:
    made, clean = task(), torch.rand(4, 1, 9, 9)
    noisy = clean + 0.1 * torch.randn(clean.shape)
    batch = {"inputs": noisy, "targets": clean, "weights": torch.tensor([1.0, 0.0, 1.0, 1.0])}
    loss = made.training_step(batch, 0)
    with torch.no_grad():
        residual = made.net.residual(noisy)
    of_noise = (255 * (residual - (clean - noisy))).double().square().mean((1, 2, 3))
    assert loss.item() == pytest.approx(of_noise[[0, 2, 3]].mean().item(), rel=1e-6)


def noisy_picture() -> tuple[np.ndarray, torch.Tensor]:
    clean = picture(60, 70, 3).transpose(2, 0, 1) / 255
    return clean, torch.from_numpy(clean + np.random.default_rng(0).normal(0, 25 / 255, clean.shape)).float()


def error(image: np.ndarray | torch.Tensor, clean: np.ndarray) -> float:
    return float(np.square(np.asarray(image, np.float64) - clean).mean())


def test_nonlocal_means_comes_near_that_of_scikit_image() -> None:
    clean, noisy = noisy_picture()
    restored = error(BASELINES["nonlocal_means"](noisy, 25 / 255), clean)
    options = {"patch_size": 5, "patch_distance": 10, "h": 0.7 * 25 / 255, "sigma": 25 / 255, "fast_mode": True}
    theirs = denoise_nl_means(noisy.double().numpy(), channel_axis=0, **options)
    assert 0.5 * error(theirs, clean) < restored < 1.1 * error(theirs, clean) < 0.15 * error(noisy, clean)


def test_wavelets_are_those_of_scikit_image() -> None:
    pytest.importorskip("pywt", reason="it is in the extra `restoration`")
    clean, noisy = noisy_picture()
    for pixels in (noisy, noisy[:1]):
        restored = BASELINES["wavelets"](pixels, 25 / 255)
        theirs = denoise_wavelet(pixels.double().numpy(), sigma=25 / 255, channel_axis=0)
        np.testing.assert_allclose(restored.numpy(), theirs, atol=1e-12)
    assert error(restored, clean[:1]) < 0.5 * error(noisy[:1], clean[:1])


def test_without_pywavelets_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pywt", None)
    monkeypatch.delitem(sys.modules, "skimage.restoration._denoise", raising=False)
    with pytest.raises(UserError, match=r"wavelets need .*pip install 'nlnet\[restoration\]'"):
        BASELINES["wavelets"](noisy_picture()[1], 25 / 255)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 15}, "task.tile=15: give an even number of pixels"),
        ({"overlap": -1}, "task.overlap=-1: give pixels"),
        ({"baselines": ["nonlocal_mean"]}, "no such filter; did you mean|nearest: nonlocal_means"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        task(**options)


def test_a_network_and_data_of_other_kinds_are_refused(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path)
    cfg = load(
        [
            "experiment=denoise_dncnn",
            "size=demo_denoise",
            f"data.shards={folder}",
            "data.patch_size=16",
            "model.channels=3",
        ]
    )
    data = make_data(cfg)
    with pytest.raises(UserError, match=r"data\.channels=1, but the network is for 3"):
        make_task(cfg, data)
    with pytest.raises(UserError, match="Conv2d is no network that restores images; set model=nlrn"):
        task(net=torch.nn.Conv2d(1, 1, 3))
    with pytest.raises(UserError, match=r"the data \(PosixPath\) are no images with noise; set data=photographs"):
        RestorationTask.check_kind("restoration", Path())
