"""LiveStorages: how many bytes operators hold at once, counted operator by operator."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveStorages(TorchDispatchMode):
    """Sum of the storages that operators allocated inside the block and that are still alive, and its maximum."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = self.peak_bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {self._pointer(t) for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
                continue
            pointer = self._pointer(tensor)
            if pointer in before or pointer in self._known or not pointer:
                continue
            storage = tensor.untyped_storage()
            self._known.add(pointer)
            self.live_bytes += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
            weakref.finalize(storage, self._free, pointer, storage.nbytes())
        return result

    @staticmethod
    def _pointer(tensor: Tensor) -> int:
        return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0

    def _free(self, pointer: int, num_bytes: int) -> None:
        self._known.discard(pointer)
        self.live_bytes -= num_bytes
