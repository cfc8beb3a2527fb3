"""The codec of a compressed index: a token embedding as a centroid and a few bits for each dimension of the rest.

Santhanam et al. 2022 (ColBERTv2, arXiv 2112.01488), section 3.3, with two differences. The levels that a residual is
rounded to are those of its own dimension and the best for it (Lloyd 1982, starting from quantiles), as dimensions of an
encoder differ in spread. And a byte says how long the decoded vector is, since cosines of vectors that have shrunk
rank passages less well.

An embedding becomes a record of bytes::

    centroid, 2 bytes, little-endian | scale, 1 byte | levels, `bits` bits a dimension, lowest bits first
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from cascade.errors import IndexCorrupt

Bits: TypeAlias = Literal[1, 2, 4]
Records: TypeAlias = npt.NDArray[np.uint8]

FORMAT = "1"
HEAD_BYTES = 3
SCALES: npt.NDArray[np.float32] = np.exp2(np.linspace(-1, 1, 256)).astype(np.float32)
"""float32 [256]: what a decoded vector is multiplied by for each value of the scale byte."""

MOST_CENTROIDS = 4096
TOKENS_PER_CENTROID = 32
_CHUNK = 4096
_KMEANS_ROUNDS = 8
_LEVEL_ROUNDS = 10
_SEED = 0
_REBUILD = "rebuild the index"


@dataclass(frozen=True, slots=True)
class Codec:
    """Turns embeddings into records and back.

    Args:
        centroids: float32 [centroids, dim], values that float16 can hold.
        levels: float32 [dim, 2**bits], rising: what the residual of a dimension is rounded to.
        bits: how many for each dimension.
    """

    centroids: npt.NDArray[np.float32]
    levels: npt.NDArray[np.float32]
    bits: Bits

    @property
    def dim(self) -> int:
        """How wide an embedding is."""
        return len(self.levels)

    @property
    def record_bytes(self) -> int:
        """Bytes of a token: 35 at 2 bits and 128 dimensions."""
        return record_bytes(self.dim, self.bits)

    def encode(self, vectors: npt.NDArray[np.float32]) -> Records:
        """uint8 [tokens, record_bytes] of float32 [tokens, dim], rows of length 1."""
        records = np.empty((len(vectors), self.record_bytes), np.uint8)
        for start in range(0, len(vectors), _CHUNK):
            records[start : start + _CHUNK] = self._encode(vectors[start : start + _CHUNK])
        return records

    def decode(self, records: Records) -> npt.NDArray[np.float32]:
        """float32 [tokens, dim]: what uint8 [tokens, record_bytes] stand for, rows of length 1 or nearly so."""
        shifts = np.arange(0, 8, self.bits, dtype=np.uint8)
        unpacked: npt.NDArray[np.uint8] = (records[:, HEAD_BYTES:, None] >> shifts) & np.uint8(2**self.bits - 1)
        codes = unpacked.reshape(len(records), unpacked.shape[1] * len(shifts))[:, : self.dim]
        decoded = self._vectors(centroids_of(records), codes)
        decoded *= SCALES[records[:, 2:3]]
        return decoded

    def to_bytes(self, source: str) -> bytes:
        """The codec as a safetensors file that says what it was trained on."""
        from safetensors.numpy import save

        tensors: dict[str, npt.NDArray[Any]] = {"centroids": self.centroids.astype(np.float16), "levels": self.levels}
        return save(tensors, {"codec": f"{FORMAT} {source}"})  # one entry: safetensors writes several in random order

    def _encode(self, vectors: npt.NDArray[np.float32]) -> Records:
        numbers = _nearest(vectors, self.centroids)
        residuals = vectors - self.centroids[numbers]
        codes = np.zeros(vectors.shape, np.uint8)
        for boundary in ((self.levels[:, 1:] + self.levels[:, :-1]) / 2).T:
            codes += residuals > boundary
        lengths = np.linalg.norm(self._vectors(numbers, codes), axis=1)
        scale = np.rint((1 - np.log2(np.clip(lengths, 0.5, 2))) * 127.5)
        per_byte = 8 // self.bits
        packed = np.pad(codes, ((0, 0), (0, -self.dim % per_byte))).reshape(len(vectors), -1, per_byte)
        packed <<= np.arange(0, 8, self.bits, dtype=np.uint8)
        head = numbers.astype("<u2")[:, None].view(np.uint8)
        return np.hstack((head, scale.astype(np.uint8)[:, None], packed.sum(axis=2, dtype=np.uint8)))

    def _vectors(self, numbers: npt.NDArray[np.integer], codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """float32 [n, dim] before scaling, of centroid numbers [n] and codes [n, dim]."""
        decoded: npt.NDArray[np.float32] = np.take_along_axis(self.levels.T, codes.astype(np.intp), axis=0)
        decoded += self.centroids[numbers]
        return decoded


def record_bytes(dim: int, bits: Bits) -> int:
    """Bytes of a token.

    >>> record_bytes(128, 2)
    35
    """
    return HEAD_BYTES + -(-dim * bits // 8)


def centroids_of(records: Records) -> npt.NDArray[np.uint16]:
    """uint16 [tokens]: the centroid that each record names."""
    return np.ascontiguousarray(records[:, :2]).view("<u2")[:, 0]


def centroid_count(tokens: int) -> int:
    """How many centroids an index of so many tokens gets: the greatest power of two within their square root.

    More of them hardly help: of all-MiniLM-L6-v2's embeddings, 1024 keep no more of an order than 256 do.

    >>> [centroid_count(tokens) for tokens in (0, 1, 17, 400_000, 10**9)]
    [1, 1, 4, 512, 4096]
    """
    return int(min(2 ** int(math.log2(max(math.isqrt(tokens), 1))), MOST_CENTROIDS))


def sample_rows(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """int64, rising: rows of enough passages, drawn at random but always the same, to train a codec on.

    Args:
        lengths: int64 [passages], the embeddings of each.
    """
    wanted = TOKENS_PER_CENTROID * centroid_count(int(lengths.sum()))
    order = np.random.default_rng(_SEED).permutation(len(lengths))
    enough = int(np.searchsorted(np.cumsum(lengths[order]), wanted)) + 1
    return np.sort(order[:enough])


def train(sample: npt.NDArray[np.float32], centroids: int, bits: Bits) -> Codec:
    """A codec for embeddings like those of the sample.

    Args:
        sample: float32 [n, dim], rows of length 1; may be empty.
        centroids: how many; fewer where the sample is smaller.
        bits: for each dimension.
    """
    if not len(sample):
        return Codec(np.zeros((1, sample.shape[1]), np.float32), np.zeros((sample.shape[1], 2**bits), np.float32), bits)
    found = _kmeans(sample, min(centroids, len(sample))).astype(np.float16).astype(np.float32)
    residuals = sample - found[_nearest(sample, found)]
    levels = np.stack([_levels(column, bits) for column in np.sort(residuals, axis=0).T])
    return Codec(found, levels, bits)


def read_codec(path: Path, dim: int, bits: Bits) -> tuple[Codec, str]:
    """The codec in a file, and what it was trained on.

    Raises:
        IndexCorrupt: the file is missing or damaged, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            form, _, source = (file.metadata() or {}).get("codec", "").partition(" ")
            if form != FORMAT:
                raise IndexCorrupt(f"{path}: expected codec format {FORMAT!r}, got {form!r}; {_REBUILD}")
            centroids, levels = file.get_tensor("centroids"), file.get_tensor("levels")
    except (OSError, SafetensorError) as error:
        raise IndexCorrupt(f"{path}: expected a codec as safetensors: {error}; {_REBUILD}") from error
    fits = centroids.ndim == 2 and 1 <= len(centroids) <= MOST_CENTROIDS and centroids.shape[1] == dim
    if not fits or centroids.dtype != np.float16 or (levels.dtype, levels.shape) != (np.float32, (dim, 2**bits)):
        raise IndexCorrupt(
            f"{path}: expected float16 [at most {MOST_CENTROIDS}, {dim}] and float32 [{dim}, {2**bits}], got "
            f"{centroids.dtype} {list(centroids.shape)} and {levels.dtype} {list(levels.shape)}; {_REBUILD}"
        )
    if not (np.isfinite(centroids).all() and np.isfinite(levels).all()):
        raise IndexCorrupt(f"{path}: expected finite numbers, got others; {_REBUILD}")
    return Codec(centroids.astype(np.float32), levels, bits), source


