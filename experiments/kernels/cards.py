"""What a card can issue and read while it decodes: the figures behind the predicted bound, each with its source."""

from __future__ import annotations

from dataclasses import dataclass

# Per multiprocessor and clock, alike on sm_80 to sm_100. Issue slots: four schedulers, a warp of 32 each (tuning guides of Ampere and
# Hopper). Shared memory: 32 banks of 4 bytes (CUDA C programming guide). POPC: 16 results (its table of arithmetic throughput)
# [unverified: none of the three was measured here].
ISSUE_SLOTS, SHARED_BYTES, POPC = 128, 128, 16
VALUE_BYTES = 2
DENSE_SHARE = 0.9  # of the memory's rate that a dense product of few rows reaches


@dataclass(frozen=True)
class Card:
    """A GPU.

    Args:
        name: as it is called here.
        slug: part of the folder name its results are kept under.
        arch: what its kernels are compiled for, ``sm_90``.
        multiprocessors: number of SMs.
        gigahertz: clock under load; boost clocks of data sheets.
        terabytes_per_s: of its memory.
        source: of these figures.
        is_verified: whether they were read on such a card, not from a data sheet.
    """

    name: str
    slug: str
    arch: str
    multiprocessors: int
    gigahertz: float
    terabytes_per_s: float
    source: str
    is_verified: bool = False

    @property
    def label(self) -> str:
        """Name, marked where the figures are unverified."""
        return self.name if self.is_verified else f"{self.name} [unverified]"

    @property
    def weights_per_clock(self) -> float:
        """Dense weights that a multiprocessor must take in per clock while memory delivers ``DENSE_SHARE`` of its rate."""
        weights_per_s = DENSE_SHARE * self.terabytes_per_s * 1e12 / VALUE_BYTES
        return weights_per_s / (self.multiprocessors * self.gigahertz * 1e9)

    @property
    def slots(self) -> float:
        """Thread-instructions that can issue per dense weight in that time."""
        return ISSUE_SLOTS / self.weights_per_clock


CARDS = (
    Card("A100", "nvidia-a100", "sm_80", 108, 1.41, 2.04, "data sheet of the A100 80 GB SXM"),
    Card("H100", "nvidia-h100", "sm_90", 132, 1.755, 3.35, "data sheet of the H100 SXM; clock under load"),
    Card("H200", "nvidia-h200", "sm_90", 132, 1.755, 4.8, "data sheet of the H200 SXM; clock as the H100's"),
    Card("B200", "nvidia-b200", "sm_100", 148, 1.845, 8.0, "announced figures; clock estimated"),
    Card("RTX 4090", "nvidia-geforce-rtx-4090", "sm_89", 128, 2.52, 1.008, "Ada architecture white paper"),
)  # fmt: skip
