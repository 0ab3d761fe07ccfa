"""PSNR and SSIM against scikit-image's, in float64."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from nlnet.evaluation.restoration import psnr, ssim


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [0.02, 0.2])
def test_they_are_those_of_scikit_image(channels: int, sigma: float) -> None:
    generator = torch.Generator().manual_seed(channels)
    clean = (torch.rand(channels, 30, 41, generator=generator) * 255).round() / 255
    image = clean + sigma * torch.randn(clean.shape, generator=generator)  # beyond [0, 1] here and there
    stored = (image.clamp(0, 1) * 255).round().byte().numpy()
    truth = (clean * 255).round().byte().numpy()
    assert psnr(image, clean) == pytest.approx(peak_signal_noise_ratio(truth, stored, data_range=255), abs=1e-9)
    expected = structural_similarity(
        *(a.astype(np.float64) for a in (truth, stored)),
        data_range=255, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    assert ssim(image, clean) == pytest.approx(expected, abs=1e-9)


def test_equal_images_and_small_ones() -> None:
    clean = torch.rand(1, 16, 10)
    assert psnr(clean, clean) == math.inf
    assert math.isnan(ssim(clean, clean))
    assert ssim(clean.mT.repeat(1, 2, 1), clean.mT.repeat(1, 2, 1)) == pytest.approx(1, abs=1e-12)
