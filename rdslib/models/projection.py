"""Random projection of gradients to few dimensions that keeps inner products (paper, section 2, LESS).

The projection is a matrix of random signs, +-1/sqrt(dimension), far too large to be kept: a quarter of a
million parameters times 8,192 is 2 billion signs. Each sign is a bit of a number that follows from the seed
and the sign's place, so that any part of the matrix is made when it is wanted, the same on every device.
"""

from __future__ import annotations

import numpy as np
import torch

from rdslib.models.device import compute_dtype
from rdslib.seeds import generator

# How many signs are made at a time: they stay in a processor's cache. The projection does not depend on it.
BLOCK = 2**23
WORD = 64


class Projection:
    """Projects float32 rows [n, parameters] to float32 [n, dimension] by the signs of a seed.

    A product of two projected rows is that of the rows themselves, give or take their lengths' product over
    the square root of `dimension`. The matrix product is in `compute_dtype`, whose rounding (0.2% of a row's
    length, spread over all directions) is far below that error.
    """

    def __init__(self, parameters: int, dimension: int, seed: int) -> None:
        self.parameters = parameters
        self.dimension = dimension
        self._words = -(-dimension // WORD)  # that hold the signs of one parameter
        self._key = int(generator(seed, "projection").integers(-(2**63), 2**63))

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Project rows, on the device where they are."""
        dtype = compute_dtype()
        table = _table(rows.device, dtype)
        size = max(1, BLOCK // (WORD * self._words))
        signs = torch.empty(size * self._words * WORD // 16, 16, device=rows.device, dtype=dtype)
        product = torch.empty(len(rows), self.dimension, device=rows.device, dtype=dtype)
        total = torch.zeros(len(rows), self.dimension, device=rows.device)
        for start in range(0, self.parameters, size):
            piece = rows[:, start : start + size].to(dtype)
            count = piece.shape[1] * self._words
            codes = random_words(self._key, start * self._words, count, rows.device).view(torch.int16)
            made = signs[: len(codes)]
            torch.index_select(table, 0, codes.int() & 0xFFFF, out=made)
            torch.mm(piece, made.view(piece.shape[1], -1)[:, : self.dimension], out=product)
            total += product
        return total / self.dimension**0.5


def random_signs(number: int, size: int, dimension: int, device: torch.device) -> torch.Tensor:
    """Make the small matrix of signs, +-1, that goes by a number: float32 [size, dimension]."""
    bits = generator(0, "signs", str(number)).integers(0, 2, (size, dimension), dtype=np.int8)
    return torch.from_numpy(2 * bits - 1).to(device, torch.float32)


def random_words(key: int, start: int, count: int, device: torch.device) -> torch.Tensor:
    """Make the numbers `start` to `start + count` of the random sequence that `key` names: int64 [count].

    SplitMix64 (Steele, Lea and Flood 2014): the number at each place is had without those before it.
    """
    words = torch.arange(start, start + count, device=device)
    words.mul_(_signed(0x9E3779B97F4A7C15)).add_(key)
    words.bitwise_xor_(_shift(words, 30)).mul_(_signed(0xBF58476D1CE4E5B9))
    words.bitwise_xor_(_shift(words, 27)).mul_(_signed(0x94D049BB133111EB))
    return words.bitwise_xor_(_shift(words, 31))


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned number."""
    return word - 2**64 if word >= 2**63 else word


def _shift(words: torch.Tensor, by: int) -> torch.Tensor:
    """Words shifted right with zeros coming in, which torch's shift of int64 does not do."""
    return (words >> by) & (2 ** (64 - by) - 1)


def _table(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """The 16 signs, +-1, that each 16-bit number stands for, its lowest bit first: [65536, 16]."""
    bits = torch.arange(2**16, device=device)[:, None] >> torch.arange(16, device=device)
    return ((bits & 1) * 2 - 1).to(dtype)
