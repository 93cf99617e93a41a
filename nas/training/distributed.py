"""Data parallelism under ``torchrun``: every process sees its share of the batch and the mean of the gradients."""

from __future__ import annotations

import atexit
import importlib
import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def is_first_process() -> bool:
    """Whether this process speaks for all: the only one, or the first that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


class Processes:
    """The processes of this run; one, without any set-up, unless ``torchrun`` started more."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if self.world_size > 1 and not dist.is_initialized():
            if device.type == "cuda" and "LOCAL_RANK" in os.environ:
                # "cuda" means the current device from here on: one for each process of a machine
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            # Its functions have the default group as a default argument. Imported later (an optimizer's
            # first step does), they would keep the group and its threads beyond _end_group, and a
            # thread that lets go of a tensor while Python ends aborts the process (pytorch#190489).
            importlib.import_module("torch.distributed.nn.functional")

            # Once a process: after a group is destroyed torchrun's store still holds its addresses,
            # and the next group would try to connect to them.
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
            atexit.register(_end_group)

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes.

        A subnet leaves some weights without a gradient, the same ones in every process: all draw
        the same subnets.
        """
        if self.world_size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.world_size
        for gradient, part in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def agree(self, dtype: torch.dtype) -> torch.dtype:
        """The first process's dtype, in every process: each has timed its own device."""
        if self.world_size == 1:
            return dtype
        is_reduced = torch.tensor(float(dtype == torch.bfloat16), device=self.device)
        dist.broadcast(is_reduced, src=0)
        return torch.bfloat16 if bool(is_reduced) else torch.float32

    def wait(self) -> None:
        """Wait for the slowest process."""
        if self.world_size > 1:
            dist.barrier()


def _end_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
