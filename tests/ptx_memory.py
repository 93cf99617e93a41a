"""Memory of an emulated block of threads: global buffers with bounds, and shared memory that notices races.

Threads run in lockstep, so a program that forgot a barrier would still get its values right here. Shared memory therefore remembers who
touched each byte since the last barrier, and refuses what another order of the threads could have changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_GAP = 1 << 20  # between buffers: no offset of a small test leads from one into another
_NOBODY, _MANY = -1, -2
STATIC_SHARED_BYTES = 48 * 1024  # of a kernel that does not ask for more (CUDA C programming guide)


class MemoryAccessError(Exception):
    """An access out of bounds, misaligned, before anything was written, or in a race."""


@dataclass(frozen=True)
class SharedAccess:
    """One shared-memory instruction: byte addresses of the threads that take part."""

    opcode: str
    threads: Array
    addresses: Array
    width: int


class GlobalMemory:
    """Byte buffers at made-up addresses; a buffer is the array's own memory."""

    def __init__(self) -> None:
        self._buffers: list[tuple[int, Array]] = []
        self._next = _GAP

    def place(self, array: Array) -> int:
        """Address of a contiguous array, a multiple of 256 as CUDA's allocations are."""
        assert array.flags.c_contiguous
        octets = array.reshape(-1).view(np.uint8)
        address, self._next = self._next, self._next + (octets.size // _GAP + 2) * _GAP
        self._buffers.append((address, octets))
        return address

    def read(self, addresses: Array, width: int) -> Array:
        """Bytes ``[threads, width]`` at the addresses."""
        found = np.zeros((addresses.size, width), np.uint8)
        for octets, which, places in self._split(addresses, width):
            found[which] = octets[places]
        return found

    def write(self, addresses: Array, values: Array) -> None:
        """Store bytes ``[threads, width]``; two threads must not store in one place."""
        if np.unique(addresses).size != addresses.size:
            raise MemoryAccessError("expected every thread to store elsewhere, got one place twice")
        for octets, which, places in self._split(addresses, values.shape[1]):
            octets[places] = values[which]

    def _split(self, addresses: Array, width: int) -> list[tuple[Array, Array, Array]]:
        addresses = addresses.astype(np.int64)
        if (addresses % width).any():
            raise MemoryAccessError(f"expected addresses aligned to {width} bytes")
        found = []
        inside = np.zeros(addresses.size, np.bool_)
        for start, octets in self._buffers:
            mine = (addresses >= start) & (addresses + width <= start + octets.size)
            if mine.any():
                inside |= mine
                places = (addresses[mine] - start)[:, None] + np.arange(width)
                found.append((octets, np.flatnonzero(mine), places))
        if not inside.all():
            raise MemoryAccessError(
                f"expected global addresses inside a buffer, got {(~inside).sum()} of {inside.size} outside"
            )
        return found


@dataclass
class SharedMemory:
    """Shared memory of a block.

    Args:
        record: keep every access in ``accesses``.
    """

    record: bool = False
    accesses: list[SharedAccess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._end = 256  # not 0: an address is no offset
        self._octets = np.zeros(STATIC_SHARED_BYTES, np.uint8)
        self._written = np.zeros(STATIC_SHARED_BYTES, np.bool_)
        self._writer = np.full(STATIC_SHARED_BYTES, _NOBODY)
        self._reader = np.full(STATIC_SHARED_BYTES, _NOBODY)
        self._reading_warp = np.full(STATIC_SHARED_BYTES, _NOBODY)
        self._unordered = np.zeros(STATIC_SHARED_BYTES, np.bool_)

    def declare(self, size: int, alignment: int) -> int:
        """Address of a new array."""
        start = -(-self._end // alignment) * alignment
        self._end = start + size
        if self._end > STATIC_SHARED_BYTES:
            raise MemoryAccessError(
                f"expected at most {STATIC_SHARED_BYTES} bytes, got {self._end}"
            )
        return start

    def allow_unordered_stores(self, address: int, width: int) -> None:
        """Bytes that any thread may store at any time; reading them in the same interval stays an error."""
        self._unordered[address : address + width] = True

    def barrier(self) -> None:
        """Order everything before against everything after."""
        self._writer[:] = _NOBODY
        self._reader[:] = _NOBODY
        self._reading_warp[:] = _NOBODY

    def store(self, opcode: str, threads: Array, addresses: Array, values: Array) -> None:
        """Store bytes ``[threads, width]``."""
        places = self._places(opcode, threads, addresses, values.shape[1])
        who = np.broadcast_to(threads[:, None], places.shape)
        ordered = ~self._unordered[places]
        self._refuse(ordered & _is_other(self._writer[places], who), "store after a store")
        self._refuse(ordered & _is_other(self._reader[places], who), "store after a load")
        warps = self._reading_warp[places]
        self._refuse(ordered & _is_other(warps, who // 32), "store after a load")
        self._octets[places] = values
        self._written[places] = True
        self._writer[places] = who
        twice = self._writer[places] != who
        self._refuse(ordered & twice, "store beside a store")
        self._writer[places[twice]] = _MANY

    def load(self, opcode: str, threads: Array, addresses: Array, width: int) -> Array:
        """Bytes ``[threads, width]``."""
        places = self._places(opcode, threads, addresses, width)
        who = np.broadcast_to(threads[:, None], places.shape)
        self._check_load(places, who)
        _touch(self._reader, places, who)
        return self._octets[places]

    def load_rows(self, opcode: str, threads: Array, addresses: Array, readers: Array) -> Array:
        """Rows of 16 bytes that ``threads`` address and ``readers [threads, 16]`` receive.

        A warp loads them as one: what its threads store later comes later, without a barrier.
        """
        places = self._places(opcode, threads, addresses, 16)
        self._check_load(places, readers)
        _touch(self._reading_warp, places, readers // 32)
        return self._octets[places]

    def _check_load(self, places: Array, who: Array) -> None:
        if not self._written[places].all():
            raise MemoryAccessError("expected to load what was stored, got untouched shared bytes")
        self._refuse(_is_other(self._writer[places], who), "load after a store")

    def _places(self, opcode: str, threads: Array, addresses: Array, width: int) -> Array:
        addresses = addresses.astype(np.int64)
        if (addresses % width).any():
            raise MemoryAccessError(f"expected shared addresses aligned to {width} bytes")
        if addresses.size and (addresses.min() < 256 or addresses.max() + width > self._end):
            raise MemoryAccessError("expected addresses inside the shared arrays")
        if self.record:
            self.accesses.append(SharedAccess(opcode, threads, addresses, width))
        return addresses[:, None] + np.arange(width)

    @staticmethod
    def _refuse(racing: Array, what: str) -> None:
        if racing.any():
            raise MemoryAccessError(
                f"race: {what} of another thread without a barrier in between, {racing.sum()} bytes"
            )


def _touch(touched_by: Array, places: Array, who: Array) -> None:
    before = touched_by[places]
    touched_by[places] = np.where(_is_other(before, who), _MANY, who)
    touched_by[places[touched_by[places] != who]] = _MANY


def _is_other(touched_by: Array, who: Array) -> Array:
    return (touched_by != _NOBODY) & (touched_by != who)


def bank_ways(access: SharedAccess) -> list[int]:
    """Turns that each group of threads needs: the most different words of one bank.

    Shared memory has 32 banks of 4 bytes; threads that meet in one word do not wait. A warp goes at once where a thread takes 4 bytes or
    fewer, in quarters where it takes 16.
    """
    group = 32 * 4 // max(4, access.width)
    ways = []
    for first in np.unique(access.threads // group):
        mine = access.addresses[access.threads // group == first]
        words = np.unique(mine[:, None] // 4 + np.arange(max(1, access.width // 4)))
        ways.append(int(np.bincount(words % 32).max()))
    return ways
