"""How near a restored image is to the clean one: PSNR and SSIM, of images as they would be stored."""

import math

from torch import Tensor

BORDER_RULE = (
    "of images rounded to 8 bits, data range 255, no border cut off (SSIM: where its 11 x 11 window lies inside)"
)


def stored(images: Tensor) -> Tensor:
    """What is left of images in [0, 1] when they are stored in 8 bits, clipped and rounded; in float64."""
    return (images.double().clamp(0, 1) * 255).round() / 255


def psnr(image: Tensor, clean: Tensor) -> float:
    """10 log10(1 / mean (image - clean)^2) in dB, of `stored` pixels in [0, 1], over the whole image and all channels.

    Infinite for equal images. Shapes: (C, H, W) both.
    """
    error = float((stored(image) - stored(clean)).square().mean())
    return -10 * math.log10(error) if error else math.inf


def ssim(image: Tensor, clean: Tensor) -> float:
    """The mean structural similarity of `stored` pixels: Gaussian window of 11 x 11 and deviation 1.5, K = 0.01, 0.03.

    Where the window lies inside of the image, as its authors have it; the mean over the channels. Not a number for an
    image that is smaller than the window.

    Source: Wang et al., "Image quality assessment", IEEE TIP 2004.
    Shapes: (C, H, W) both.
    """
    if min(image.shape[1:]) < 11:
        return math.nan
    from torchmetrics.functional.image import structural_similarity_index_measure  # takes seconds to import

    pair = (stored(image)[None], stored(clean)[None])
    # torchmetrics' own mean is over the border too, where it mirrors the image.
    found = structural_similarity_index_measure(*pair, sigma=1.5, data_range=1.0, return_full_image=True)
    return float(found[1][..., 5:-5, 5:-5].mean())
