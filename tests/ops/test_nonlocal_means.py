"""Classical non-local means: the equation in float64, the non-local operation it is a case of, and scikit-image's."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.io import imread
from skimage.restoration import denoise_nl_means
from skimage.transform import downscale_local_mean
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nlnet.ops import embedded_gaussian, nonlocal_means

NOISE = 0.08


def random(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def at(image: Tensor, position: Sequence[int]) -> Tensor:
    """(C,): the image at a position, in its mirror image beyond the border: -1 is 1, and length is length - 2."""
    inside = [abs(i) if i < n else 2 * (n - 1) - i for i, n in zip(position, image.shape[1:], strict=True)]
    return image[(slice(None), *inside)]


def weights(size: int, axes: int, patch_weights: str) -> dict[tuple[int, ...], float]:
    """w_o for each offset o, summing to one."""
    start = -((size - 1) // 2)
    w = {}
    for o in itertools.product(range(start, start + size), repeat=axes):
        middle = start + (size - 1) / 2
        squares = sum((k - middle) ** 2 for k in o)
        w[o] = math.exp(-squares / (2 * ((size - 1) / 4) ** 2)) if patch_weights == "gaussian" and size > 1 else 1.0
    return {o: value / sum(w.values()) for o, value in w.items()}


def oracle(x: Tensor, *, h: float, sigma: float, patch_size: int, search_distance: int, patch_weights: str) -> Tensor:
    """The equation, one pair of positions at a time."""
    size = x.shape[2:]
    w = weights(patch_size, len(size), patch_weights)
    y = torch.zeros_like(x)
    positions = list(itertools.product(*map(range, size)))
    for clip, image in enumerate(x):
        patches_PCO = [
            torch.stack([at(image, [p + q for p, q in zip(i, o, strict=True)]) for o in w], dim=1) for i in positions
        ]
        for i, patch_i in zip(positions, patches_PCO, strict=True):
            normalizer = 0.0
            for j, patch_j in zip(positions, patches_PCO, strict=True):
                if max(abs(p - q) for p, q in zip(i, j, strict=True)) > search_distance:
                    continue
                d = float(
                    (
                        (patch_i - patch_j).square().mean(dim=0) * torch.tensor(list(w.values()), dtype=torch.float64)
                    ).sum()
                )
                f = math.exp(-max(d - 2 * sigma**2, 0) / h**2) if i != j else 1.0
                normalizer += f
                y[(clip, slice(None), *i)] += f * at(image, j)
            y[(clip, slice(None), *i)] /= normalizer
    return y


@pytest.mark.parametrize(
    ("shape", "patch_size", "search_distance"),
    [
        ((2, 3, 5, 6), 3, 2),
        ((1, 1, 4, 5), 5, 9),
        ((1, 2, 4, 4), 4, 1),
        ((1, 1, 3, 4), 1, 3),
        ((1, 2, 5, 4), 3, 0),
        ((1, 1, 3, 4, 3), 3, 1),
        ((1, 2, 2, 3, 3), 2, 2),
        ((2, 2, 9), 3, 4),
    ],
    ids=str,
)
@pytest.mark.parametrize("patch_weights", ["gaussian", "uniform"])
@pytest.mark.parametrize("sigma", [0.0, 0.15])
def test_it_is_the_equation(
    shape: tuple[int, ...], patch_size: int, search_distance: int, patch_weights: str, sigma: float
) -> None:
    x = random(*shape)
    options = {"h": 0.3, "patch_size": patch_size, "search_distance": search_distance, "patch_weights": patch_weights}
    y = nonlocal_means(x, sigma=sigma, **options)
    torch.testing.assert_close(y, oracle(x, sigma=sigma, **options), rtol=1e-12, atol=1e-12)


def test_over_the_whole_image_it_is_the_embedded_gaussian_of_patches() -> None:
    """-|p_i - p_j|^2 / h^2 is 2 p_i . p_j / h^2 - |p_j|^2 / h^2 and a part that the softmax over j does not see."""
    x, h = random(2, 3, 7, 6), 0.4
    patches_BMP = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect").unfold(2, 3, 1).unfold(3, 3, 1)
    patches_BMP = patches_BMP.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2) / 27**0.5
    theta = torch.cat([2 * patches_BMP / h**2, torch.ones(2, 42, 1).double()], dim=2)
    phi = torch.cat([patches_BMP, -patches_BMP.square().sum(dim=2, keepdim=True) / h**2], dim=2)
    y_BNC = embedded_gaussian(theta, phi, x.flatten(2).transpose(1, 2))
    y = nonlocal_means(x, h=h, patch_size=3, search_distance=7, patch_weights="uniform")
    torch.testing.assert_close(y, y_BNC.transpose(1, 2).view_as(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(1, 2, 3, 3), (1, 1, 2, 3, 2)], ids=str)
@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_gradients(shape: tuple[int, ...], sigma: float) -> None:
    x = random(*shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: nonlocal_means(t, h=0.5, sigma=sigma, patch_size=3, search_distance=1), x)


class Largest(TorchFunctionMode):
    """Records the number of elements of the largest tensor that a function returns."""

    elements = 0

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_nothing_larger_than_the_padded_image_is_made() -> None:
    with torch.no_grad(), Largest() as largest:
        nonlocal_means(torch.rand(2, 3, 8, 10), h=0.1, patch_size=5, search_distance=10)
    assert largest.elements == 2 * 3 * 12 * 14


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    x = random(1, 3, 12, 12).to(dtype)
    y = nonlocal_means(x, h=0.1, patch_size=3, search_distance=3)
    assert y.dtype == dtype
    assert torch.equal(y, nonlocal_means(x.float(), h=0.1, patch_size=3, search_distance=3).to(dtype))


# ---- against scikit-image, on a photograph


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(image - reference).mean()))


@pytest.fixture(scope="module")
def photograph(media: Path) -> np.ndarray:
    """(96, 128, 3), from 0 to 1."""
    image = imread(media / "image" / "000000000785.jpg")[80:272, 120:376] / 255
    return downscale_local_mean(image, (2, 2, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def volume(photograph: np.ndarray) -> np.ndarray:
    """(10, 32, 32): a camera that pans over the photograph, in gray."""
    gray = photograph.mean(axis=2)
    return np.stack([gray[40:72, 30 + 2 * t : 62 + 2 * t] for t in range(10)])


def noisy(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(image.shape)
    return (image + NOISE * noise).astype(np.float32)


def ours(image: np.ndarray, axes: int, **options: object) -> np.ndarray:
    x = torch.from_numpy(image.reshape(*image.shape[:axes], -1)).movedim(-1, 0)[None]
    return nonlocal_means(x, **options)[0].movedim(0, -1).numpy().reshape(image.shape)


def compare(clean: np.ndarray, mine: np.ndarray, theirs: np.ndarray) -> None:
    assert psnr(mine, clean) > psnr(noisy(clean), clean) + 4
    assert psnr(mine, clean) == pytest.approx(psnr(theirs, clean), abs=0.2)


@pytest.mark.parametrize(("sigma", "h"), [(0.0, NOISE), (NOISE, 0.6 * NOISE), (NOISE, NOISE)])
@pytest.mark.parametrize("scene", ["photograph", "volume"])
def test_it_agrees_with_scikit_image(scene: str, sigma: float, h: float, request: pytest.FixtureRequest) -> None:
    """The published filter (fast_mode=False) at equal settings; it differs by dropping weights below exp(-5)."""
    clean = request.getfixturevalue(scene)
    axes, size, distance = (2, 5, 6) if scene == "photograph" else (3, 3, 2)
    channels = {"channel_axis": -1} if scene == "photograph" else {}
    theirs = denoise_nl_means(noisy(clean), size, distance, h, fast_mode=False, sigma=sigma, **channels)
    mine = ours(noisy(clean), axes, h=h, sigma=sigma, patch_size=size, search_distance=distance)
    compare(clean, mine, theirs)


@pytest.mark.parametrize(("sigma", "h"), [(0.0, NOISE), (NOISE, 0.8 * NOISE), (NOISE, NOISE)])
@pytest.mark.parametrize("scene", ["photograph", "volume"])
def test_it_agrees_with_the_fast_mode_of_scikit_image(
    scene: str, sigma: float, h: float, request: pytest.FixtureRequest
) -> None:
    """Its patches of equal weights are one narrower than asked for, but divided by the size asked for."""
    clean = request.getfixturevalue(scene)
    axes, size, distance = (2, 5, 6) if scene == "photograph" else (3, 5, 3)
    channels = {"channel_axis": -1} if scene == "photograph" else {}
    theirs = denoise_nl_means(noisy(clean), size, distance, h, fast_mode=True, sigma=sigma, **channels)
    options = {"patch_size": size - 1, "search_distance": distance, "patch_weights": "uniform"}
    mine = ours(noisy(clean), axes, h=h * (size / (size - 1)) ** (axes / 2), sigma=sigma, **options)
    compare(clean, mine, theirs)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(4, 5), {}, r"expected x \(B, C, W\), got \(4, 5\): x has 2 dim"),
        (torch.zeros(1, 3, 0, 5), {}, "H is 0 in x"),
        (torch.zeros(1, 3, 4, 5, dtype=torch.uint8), {}, r"x is torch\.uint8, not a floating point type"),
        (torch.zeros(1, 3, 4, 5), {"patch_size": 8}, r"below twice the shortest axis, got 8 for x \(1, 3, 4, 5\)"),
        (torch.zeros(1, 3, 4, 5), {"patch_size": 0}, "patch_size from 1"),
        (torch.zeros(1, 3, 4, 5), {"h": 0.0}, "expected h > 0.*h=0.0"),
        (torch.zeros(1, 3, 4, 5), {"sigma": -1.0}, "sigma=-1.0"),
        (torch.zeros(1, 3, 4, 5), {"search_distance": -1}, "search_distance=-1"),
        (torch.zeros(1, 3, 4, 5), {"patch_weights": "box"}, "patch_weights must be 'gaussian' or 'uniform', got 'box'"),
    ],
)
def test_mistakes_are_named(x: Tensor, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"nonlocal_means: .*{message}"):
        nonlocal_means(x, **{"h": 0.1, "patch_size": 3, **options})
