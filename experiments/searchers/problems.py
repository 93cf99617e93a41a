"""Problems by name.

====================================================  ======================================================================================
name                                                  what it is
====================================================  ======================================================================================
``gpt-s/DEVICE/METRIC+METRIC[+METRIC]``               the shipped S benchmark (27 categorical choices): perplexity, latency, energy, params,
                                                      weight_bytes, and memory, which was measured on a100 and rtx2080
``gpt-s/.../noisy``                                   told one measurement as the benchmark scatters, judged by the expected values
``gpt-s/.../METRIC<=median``                          with a constraint: METRIC at most its median over random architectures
``nonlinear/DEVICE/NET-SEED``                         perplexity of the S benchmark x latency of a small net fitted to the measurements
                                                      (:mod:`experiments.searchers.judges`); needs the table
``synthetic/SPACE/DEVICE``                            M (51 choices) and L (75) in closed form (:mod:`experiments.searchers.scales`)
``gpt-m/...``, ``gpt-l/...``                          as ``gpt-s/...``, where tables ``gpt-m.npz``, ``gpt-l.npz`` lie beside that of S
``tiny/perplexity+latency+weight_bytes``              our sparse supernet space (58 choices), shipped
``exhaustive/small``                                  1728 subnets of it, the space of :mod:`experiments.exhaustive`, all of them known
``dtlz2-2/steps``, ``dtlz2-3/steps``, ``dtlz2-2/mixed``, ``branin-currin/steps``, ``branin-currin/mixed``, ``zdt/pairs``
                                                      test functions with known hypervolume (:mod:`experiments.searchers.functions`)
====================================================  ======================================================================================
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from optuna.distributions import CategoricalDistribution

from experiments.exhaustive.table import small_space
from experiments.hw_gpt_bench.data import VARIABLE, find_table, load_table
from experiments.results import digest
from experiments.searchers import functions
from experiments.searchers.best_known import SAMPLE, searched_box
from experiments.searchers.judged import Box, JudgedProblem, Params
from experiments.searchers.judges import NETS, net_judge, one_hot
from experiments.searchers.scales import BATCH as SCALES
from experiments.searchers.scales import Scale
from nas.pareto import normalized_hypervolume
from search_spaces import preset
from surrogates import benchmark
from surrogates.additive.choices import ChoiceVectors
from surrogates.additive.encoding import Encoded, Encoder
from surrogates.base import BoolArray, FloatArray
from surrogates.benchmark import Benchmark
from surrogates.hw_gpt_bench import DEVICES
from surrogates.problem import Problem

CACHE = Path("runs/searchers")
NET_DEVICES = ("rtx2080", "cpu_xeon_gold", "cpu_amd_7452")
NET_SEEDS = (0, 1)
CONSTRAINTS = ("memory<=median", "latency<=median")
_NO_TABLE = "expected HW-GPT-Bench's measurements of S"
_VERSION = 2  # of what the values mean; counted up when a definition changes
_FUNCTIONS: dict[str, Callable[[], functions.TestFunction]] = {
    "dtlz2-2/steps": lambda: functions.dtlz2_steps(2),
    "dtlz2-3/steps": lambda: functions.dtlz2_steps(3, dim=7),
    "dtlz2-2/mixed": functions.dtlz2_mixed,
    "branin-currin/steps": functions.branin_currin_steps,
    "branin-currin/mixed": lambda: functions.branin_currin_steps(mixed=True),
    "zdt/pairs": functions.zdt_pairs,
}
GROUPS: dict[str, tuple[str, ...]] = {
    "a100": ("gpt-s/a100/perplexity+latency",),
    "devices": tuple(f"gpt-s/{d}/perplexity+latency" for d in DEVICES),
    "energy": tuple(f"gpt-s/{d}/perplexity+energy" for d in DEVICES),
    "memory": tuple(f"gpt-s/{d}/perplexity+memory" for d in ("a100", "rtx2080")),
    "three": tuple(f"gpt-s/{d}/perplexity+latency+energy" for d in DEVICES),
    "noisy": tuple(
        f"gpt-s/{d}/perplexity+{m}/noisy"
        for d, m in (
            ("a100", "latency"),
            ("rtx2080", "latency"),
            ("cpu_xeon_gold", "latency"),
            ("cpu_amd_7452", "latency"),
            ("a40", "energy"),
        )
    ),
    "constrained": (
        "gpt-s/a100/perplexity+latency/memory<=median",
        "gpt-s/a100/perplexity+energy/latency<=median",
        "gpt-s/rtx2080/perplexity+energy/latency<=median",
        "gpt-s/cpu_xeon_gold/perplexity+energy/latency<=median",
    ),
    "nonlinear": tuple(
        f"nonlinear/{d}/{net}-{seed}"
        for seed, d, net in itertools.product(NET_SEEDS, NET_DEVICES, reversed(NETS))
    ),
    "scales": tuple(f"synthetic/{s}/{d}" for s in SCALES for d in ("a100", "h100")),
    "sparse": ("tiny/perplexity+latency+weight_bytes", "exhaustive/small"),
    "functions": tuple(_FUNCTIONS),
}


def names() -> tuple[str, ...]:
    """Every problem that the experiment knows by itself (others of the same grammar are made on demand)."""
    return tuple(dict.fromkeys(name for group in GROUPS.values() for name in group))


def select(patterns: Sequence[str]) -> tuple[str, ...]:
    """Problems that a group's name, a problem's name or a shell pattern (``gpt-s/*/perplexity+latency``) means, in the order given.

    Raises:
        ValueError: if a pattern means nothing; the near names are proposed.
    """
    found: list[str] = []
    for pattern in patterns:
        own = GROUPS.get(pattern) or tuple(fnmatch.filter(names(), pattern))
        if not own and pattern.count("/") and not set(pattern) & set("*?["):
            own = (pattern,)  # of the grammar; problem() says what is wrong with it
        if not own:
            known = [*GROUPS, *names()]
            near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.4)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(
                f"expected a group ({', '.join(GROUPS)}), a problem or a pattern of problems, got {pattern!r}{hint}"
            )
        found += own
    return tuple(dict.fromkeys(found))


@functools.cache
def problem(name: str, cache: Path = CACHE, table: Path | None = None) -> JudgedProblem:
    """A problem by name (see the table above), with its best known front (searched once, then kept in ``cache``).

    Args:
        name: for example ``"gpt-s/a100/perplexity+latency"``.
        cache: folder of fronts and nets.
        table: HW-GPT-Bench's measurements of S for the non-linear judges; by default as :func:`experiments.hw_gpt_bench.data.find_table`.

    Raises:
        ValueError: if the name means nothing, or needs a table that is not here.
    """
    kind, _, rest = name.partition("/")
    if name in _FUNCTIONS:
        made = _FUNCTIONS[name]()
        version = digest({"name": name, "version": _VERSION})
        return JudgedProblem(
            name, made.objectives, made.distributions, made.evaluate, made.box, version
        )
    parts = rest.split("/")
    try:
        if kind == "nonlinear":
            device, net = parts
            return _nonlinear(name, device, net, cache, table)
        if kind == "synthetic":
            space, device = parts
            return _synthetic(name, space, device, cache)
        if kind == "tiny":
            (metrics,) = parts
            bench = _benchmark("tiny", table)
            return _of_benchmark(name, bench, bench.devices[0], metrics, "", cache)
        if name == "exhaustive/small":
            return _small(name)
        if kind.startswith("gpt-"):
            device, metrics, *variant = parts
            (last,) = variant or ("",)
            return _of_benchmark(name, _benchmark(kind, table), device, metrics, last, cache)
    except ValueError as error:
        raise ValueError(f"problem {name!r}: {error}") from error
    near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(
        f"expected a problem (see experiments/searchers/problems.py), got {name!r}{hint}"
    )


# --- of benchmarks -------------------------------------------------------------------------------


@functools.cache
def _benchmark(space: str, table: Path | None) -> Benchmark:
    """The shipped surrogates, or those of a table of M or L that lies beside that of S."""
    if space in benchmark.shipped_benchmarks():
        return Benchmark(space)
    beside = table or find_table()
    file = beside.with_name(f"{space}.npz") if beside is not None else None
    if file is None or not file.exists():
        raise ValueError(
            f"expected a benchmark in {', '.join(benchmark.shipped_benchmarks())}, or a table {space}.npz beside that of S, got neither; "
            f"synthetic/{space}/a100 needs none"
        )
    return Benchmark(space, load_table(str(file)))


def _of_benchmark(
    name: str, bench: Benchmark, device: str, metrics: str, variant: str, cache: Path
) -> JudgedProblem:
    plain = bench.problem(device, tuple(metrics.split("+")))
    version = digest(
        {
            "name": name,
            "version": _VERSION,
            "probe": _probe(plain),
            "space": bench.space.fingerprint,
        }
    )
    folder = cache / "boxes"
    if not variant:
        return _encoded(name, plain, searched_box(plain, folder, version), version)
    if variant == "noisy":
        asked = metrics.split("+")

        def told(params: Params, seed: int) -> FloatArray:
            encoded = plain.choices.decode(plain.codes(params))
            found = bench.query(encoded, device, asked, noise=seed)
            return np.array([found[metric][0] for metric in asked])

        return _encoded(name, plain, searched_box(plain, folder, version), version, noise=told)
    metric, bound_is, rule = variant.partition("<=")
    if not bound_is or rule != "median":
        raise ValueError(f"expected noisy or METRIC<=median after the metrics, got {variant!r}")
    limited = bench.problem(device, (metric,))
    usual = limited(limited.choices.sample(SAMPLE, np.random.default_rng(0)))
    bound = float(np.median(usual))

    def feasible(encoded: Encoded) -> BoolArray:
        return np.asarray(limited.function(encoded)[:, 0] <= bound, dtype=np.bool_)

    def excess(params: Params) -> float:
        """Relative, so that no unit is told."""
        return float(limited(limited.codes(params))[0, 0]) / bound - 1.0

    box = searched_box(plain, folder, version, feasible)
    return _encoded(name, plain, box, version, constraint=excess)


def _probe(plain: Problem) -> str:
    """Digest of a hundred values, seven digits each: what the numbers are, wherever they come from."""
    codes = plain.choices.sample(100, np.random.default_rng(1))
    return digest({"values": [[f"{v:.6e}" for v in row] for row in plain(codes).tolist()]})


def _encoded(
    name: str,
    plain: Problem,
    box: Box,
    version: str,
    constraint: Callable[[Params], float] | None = None,
    noise: Callable[[Params, int], FloatArray] | None = None,
) -> JudgedProblem:
    def evaluate(params: Params) -> FloatArray:
        found: FloatArray = plain(plain.codes(params))[0]
        return found

    return JudgedProblem(
        name,
        plain.metrics,
        plain.distributions(),
        evaluate,
        box,
        version,
        constraint,
        noise,
        plain,
    )


# --- of judges -----------------------------------------------------------------------------------


def _nonlinear(name: str, device: str, net: str, cache: Path, table: Path | None) -> JudgedProblem:
    path = table or find_table()
    if path is None or not path.exists():
        raise ValueError(f"{_NO_TABLE} (--table FILE.npz, or the variable {VARIABLE}), got none")
    bench = _benchmark("gpt-s", table)
    quality = bench.problem(None, ("perplexity",))
    kind, _, seed = net.rpartition("-")
    if not seed.isdecimal():
        raise ValueError(f"expected a net and a seed like tanh2x64-0, got {net!r}")
    judge, _ = net_judge(path, device, kind, int(seed), cache / "judges", load_table(str(path)))
    encoder = quality.choices.encoder

    def function(encoded: Encoded) -> FloatArray:
        return np.column_stack([quality.function(encoded)[:, 0], judge(one_hot(encoded, encoder))])

    plain = Problem(name, ("perplexity", "prefill_ms"), quality.choices, function)
    version = digest({"name": name, "version": _VERSION, "probe": _probe(plain)})
    return _encoded(name, plain, searched_box(plain, cache / "boxes", version), version)


def is_without_table(name: str, error: ValueError) -> bool:
    """Whether :func:`problem` refused for want of the measurements that only non-linear judges need."""
    return name.startswith("nonlinear/") and _NO_TABLE in str(error)


def judge_quality(name: str, cache: Path = CACHE, table: Path | None = None) -> tuple[float, float]:
    """Kendall's tau of a non-linear judge on rows held out and on the rows it was fitted to.

    Raises:
        ValueError: as :func:`problem`, or if it is no non-linear judge.
    """
    kind, device, net = name.split("/")
    path = table or find_table()
    if kind != "nonlinear" or path is None:
        raise ValueError(
            f"expected a problem nonlinear/DEVICE/NET-SEED and its table, got {name!r}"
        )
    architecture, _, seed = net.rpartition("-")
    judge, _ = net_judge(
        path, device, architecture, int(seed), cache / "judges", load_table(str(path))
    )
    return judge.tau, judge.train_tau


def _synthetic(name: str, space: str, device: str, cache: Path) -> JudgedProblem:
    if space not in SCALES:
        raise ValueError(f"expected a space in {', '.join(SCALES)}, got {space!r}")
    encoder = Encoder(preset(space))
    plain = Problem(
        name, ("perplexity", "prefill_ms"), ChoiceVectors(encoder), Scale(encoder, device)
    )
    version = digest({"name": name, "version": _VERSION, "probe": _probe(plain)})
    return _encoded(name, plain, searched_box(plain, cache / "boxes", version), version)


def _small(name: str) -> JudgedProblem:
    """Every architecture of the exhaustive experiment's space, by the shipped surrogates of ``tiny``."""
    bench, space = Benchmark("tiny"), small_space()
    architectures = list(space)
    metrics = ("perplexity", "latency", "weight_bytes")
    found = bench.query(architectures, bench.devices[0], metrics)
    values_nm = np.column_stack([found[metric] for metric in metrics])
    rows = {a: i for i, a in enumerate(architectures)}

    def evaluate(params: Params) -> FloatArray:
        value_m: FloatArray = values_nm[rows[space.from_params(params)]]
        return value_m.copy()

    ideal, ref = values_nm.min(axis=0), values_nm.max(axis=0)
    best = float(normalized_hypervolume(values_nm, ideal, ref))
    distributions = {n: CategoricalDistribution(v) for n, v in space.to_optuna().items()}
    text = [[f"{v:.6e}" for v in row] for row in values_nm[::17].tolist()]
    version = digest({"name": name, "version": _VERSION, "values": text})
    box = Box(ideal, ref, best, "enumeration")
    names_m = (metrics[0], f"{bench.workload.phase}_ms", metrics[2])
    return JudgedProblem(name, names_m, distributions, evaluate, box, version)
