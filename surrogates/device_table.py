"""The table of devices: the 13 of HW-GPT-Bench (2405.10299, in its spelling), and A100-80, H200, B200, RTX 4090, SN40L, ``cpu``.

Every figure has the public document it was taken from. HW-GPT-Bench names neither the variants of its cards nor its Xeons: which
one was taken is said where it is assumed. GPU peaks are of tensor cores with FP32 accumulation where the card has them for the
dtype; a dtype that a card has no units for is absent.
"""

from __future__ import annotations

from collections.abc import Mapping

from surrogates.device_spec import DeviceSpec

_KIB, _MIB, _GB = 2**10, 2**20, 10**9
_LANES = 128  # thread-instructions that a multiprocessor issues per clock: four schedulers, a warp of 32 each
_LAUNCH = "assumed: 5 us for one operator launched from Python without CUDA graphs"
_SHARED = "CUDA C++ programming guide, technical specifications per compute capability: shared memory, times the multiprocessors"
_HW_GPT = "HW-GPT-Bench does not name the variant"


def _gpu(
    name: str,
    source: str,
    *,
    peak: Mapping[str, float],
    bandwidth: float,
    cache: int,
    power: float,
    memory: int,
    units: int,
    shared_kib: int,
    gigahertz: float | None = None,
    cache_bandwidth: float | None = None,
    **other: str,
) -> DeviceSpec:
    """A GPU whose figures have one source, but those named in ``other``; bytes, watts, KiB a multiprocessor."""
    figures = {
        "cache_bytes": cache,
        "cache_bandwidth_bytes_s": cache_bandwidth,
        "power_w": power,
        "memory_bytes": memory,
        "num_units": units,
        "on_chip_bytes": units * shared_kib * _KIB,
        "instructions_s": None if gigahertz is None else units * _LANES * gigahertz * 1e9,
    }
    known = ["peak_flops", "bandwidth_bytes_s", *(n for n, v in figures.items() if v is not None)]
    sources = dict.fromkeys(known, source) | {"op_overhead_s": _LAUNCH}
    sources["on_chip_bytes"] = _SHARED
    if gigahertz is not None:
        sources["instructions_s"] = (
            f"{units} multiprocessors x {_LANES} lanes (CUDA tuning guides) x {gigahertz} GHz"
        )
    return DeviceSpec(name, peak, bandwidth, 5e-6, **figures, source=sources | other)  # type: ignore[arg-type]


def _halves(float32: float, tensor: float, tfloat32: float | None = None) -> dict[str, float]:
    found = {"float32": float32} if tfloat32 is None else {"float32": float32, "tfloat32": tfloat32}
    return {**found, "bfloat16": tensor, "float16": tensor}


def _a100(name: str, bandwidth: float, gigabytes: int, variant: str) -> DeviceSpec:
    source = f"NVIDIA A100 datasheet ({variant})"
    return _gpu(
        name, source, peak=_halves(19.5e12, 312e12, 156e12), bandwidth=bandwidth, cache=40 * _MIB, power=400,
        memory=gigabytes * _GB, units=108, shared_kib=164, gigahertz=1.41, cache_bandwidth=5120 * 1.41e9,
        cache_bytes="NVIDIA A100 architecture whitepaper (L2)",
        cache_bandwidth_bytes_s="NVIDIA A100 architecture whitepaper: 5120 bytes per clock from L2, times 1.41 GHz boost",
        num_units="NVIDIA A100 architecture whitepaper",
    )  # fmt: skip


_H100 = "NVIDIA H100 datasheet (SXM), halved where it is given with sparsity"
_H200 = "NVIDIA H200 datasheet (SXM), halved where it is given with sparsity"
_HOPPER = "NVIDIA H100 architecture whitepaper (SXM5)"
_HOPPER_PEAK = _halves(67e12, 989.4e12, 494.7e12)
# 1.755 GHz: what the SXM boards run at under load, as in the kernels' own table of cards.
_HOPPER_CLOCK = (
    "132 multiprocessors x 128 lanes (CUDA tuning guides) x 1.755 GHz (assumed: boost under load)"
)
_TURING = (
    f"NVIDIA Turing architecture whitepaper, RTX 2080 Ti (reference clocks); assumed: {_HW_GPT}, its 'rtx2080' is taken "
    "for the 2080 Ti"
)
_GA102 = "NVIDIA Ampere GA102 architecture whitepaper v2.0"
_VOLTA = "NVIDIA V100 datasheet (SXM2)"
_PASCAL = "NVIDIA P100 datasheet (SXM2)"
_ADA = "NVIDIA Ada GPU architecture whitepaper, appendix A (RTX 4090; tensor figures with FP32 accumulate)"
_B200 = "NVIDIA Blackwell architecture technical brief (HGX B200 at 1000 W, dense), as quoted by glennklockwood.com/garden/processors/B200"

