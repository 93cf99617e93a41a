"""Supernets with random weights in every place, so that a part that is forgotten or misplaced changes the logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from nas.model import Supernet
from search_spaces import SearchSpace


def random_supernet(
    space: SearchSpace, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Supernet:
    """A supernet whose biases, norms and adapters are random too (a fresh one has zeros and ones there)."""
    supernet = Supernet(space, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
            if name.endswith("norm.weight"):
                parameter.add_(1.0)
    return supernet.to(dtype)


def arrays(supernet: Supernet) -> dict[str, npt.NDArray[np.float64]]:
    """The parameters by name, in float64."""
    return {n: p.detach().double().numpy().copy() for n, p in supernet.named_parameters()}


def random_tokens(space: SearchSpace, batch: int, length: int, seed: int = 0) -> torch.Tensor:
    """Token ids ``[B, T]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(space.family.vocab_size, (batch, length), generator=generator)