def digest(codec: Codec) -> str:
    """64 hex digits that differ for any two codecs that encode differently."""
    return hashlib.sha256(codec.to_bytes("")).hexdigest()


def _nearest(vectors: npt.NDArray[np.float32], centroids: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """int64 [n]: the centroid at the least Euclidean distance from each vector."""
    import torch  # whose threads the caller counts; those of numpy's products nobody does

    right = torch.from_numpy(centroids)
    halves = (right * right).sum(1) / 2
    parts = [
        torch.addmm(-halves, torch.from_numpy(vectors[start : start + _CHUNK]), right.T).argmax(1)
        for start in range(0, max(len(vectors), 1), _CHUNK)
    ]
    found: npt.NDArray[np.int64] = torch.cat(parts).numpy()
    return found


def _kmeans(sample: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
    """float32 [count, dim]: centroids by Lloyd's algorithm; one that loses all its vectors stays where it is."""
    chosen = np.random.default_rng(_SEED).choice(len(sample), count, replace=False)
    centroids = sample[np.sort(chosen)]
    for _ in range(_KMEANS_ROUNDS):
        numbers = _nearest(sample, centroids)
        order = np.argsort(numbers, kind="stable")
        present, starts, sizes = np.unique(numbers[order], return_index=True, return_counts=True)
        centroids[present] = np.add.reduceat(sample[order], starts, axis=0) / sizes[:, None].astype(np.float32)
    return centroids


def _levels(values: npt.NDArray[np.float32], bits: Bits) -> npt.NDArray[np.float32]:
    """float32 [2**bits], rising: the levels that ``values``, float32 [n] and rising, are best rounded to."""
    count = 2**bits
    sums = np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))
    levels = np.quantile(values.astype(np.float64), (np.arange(count) + 0.5) / count)
    for _ in range(_LEVEL_ROUNDS):
        boundaries = (levels[1:] + levels[:-1]) / 2
        edges = np.concatenate(([0], np.searchsorted(values, boundaries, side="right"), [len(values)]))
        sizes = np.diff(edges)
        levels = np.where(sizes > 0, np.diff(sums[edges]) / np.maximum(sizes, 1), levels)
    return levels.astype(np.float32)
