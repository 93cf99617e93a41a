"""What a sparse product has to beat: every dense path of the machine, and torch's own sparse products."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.kernels.door import describe
from experiments.kernels.shapes import Kind
from nas.deploy.turns import Call

_TRITON_BSR_ROWS = 16  # torch's Triton product takes whole multiples of this


class Dense:
    """The dense products with one weight: PyTorch's and, on the CPU, those with weights packed for MKL and oneDNN.

    On the CPU float32 and bfloat16 are both baselines, whatever the dtype of the sparse weight: who wants speed would take the
    faster.

    Args:
        weight: ``[M, K]``.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self._kept: dict[str, Tensor] = {}

    def calls(self, x: Tensor) -> dict[str, Call]:
        """The paths for an input ``[N, K]``, by name."""
        return self._cpu(x) if x.device.type == "cpu" else self._cuda(x)

    def _cuda(self, x: Tensor) -> dict[str, Call]:
        # cuBLAS chooses its kernel by layout: all three are asked, and the fastest is the baseline
        transposed = self._keep("W^T", lambda: self.weight.T.contiguous())
        name = _dtype_name(self.weight)
        return {
            f"dense {name} linear": partial(F.linear, x, self.weight),
            f"dense {name} mm x W^T": partial(torch.mm, x, transposed),
            f"dense {name} mm W x^T": partial(torch.mm, self.weight, x.T.contiguous()),
        }

    def _cpu(self, x: Tensor) -> dict[str, Call]:
        calls: dict[str, Call] = {}
        rows = x.shape[0]
        for dtype in (torch.float32, torch.bfloat16):
            weight = self._keep(str(dtype), partial(self.weight.to, dtype))
            name, xd = _dtype_name(weight), x.to(dtype)
            calls[f"dense {name} linear"] = partial(F.linear, xd, weight)
            if dtype == torch.float32 and torch.backends.mkl.is_available():
                packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
                calls["dense float32 MKL packed"] = partial(
                    torch.ops.mkl._mkl_linear, xd, packed, weight, None, rows
                )
            if dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
                packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
                calls["dense bfloat16 oneDNN packed"] = partial(
                    torch.ops.mkldnn._linear_pointwise, xd, packed, None, "none", [], ""
                )
        return calls

    def _keep(self, name: str, make: Any) -> Tensor:
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]


def library_calls(weight: Tensor, kind: Kind, x: Tensor) -> tuple[dict[str, Call], dict[str, str]]:
    """Torch's own sparse products with a pruned weight, those that exist for its pattern.

    Args:
        weight: ``[M, K]``, dense, its zeros in the kind's pattern.
        kind: of the weight.
        x: ``[N, K]``.

    Returns:
        Calls that give ``[N, M]``, by name; and, by name, why one cannot be made.
    """
    makers: dict[str, Any] = {}
    size = kind.sparsity.size
    on_cpu = x.device.type == "cpu"
    if kind.pattern == "2:4":
        makers["torch 2:4 CUTLASS"] = partial(_semi_structured, "CUTLASS", weight, x)
        makers["torch 2:4 cuSPARSELt"] = partial(_semi_structured, "CUSPARSELT", weight, x)
    if kind.sparsity.pattern == "block":
        makers["torch BSR"] = partial(_matrix, lambda: weight.to_sparse_bsr((size, size)), x)
        if not on_cpu:
            makers["torch BSR Triton"] = partial(_triton_bsr, weight, size, x)
    if kind.sparsity.pattern == "unstructured" and on_cpu:
        makers["torch CSR MKL"] = partial(_matrix, weight.to_sparse_csr, x)
    calls: dict[str, Call] = {}
    unavailable: dict[str, str] = {}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "beta state", of every sparse layout
        for name, make in makers.items():
            try:
                call = make()
                call()
            except Exception as error:  # whatever it is, the reader is told
                unavailable[name] = describe(error)
            else:
                calls[name] = call
    return calls, unavailable


def _matrix(make: Any, x: Tensor) -> Call:
    matrix, columns = make(), x.T.contiguous()
    return lambda: (matrix @ columns).T


def _semi_structured(backend: str, weight: Tensor, x: Tensor) -> Call:
    module = torch.sparse.semi_structured
    compressed = getattr(module, f"SparseSemiStructuredTensor{backend}").from_dense(weight)
    return partial(F.linear, x, compressed)


def _triton_bsr(weight: Tensor, size: int, x: Tensor) -> Call:
    from torch.sparse._triton_ops import bsr_dense_addmm

    matrix = weight.to_sparse_bsr((size, size))
    rows = x.shape[0]
    padded = F.pad(x, (0, 0, 0, -rows % _TRITON_BSR_ROWS)).T.contiguous()
    zeros = padded.new_zeros(weight.shape[0], padded.shape[1])
    return lambda: bsr_dense_addmm(zeros, matrix, padded, beta=0)[:, :rows].T


def _dtype_name(weight: Tensor) -> str:
    return str(weight.dtype).removeprefix("torch.")