_GPUS = (
    _a100("a100", 1555e9, 40, f"40 GB SXM; assumed: {_HW_GPT}"),
    _gpu(
        "a40", "NVIDIA A40 datasheet", peak=_halves(37.4e12, 149.7e12, 74.8e12), bandwidth=696e9, cache=6 * _MIB,
        power=300, memory=48 * _GB, units=84, shared_kib=100, gigahertz=1.74, cache_bytes=_GA102, num_units=_GA102,
    ),
    _gpu(
        "h100", f"{_H100}; assumed: {_HW_GPT}", peak=_HOPPER_PEAK, bandwidth=3.35e12, cache=50 * _MIB, power=700,
        memory=80 * _GB, units=132, shared_kib=228, gigahertz=1.755,
        cache_bytes=_HOPPER, num_units=_HOPPER, instructions_s=_HOPPER_CLOCK,
    ),
    _gpu(  # Turing has no units for bfloat16 and TF32, Volta and Pascal neither
        "rtx2080", _TURING, peak={"float32": 13.4e12, "float16": 53.8e12}, bandwidth=616e9, cache=5632 * _KIB,
        power=250, memory=11 * _GB, units=68, shared_kib=64,
    ),
    _gpu(
        "rtx3080", f"{_GA102} (10 GB; assumed: {_HW_GPT})", peak=_halves(29.8e12, 59.5e12, 29.8e12), bandwidth=760e9,
        cache=5 * _MIB, power=320, memory=10 * _GB, units=68, shared_kib=100, gigahertz=1.71,
    ),
    _gpu(
        "a6000", "NVIDIA RTX A6000 datasheet, halved where it is given with sparsity",
        peak=_halves(38.7e12, 154.8e12, 77.4e12), bandwidth=768e9, cache=6 * _MIB, power=300, memory=48 * _GB,
        units=84, shared_kib=100, gigahertz=1.8, cache_bytes=_GA102, num_units=_GA102,
    ),
    _gpu(
        "v100", f"{_VOLTA}; assumed: {_HW_GPT}", peak={"float32": 15.7e12, "float16": 125e12}, bandwidth=900e9,
        cache=6 * _MIB, power=300, memory=32 * _GB, units=80, shared_kib=96,
        cache_bytes="NVIDIA V100 architecture whitepaper", num_units="NVIDIA V100 architecture whitepaper",
    ),
    _gpu(
        "P100", f"{_PASCAL}; assumed: {_HW_GPT}", peak={"float32": 10.6e12, "float16": 21.2e12}, bandwidth=732e9,
        cache=4 * _MIB, power=300, memory=16 * _GB, units=56, shared_kib=64,
        cache_bytes="NVIDIA P100 architecture whitepaper", num_units="NVIDIA P100 architecture whitepaper",
    ),
    _a100("a100-80", 2039e9, 80, "80 GB SXM"),
    _gpu(
        "h200", _H200, peak=_HOPPER_PEAK, bandwidth=4.8e12, cache=50 * _MIB, power=700, memory=141 * _GB, units=132,
        shared_kib=228, gigahertz=1.755, cache_bytes=f"{_HOPPER}: the same chip", num_units=f"{_HOPPER}: the same chip",
        instructions_s=_HOPPER_CLOCK,
    ),
    _gpu(
        "b200", _B200, peak=_halves(80e12, 2250e12, 1100e12), bandwidth=8e12, cache=126 * _MIB, power=1000,
        memory=192 * _GB, units=148, shared_kib=228, gigahertz=1.845,
        cache_bytes="chipsandcheese.com, 'Nvidia's B200: keeping the CUDA juggernaut rolling' (L2)",
        num_units="chipsandcheese.com, 'Nvidia's B200: keeping the CUDA juggernaut rolling'",
        instructions_s="148 multiprocessors x 128 lanes x 1.845 GHz (assumed: announced figures, clock estimated)",
    ),
    _gpu(
        "rtx4090", _ADA, peak=_halves(82.6e12, 165.2e12, 82.6e12), bandwidth=1008e9, cache=73728 * _KIB, power=450,
        memory=24 * _GB, units=128, shared_kib=100, gigahertz=2.52,
    ),
)  # fmt: skip

_HOT_CHIPS = "R. Prabhakar, 'SambaNova SN40L RDU', Hot Chips 2024 slides"
_SN40L = DeviceSpec(
    name="sn40l",
    peak_flops={"bfloat16": 638e12},
    bandwidth_bytes_s=1.6e12,
    op_overhead_s=5e-6,
    memory_bytes=64 * _GB,
    num_units=1040,
    on_chip_bytes=520 * 10**6,
    source={
        "peak_flops": f"{_HOT_CHIPS} (one socket)",
        "bandwidth_bytes_s": f"{_HOT_CHIPS}: 25.6 TB/s of HBM for 16 sockets",
        "op_overhead_s": "assumed: as a GPU's; the SN40L paper (2405.07518) gives only ratios",
        "memory_bytes": f"{_HOT_CHIPS} (HBM; its DDR is left out)",
        "num_units": f"{_HOT_CHIPS} (PCUs)",
        "on_chip_bytes": f"{_HOT_CHIPS}: 520 MB in 1040 PMUs",
    },
)


