"""Filters without training, which networks that restore images are compared with."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nlnet.errors import UserError
from nlnet.ops import nonlocal_means


def by_nonlocal_means(noisy: Tensor, sigma: float) -> Tensor:
    """Classical non-local means for noise of deviation `sigma` in [0, 1], see `nlnet.ops.nonlocal_means`.

    Uniform patches of 5 x 5, a search of 21 x 21 and h = 0.7 sigma are the best of twenty settings on the built-in
    training photographs at sigma 25/255.
    """
    h = 0.7 * max(sigma, 1e-3)
    return nonlocal_means(noisy[None], h=h, sigma=sigma, patch_size=5, search_distance=10, patch_weights="uniform")[0]


def by_wavelets(noisy: Tensor, sigma: float) -> Tensor:
    """Wavelet thresholding as scikit-image has it (BayesShrink, soft, db1), told the deviation of the noise.

    Raises UserError where scikit-image or PyWavelets is not installed.
    """
    pixels = noisy.double().permute(1, 2, 0).numpy()
    try:
        from skimage.restoration import denoise_wavelet

        restored = denoise_wavelet(pixels, sigma=max(sigma, 1e-3), channel_axis=2, method="BayesShrink", mode="soft")
    except ImportError as error:  # PyWavelets is asked for by the call
        raise UserError(
            f"task.baselines: wavelets need scikit-image and PyWavelets ({error}): pip install 'nlnet[restoration]'"
        ) from error
    return torch.from_numpy(restored.copy()).permute(2, 0, 1)


BASELINES: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "nonlocal_means": by_nonlocal_means,
    "wavelets": by_wavelets,
}
"""Filters without training by name: an image with noise (C, H, W) in [0, 1], the deviation -> the restored image."""
