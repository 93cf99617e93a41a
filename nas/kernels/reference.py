"""Reference: the slow truth every kernel is judged by, in float64 from the unpacked weight."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.kernels.epilogue import Epilogue
from nas.kernels.formats import PackedWeight


def reference_linear(
    packed: PackedWeight, x_NK: Tensor, epilogue: Epilogue | None = None
) -> Tensor:
    """``[N, M]`` in float64: the dense product with the zeros in place, then the epilogue.

    Args:
        packed: ``[M, K]``.
        x_NK: any dtype.
        epilogue: what follows the product; nothing by default.
    """
    epilogue = Epilogue() if epilogue is None else epilogue

    def exact(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.double()

    adapter = epilogue.adapter
    x = x_NK.double()
    y = torch.einsum("mk,nk->nm", packed.unpack().double(), x)
    whole = Epilogue(
        exact(epilogue.bias),
        epilogue.activation,
        None if adapter is None else (adapter[0].double(), adapter[1].double()),
        epilogue.adapter_first,
        exact(epilogue.gate),
    )
    return whole(y, x)
