"""Additive white Gaussian noise, a function of the sample, the epoch and the seed alone."""

import zlib

import numpy as np

EVALUATION = 2018
"""The seed of the noise of an evaluation: that of every run, so that their scores are of the same noisy images."""

LEVELS = 255.0
"""Deviations are told in levels of 8 bits, as papers do."""


def generator(seed: int, epoch: int, key: str, number: int = 0) -> np.random.Generator:
    """The random numbers of one sample: they depend on no other sample, and on no history."""
    return np.random.default_rng((seed, epoch, zlib.crc32(key.encode(errors="surrogatepass")), number))


def noisy(clean: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """clean + sigma / 255 n, n standard normal, in float32: neither clipped to [0, 1] nor rounded, as published."""
    return clean + rng.standard_normal(clean.shape, dtype=np.float32) * np.float32(sigma / LEVELS)
