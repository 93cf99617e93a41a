"""PackedWeight: a weight matrix in the form it is stored in, and what every format must be able to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from nas.kernels.chunks import row_chunks
from nas.kernels.traced import is_traced
from search_spaces import Sparsity

# Up to this many rows of input a sparse product on the CPU beats building the dense weight (`make bench` measures it).
MAX_SPARSE_ROWS = 4


class PackedWeightError(ValueError):
    """Stored tensors do not form a weight of this format."""


class PackedWeight(nn.Module, ABC):
    """A matrix ``[M, K]`` (out, in features) whose zeros are not stored.

    Subclasses keep their tensors as buffers, so that ``.to()`` and safetensors see them, and are
    built by :meth:`pack`. The values of N:M and column vectors can be trained where they are: give
    ``packed.values.requires_grad_()`` to an optimizer.

    Args:
        sparsity: pattern and level.
        shape: ``(M, K)``.
        tensors: the buffers, by name; checked by :meth:`check`.

    Raises:
        PackedWeightError: if the tensors contradict the shape or the sparsity.
    """

    format: ClassVar[str]
    names: ClassVar[tuple[str, ...]]  # no two formats of one pattern have the same
    kind: tuple[torch.dtype, torch.device]

    def __init__(
        self, sparsity: Sparsity, shape: tuple[int, int], tensors: Mapping[str, Tensor]
    ) -> None:
        self._describe(sparsity, shape)
        sparsity.check_shape(*shape)
        if set(tensors) != set(self.names):
            raise PackedWeightError(
                f"expected the tensors {self.names} for {sparsity}, got {sorted(tensors)}"
            )
        for name in self.names:
            self.register_buffer(name, tensors[name].contiguous())
        self._settle()
        self.check()

    def _describe(self, sparsity: Sparsity, shape: tuple[int, int]) -> None:
        super().__init__()
        self.sparsity = sparsity
        self.text = str(sparsity)  # spelled once: a compiler cannot trace how a level is written
        self.shape = shape
        # Numbers that a kernel would have to ask the device for; never empty, since torch takes an empty list for tensors.
        self.hints: tuple[int, ...] = (0,)
        self.may_copy = True  # whether dispatch may keep a dense copy where that is faster
        # What dispatch chose by number of tokens, with the tables and ``may_copy`` it was chosen under
        self.choices: dict[int, tuple[object, bool, Any]] = {}
        self._copy: Tensor | None = None
        self._copy_stamp: tuple[Any, ...] = ()

    @classmethod
    def described(
        cls, sparsity: Sparsity, shape: tuple[int, int], kind: tuple[torch.dtype, torch.device]
    ) -> Self:
        """A packed weight of this :attr:`kind` without its tensors, for :meth:`holding`."""
        packed = cls.__new__(cls)
        packed._describe(sparsity, shape)
        packed.kind = kind
        packed.may_copy = False  # what holds tensors in its place lives for one call
        return packed

    def holding(self, tensors: Sequence[Tensor], hints: Sequence[int] = (0,)) -> Self:
        """The same with tensors that were checked before, in the order of ``names``; it shares this one's choices.

        Made at every call of the operator, where setting a module up would take longer than a small product.
        """
        packed = type(self).__new__(type(self))
        packed.__dict__.update(self.__dict__)
        packed._buffers = dict(zip(self.names, tensors, strict=True))
        packed.hints = tuple(hints)
        return packed

    @classmethod
    @abstractmethod
    def pack(cls, weight: Tensor, sparsity: Sparsity, mask: Tensor) -> Self:
        """Store the kept entries of a weight.

        Args:
            weight: ``[M, K]``.
            sparsity: pattern and level; says exactly how many entries are kept.
            mask: bool ``[M, K]``, True where kept; must have the pattern.
        """

    @abstractmethod
    def unpack(self) -> Tensor:
        """The dense matrix ``[M, K]``, equal bit by bit to what was packed, zeros elsewhere."""

    @abstractmethod
    def check(self) -> None:
        """Refuse tensors of wrong shape or dtype, and indices out of range or order.

        Raises:
            PackedWeightError: naming the tensor, expected and got.
        """

    def multiply(self, x_NK: Tensor) -> Tensor:
        """``x W^T``: ``[N, K]`` to ``[N, M]``; by default through the dense weight."""
        return nn.functional.linear(x_NK, self.unpack())

    def has_product(self, num_tokens: int) -> bool:
        """Whether :meth:`multiply` does better than the dense weight for so many tokens, where the weight is."""
        return False

    def values_gradient(self, grad_NM: Tensor, x_NK: Tensor) -> Tensor:
        """Gradient of the stored values of ``y = x W^T``, in their shape.

        Raises:
            ValueError: for formats whose values are not trained.
        """
        raise ValueError(
            f"expected N:M or column vectors to train their values, got {self.format}; train the dense weight and pack it again"
        )

    def dense_copy(self) -> Tensor:
        """The dense matrix ``[M, K]``, kept until a stored tensor is replaced or written."""
        stamp = tuple((t.data_ptr(), _version(t)) for t in self.tensors().values())
        if is_traced():  # a copy of no numbers is not to be kept
            return self.unpack()
        if self._copy is None or stamp != self._copy_stamp:
            with torch.inference_mode(False), torch.no_grad():
                self._copy, self._copy_stamp = self.unpack(), stamp
        return self._copy

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Tensors of a state dict are checked as those of a file are, with those that stay, before they replace any."""
        found = {n: state_dict[f"{prefix}{n}"] for n in self.names if f"{prefix}{n}" in state_dict}
        if found:
            device = next(iter(found.values())).device
            stay = {n: t.to(device) for n, t in self.tensors().items() if n not in found}
            loaded = type(self)(self.sparsity, self.shape, found | stay)
            self.hints = loaded.hints
            if (
                not rest[0].get("assign_to_params_buffers", False)
                and self.kind[0] != loaded.kind[0]
            ):
                loaded.to(self.kind[0])  # not by the copy: it would take bits of items for numbers
                tensors = loaded.tensors()
                state_dict = state_dict | {f"{prefix}{name}": tensors[name] for name in found}
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._settle()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._settle()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_copy": None, "choices": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._settle()

    def _settle(self) -> None:
        """What depends on the tensors, after they were replaced."""
        values = self.values_tensor
        # Dtype and device of the stored values: looking a buffer up costs as much as a small product's part
        self.kind = values.dtype, values.device
        self._copy = None
        self.choices = {}

    @property
    def values_tensor(self) -> Tensor:
        """The stored tensor that says the weight's dtype and device."""
        tensor: Tensor = getattr(self, self.names[0])
        return tensor

    @property
    def stored_bytes(self) -> int:
        """Bytes of the stored tensors; equal to ``sparsity.stored_bytes(M, K, value_bytes, format)``."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    @property
    def nonzeros(self) -> int:
        """Stored weights."""
        return self.sparsity.nonzeros(*self.shape)

    def tensors(self) -> dict[str, Tensor]:
        """The stored tensors by name."""
        return {name: getattr(self, name) for name in self.names}

    def extra_repr(self) -> str:
        return f"{self.sparsity}, {self.shape[0]} x {self.shape[1]}, {self.format}"

    def _expect(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None
    ) -> Tensor:
        tensor: Tensor = getattr(self, name)
        if tuple(tensor.shape) != shape:
            raise PackedWeightError(
                f"expected {name} of shape {shape} for {self.sparsity} {self.shape}, got {tuple(tensor.shape)}"
            )
        if dtype is None and not tensor.is_floating_point():
            raise PackedWeightError(f"expected floating-point {name}, got {tensor.dtype}")
        if dtype is not None and tensor.dtype != dtype:
            raise PackedWeightError(f"expected {name} of {dtype}, got {tensor.dtype}")
        return tensor

    def _expect_indices(self, name: str, shape: tuple[int, ...], bound: int) -> Tensor:
        indices = self._expect(name, shape, torch.int32)
        if indices.numel() and not (int(indices.min()) >= 0 and int(indices.max()) < bound):
            raise PackedWeightError(
                f"expected {name} in [0, {bound}), got {int(indices.min())} to {int(indices.max())}; the file is damaged"
            )
        return indices


def kept_values(weight: Tensor, mask: Tensor) -> Tensor:
    """``weight[mask]``, row by row, without an index of the whole matrix."""
    chunks = row_chunks(weight.shape[0], weight.shape[1])
    return torch.cat([weight[chunk][mask[chunk]] for chunk in chunks])


def check_mask(weight: Tensor, sparsity: Sparsity, mask: Tensor) -> None:
    """Refuse a mask of the wrong shape, dtype or count.

    Raises:
        PackedWeightError: naming expected and got.
    """
    if weight.ndim != 2 or not weight.is_floating_point():
        raise PackedWeightError(
            f"expected a floating-point matrix, got {weight.dtype} {tuple(weight.shape)}"
        )
    if mask.shape != weight.shape or mask.dtype != torch.bool:
        raise PackedWeightError(
            f"expected a bool mask of shape {tuple(weight.shape)}, got {mask.dtype} {tuple(mask.shape)}"
        )
    expected = sparsity.nonzeros(weight.shape[0], weight.shape[1])
    kept = int(mask.count_nonzero())  # a sum would first make eight bytes of every bool
    if kept != expected:
        raise PackedWeightError(
            f"expected a mask that keeps {expected} weights for {sparsity}, got {kept}; make it with magnitude_mask"
        )


def _version(tensor: Tensor) -> int:
    """How often a tensor was written in place; inference tensors do not count."""
    return -1 if tensor.is_inference() else tensor._version
