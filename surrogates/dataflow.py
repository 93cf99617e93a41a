"""Three ways to execute a graph of kernels on a device: one by one, fused, and as a spatial pipeline (2304.05511, 2405.07518).

==================  ==================================================================================================
mode                seconds
==================  ==================================================================================================
``kernel-by-kernel``  sum over kernels of ``launches t + max(compute, bytes / (v B))``; every tensor goes through memory
``fused``           sum over groups of ``t + sum over kernels of max(compute, external bytes / (v B))``: the kernels of a group take
                    turns on the whole chip, and only tensors that leave or enter the group go through memory
``pipelined``       sum over groups of ``t + max((M + n - 1) max t_i, external bytes / (v B))``: the n kernels of a group work side by
                    side on shares of the units, M tiles of tokens stream through them
==================  ==================================================================================================

with ``compute = FLOPs / (u P)``, t the launch cost, P the peak, B the bandwidth, u and v the achievable fractions. A group is valid
while its resident weights and two buffers a tensor fit the memory on chip. Weights are resident where several matrices see more than
one tile; a single matrix streams past its tokens, as in an ordinary kernel with a fused prologue and epilogue. Groups are contiguous
and greedy: validity is inherited by parts of a group, so no split has fewer groups. All this is a model, not a measurement: it
overlaps perfectly, moves each byte once, and leaves out communication between sockets.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from search_spaces import Architecture, Family, Workload
from search_spaces.costs import WeightGradient
from surrogates.devices import DeviceSpec, device
from surrogates.kernel_graph import Kernel, Tensor, kernel_graph
from surrogates.roofline import compute_s

Mode = Literal["kernel-by-kernel", "fused", "pipelined"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class Efficiency:
    """What a program reaches of a device's figures.

    Args:
        compute: u, of the peak. 0.79 is torch.mm's 780 of 989.4 TFLOP/s on an H100, max-autotuned (gist.github.com/Chillee,
            "H100 peak matmul FLOPS"); assumed for the other devices.
        memory: v, of the bandwidth. 0.85 is the SN40L's with fusion (2405.07518, sec. VI) and cuBLAS's on an A100 with 8 tokens
            (13.8 TFLOP/s in the figure of Flash-LLM's README, 2309.10285: 84 %).
        issue: of a GPU's instruction slots; as in ``experiments/kernels/prediction.py``.
        gather: factor on the compute time of unstructured products where no instructions are counted, 1 or more. Assumed 1: the
            abstract of 2304.05511 claims efficient irregular access on chip and gives no figure.
        tile_rows: tokens of a tile; 64, as the project's kernels hold.

    Raises:
        ValueError: if a fraction is not in (0, 1], the factor below 1 or the tile empty.
    """

    compute: float = 0.79
    memory: float = 0.85
    issue: float = 0.75
    gather: float = 1.0
    tile_rows: int = 64

    def __post_init__(self) -> None:
        for name in ("compute", "memory", "issue"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"expected {name} in (0, 1], got {getattr(self, name)!r}")
        if not self.gather >= 1.0 or not self.tile_rows >= 1:
            raise ValueError(
                f"expected gather and tile_rows of 1 or more, got {self.gather!r} and {self.tile_rows!r}"
            )


@dataclass(frozen=True)
class Group:
    """Kernels that one launch executes.

    Args:
        kernels: their names, in order.
        seconds: launch included.
        compute_s: seconds of arithmetic; in a pipeline with its filling, draining and imbalance.
        memory_s: seconds of traffic with memory.
        moved_bytes: of that traffic.
        on_chip_bytes: resident weights and buffers; 0 for a kernel alone, which needs neither.
    """

    kernels: tuple[str, ...]
    seconds: float
    compute_s: float
    memory_s: float
    moved_bytes: int
    on_chip_bytes: int


@dataclass(frozen=True)
class Execution:
    """A whole pass as a device would execute it.

    Args:
        mode: how.
        groups: in order; their seconds add up.
    """

    mode: Mode
    groups: tuple[Group, ...]

    @property
    def seconds(self) -> float:
        """Of the whole pass."""
        return sum(group.seconds for group in self.groups)

    @property
    def moved_bytes(self) -> int:
        """Between chip and memory."""
        return sum(group.moved_bytes for group in self.groups)


def execution(
    architecture: Architecture,
    family: Family,
    workload: Workload,
    spec: DeviceSpec | str,
    mode: Mode,
    dtype: str = "bfloat16",
    weight_gradient: WeightGradient = "sparse",
    efficiency: Efficiency = Efficiency(),
    *,
    causal: bool = True,
) -> Execution:
    """Predicted time of a forward pass or a training step, group by group.

    Args:
        architecture: the subnet.
        family: what its search space holds fixed.
        workload: decode, prefill or training.
        spec: a device or its name.
        mode: ``kernel-by-kernel``, ``fused`` or ``pipelined``.
        dtype: of weights, activations and gradients.
        weight_gradient: of sparse weights in training: ``sparse`` or ``dense``.
        efficiency: what is reached of the device's figures.
        causal: whether the scores that a causal mask removes are neither computed nor stored.

    Raises:
        ValueError: if the device or the mode is unknown, the device has no peak for the dtype, or it has no known memory on chip or
            units where the mode needs them.
    """
    graph = kernel_graph(architecture, family, workload, dtype, weight_gradient, causal=causal)
    return execute(graph, workload.num_tokens, spec, mode, dtype, efficiency)


def execute(
    graph: Sequence[Kernel],
    rows: int,
    spec: DeviceSpec | str,
    mode: Mode,
    dtype: str = "bfloat16",
    efficiency: Efficiency = Efficiency(),
) -> Execution:
    """:func:`execution` of a graph that is there already, through which ``rows`` tokens pass."""
    if mode not in MODES:
        raise ValueError(f"expected a mode in {MODES}, got {mode!r}")
    spec = device(spec) if isinstance(spec, str) else spec
    model = GroupModel(graph, rows, spec, dtype, efficiency)
    spans = (
        [(i, i + 1) for i in range(len(graph))]
        if mode == "kernel-by-kernel"
        else greedy_spans(model, mode)
    )
    return Execution(mode, tuple(model.group(start, stop, mode) for start, stop in spans))


def greedy_spans(model: GroupModel, mode: Mode) -> list[tuple[int, int]]:
    """Contiguous groups, each as long as it is valid."""
    spans, start = [], 0
    for stop in range(1, len(model.graph) + 1):
        if stop == len(model.graph) or not model.is_valid(start, stop + 1, mode):
            spans.append((start, stop))
            start = stop
    return spans


class GroupModel:
    """Validity and time of any contiguous group ``graph[start:stop]`` on a device.

    Args:
        graph: kernels in order.
        rows: tokens that pass through it.
        spec: the device.
        dtype: whose peak counts.
        efficiency: what is reached of the figures.
    """

    def __init__(
        self,
        graph: Sequence[Kernel],
        rows: int,
        spec: DeviceSpec,
        dtype: str,
        efficiency: Efficiency,
    ) -> None:
        self.graph = tuple(graph)
        self.spec = spec
        self.efficiency = efficiency
        self.tiles = -(-rows // efficiency.tile_rows)
        self._rate = efficiency.memory * spec.bandwidth_bytes_s
        peak = efficiency.compute * spec.peak(dtype)
        self._compute_s = [self._kernel_s(kernel, peak) for kernel in self.graph]
        self._last_use = {t.name: i for i, k in enumerate(self.graph) for t in k.inputs}

    def _kernel_s(self, kernel: Kernel, peak: float) -> float:
        seconds = compute_s(kernel.op, self.spec, peak, self.efficiency.issue)
        is_gathered = kernel.op.kind == "unstructured" and self.spec.instructions_s is None
        return seconds * (self.efficiency.gather if is_gathered else 1.0)

    def is_valid(self, start: int, stop: int, mode: Mode) -> bool:
        """Whether the device can hold the group.

        Raises:
            ValueError: if the device's memory on chip, or the number of its units in a pipeline, is not known.
        """
        for name, needed in (("on_chip_bytes", True), ("num_units", mode == "pipelined")):
            if needed and getattr(self.spec, name) is None:
                raise ValueError(
                    f"expected a device with known {name} for {mode} execution, got {self.spec.name!r} without"
                )
        assert self.spec.on_chip_bytes is not None
        if stop - start == 1:
            return True
        part = self.graph[start:stop]
        if any(kernel.op.kind == "optimizer" for kernel in part):
            return False
        if mode == "pipelined" and stop - start > (self.spec.num_units or 0):
            return False
        return self.on_chip_bytes(start, stop) <= self.spec.on_chip_bytes

    def on_chip_bytes(self, start: int, stop: int) -> int:
        """Resident weights and two buffers of every tensor that the group touches."""
        part = self.graph[start:stop]
        made = {t.name for k in part for t in k.outputs}
        touched = {t.name: t for k in part for t in (*k.inputs, *k.outputs)}
        buffers = sum(
            t.buffer_bytes(self.efficiency.tile_rows, name in made) for name, t in touched.items()
        )
        is_streamed = self.tiles == 1 or sum(kernel.is_matrix for kernel in part) <= 1
        return buffers + (0 if is_streamed else sum(kernel.op.weight_bytes for kernel in part))

    def traffic(self, start: int, stop: int) -> list[int]:
        """Bytes between chip and memory of each kernel: weights, what enters the group for the first time, what leaves it."""
        made: set[str] = set()
        read: set[str] = set()
        found = []
        for kernel in self.graph[start:stop]:
            moved = kernel.op.weight_bytes
            for tensor in kernel.inputs:
                if tensor.name not in made and tensor.name not in read:
                    moved += tensor.num_bytes
                    read.add(tensor.name)
            for tensor in kernel.outputs:
                made.add(tensor.name)
                moved += tensor.num_bytes if self._leaves(tensor, stop) else 0
            found.append(moved)
        return found

    def _leaves(self, tensor: Tensor, stop: int) -> bool:
        return self._last_use.get(tensor.name, stop) >= stop  # what nobody reads is a result

    def group(self, start: int, stop: int, mode: Mode) -> Group:
        """The group with its time."""
        part = self.graph[start:stop]
        traffic = self.traffic(start, stop)
        compute, moved = self._compute_s[start:stop], sum(traffic)
        launches = sum(k.op.launches for k in part) if mode == "kernel-by-kernel" else 1
        names = tuple(kernel.name for kernel in part)
        memory_s = moved / self._rate
        arithmetic_s = sum(compute)
        if mode == "pipelined":
            arithmetic_s = self.pipeline_s(compute)
            busy = max(arithmetic_s, memory_s)
        else:
            busy = sum(max(c, t / self._rate) for c, t in zip(compute, traffic, strict=True))
        on_chip = 0 if len(part) == 1 else self.on_chip_bytes(start, stop)
        seconds = self.spec.op_overhead_s * launches + busy
        return Group(names, seconds, arithmetic_s, memory_s, moved, on_chip)

    def pipeline_s(self, compute: Sequence[float]) -> float:
        """Seconds in which all tiles pass n stages, given each stage's seconds on all units: ``(M + n - 1) max t_i``."""
        if len(compute) == 1:
            return compute[0]
        assert self.spec.num_units is not None
        units = allocate(compute, self.spec.num_units)
        slowest = max(c * self.spec.num_units / u for c, u in zip(compute, units, strict=True))
        return (self.tiles + len(compute) - 1) * slowest / self.tiles


def allocate(work: Sequence[float], units: int) -> list[int]:
    """Units for each stage, one or more, so that the busiest stage has as little to do per unit as can be.

    Args:
        work: of each stage, 0 or more.
        units: at least as many as stages.

    Raises:
        ValueError: if there are fewer units than stages.
    """
    if units < len(work):
        raise ValueError(f"expected a unit for each of {len(work)} stages, got {units}")
    found = [1] * len(work)
    busiest = [(-w, i) for i, w in enumerate(work)]
    heapq.heapify(busiest)
    for _ in range(
        units - len(work)
    ):  # each to the stage that is busiest by now: proportional, and no split has a lower maximum
        _, i = busiest[0]
        found[i] += 1
        heapq.heapreplace(busiest, (-work[i] / found[i], i))
    return found