def _cpu(
    name: str,
    *,
    flops: tuple[float, str],
    bandwidth: tuple[float, str],
    cache: tuple[int, str],
    units: tuple[int, str],
    power: tuple[float, str] | None = None,
    cache_bandwidth: tuple[float, str] | None = None,
) -> DeviceSpec:
    """A CPU; each figure with its source. Halves are computed as float32."""
    figures = {
        "bandwidth_bytes_s": bandwidth,
        "op_overhead_s": (4e-6, "assumed: one operator dispatched by eager PyTorch"),
        "cache_bytes": cache,
        "cache_bandwidth_bytes_s": cache_bandwidth,
        "power_w": power,
        "num_units": units,
        "on_chip_bytes": (cache[0], f"the last-level cache: {cache[1]}"),
    }
    given = {name: pair for name, pair in figures.items() if pair is not None}
    peak = dict.fromkeys(("float32", "bfloat16", "float16"), flops[0])
    sources = {"peak_flops": flops[1]} | {name: source for name, (_, source) in given.items()}
    return DeviceSpec(name, peak, source=sources, **{k: v for k, (v, _) in given.items()})  # type: ignore[arg-type]


def _epyc(model: int, gigahertz: float, watts: float, clock: str, cache: str) -> DeviceSpec:
    cores = 32
    return _cpu(
        f"cpu_amd_{model}",
        flops=(
            cores * gigahertz * 1e9 * 32,
            f"{cores} cores x {gigahertz} GHz base ({clock}) x two 8-wide FMA units (Microway); assumed: all of a socket",
        ),
        bandwidth=(204.8e9, "eight channels of DDR4-3200 (Microway and AnandTech on EPYC 7002 and 7003)"),
        cache=(128 * _MIB, cache),
        units=(cores, f"AMD EPYC {model} product page"),
        power=(watts, cache),
    )  # fmt: skip


_ROME = "list of Rome models (pastebin.com/vJPzuMnR, June 2019), as AMD launched them"
_PAGE = "product page, not read again"
_CPUS = (
    _cpu(
        "cpu_xeon_silver",
        flops=(12 * 2.2e9 * 32, "assumed: a Xeon Silver 4214 (HW-GPT-Bench names no model): 12 cores x 2.2 GHz x one 16-wide FMA unit"),
        bandwidth=(6 * 2400e6 * 8, "assumed: a Xeon Silver 4214: six channels of DDR4-2400"),
        cache=(int(16.5 * _MIB), "assumed: a Xeon Silver 4214"),
        units=(12, "assumed: a Xeon Silver 4214"),
        power=(85, "assumed: a Xeon Silver 4214"),
    ),
    _cpu(
        "cpu_xeon_gold",
        flops=(16 * 2.8e9 * 64, "assumed: a Xeon Gold 6242 (HW-GPT-Bench names no model): 16 cores x 2.8 GHz x two 16-wide FMA units"),
        bandwidth=(6 * 2933e6 * 8, "assumed: a Xeon Gold 6242: six channels of DDR4-2933"),
        cache=(22 * _MIB, "assumed: a Xeon Gold 6242"),
        units=(16, "assumed: a Xeon Gold 6242"),
        power=(150, "assumed: a Xeon Gold 6242"),
    ),
    _epyc(7502, 2.5, 180, f"assumed: {_PAGE}", _ROME),
    _epyc(7513, 2.6, 200, f"assumed: {_PAGE}", f"assumed: AMD EPYC 7513 {_PAGE}"),
    _epyc(7452, 2.35, 155, f"assumed: {_PAGE}", _ROME),
    _cpu(
        "cpu",
        flops=(192e9, "assumed: two 3 GHz cores, two 8-wide FMA units each (AVX2): 2 x 3e9 x 2 x 8 x 2; halves computed as float32"),
        bandwidth=(20e9, "assumed: two cores of a server with DDR4"),
        cache=(32 * _MIB, "assumed: shared last-level cache of a server"),
        units=(2, "assumed: two cores"),
        cache_bandwidth=(60e9, "assumed: two cores reading the shared cache"),
    ),
)  # fmt: skip

_HW_GPT_GPUS = 8  # of _GPUS, in the order of HW-GPT-Bench
TABLE = (*_GPUS[:_HW_GPT_GPUS], *_CPUS[:-1], *_GPUS[_HW_GPT_GPUS:], _SN40L, _CPUS[-1])
