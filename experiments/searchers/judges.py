"""Non-linear judges: small nets fitted to measured latencies, a landscape that no additive model fits.

A net of one-hot choices is trained on four fifths of a table's rows (log latency, standardized) until its hold-out Kendall tau is about
what a count-linear model reaches, and no further effort is made to smooth it: what it makes of unseen architectures is deliberately
its own. Its weights are kept as ``.npz`` so that later runs see the same landscape.

n architectures, f features, r rows.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from experiments.results import digest
from nas.files import sha256_file
from surrogates.additive.encoding import Encoded, Encoder, IntArray
from surrogates.base import FloatArray
from surrogates.calibration import kendall_tau
from surrogates.storage import read_archive, write_archive
from surrogates.tables import Key, MeasurementTable

_KIND, _SCHEMA = "searcher-judge", 1
_TRAIN_SHARE = 0.8
_BATCH = 256
_PEAK_LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class NetRecipe:
    """How a judge is made.

    Args:
        widths: of the hidden layers.
        activation: ``tanh`` or ``relu``.
        epochs: passes over the rows; set once so that hold-out tau on the RTX 2080 is 0.87, where more passes only fit the noise of the
            measurements and make the landscape wilder.
    """

    widths: tuple[int, ...]
    activation: str
    epochs: int


NETS = {
    "tanh2x64": NetRecipe((64, 64), "tanh", 150),
    "relu3x64": NetRecipe((64, 64, 64), "relu", 25),
}


@dataclass(frozen=True, eq=False)
class NetJudge:
    """A fitted net.

    Args:
        weights: matrices (inputs, outputs) and offsets (outputs,), layer by layer.
        activation: ``tanh`` or ``relu``.
        mean: of the log latencies.
        std: of the log latencies.
        tau: Kendall's tau on the rows held out.
        train_tau: on the rows it was fitted to.
    """

    weights: tuple[tuple[FloatArray, FloatArray], ...]
    activation: str
    mean: float
    std: float
    tau: float
    train_tau: float

    def __call__(self, X_nf: FloatArray) -> FloatArray:
        """Latency in ms of rows of :func:`one_hot`, shape (n,)."""
        h = X_nf
        for i, (matrix, offset) in enumerate(self.weights):
            h = h @ matrix + offset
            if i + 1 < len(self.weights):
                h = np.tanh(h) if self.activation == "tanh" else np.maximum(h, 0.0)
        found: FloatArray = np.exp(self.mean + self.std * h[:, 0])
        return found


def one_hot(encoded: Encoded, encoder: Encoder) -> FloatArray:
    """Choices as 0 and 1: width, depth, bias, then attention and FFN part of each layer, all 0 beyond the depth; shape (n, f)."""

    def layers(number_nl: IntArray, count: int) -> FloatArray:
        hot: FloatArray = (number_nl[:, :, None] == np.arange(count)).astype(np.float64)
        return hot.reshape(len(number_nl), -1)

    space = encoder.space
    columns: list[FloatArray] = [
        (encoded.width_n[:, None] == np.arange(len(space.embed_dims))).astype(np.float64),
        (encoded.depth_n[:, None] == np.array(space.depths)).astype(np.float64),
        encoded.bias_n[:, None].astype(np.float64),
        layers(encoded.attention_nl, len(encoder.attention_parts)),
        layers(encoded.ffn_nl, len(encoder.ffn_parts)),
    ]
    found: FloatArray = np.hstack(columns)
    return found


def net_judge(
    path: Path, device: str, net: str, seed: int, folder: Path, table: MeasurementTable
) -> tuple[NetJudge, str]:
    """The judge of a device's latency: read from ``folder``, or trained (seconds) and kept there.

    Args:
        path: file of the table, which names the judge together with the other arguments.
        device: whose latency.
        net: one of ``NETS``.
        seed: of the rows held out, of the first weights and of the batches.
        folder: where judges are kept.
        table: content of the file.

    Returns:
        The judge and 16 hexadecimal digits of its weights.

    Raises:
        ValueError: if the net is unknown, or the table has no latency of the device.
    """
    if net not in NETS:
        raise ValueError(f"expected a net in {', '.join(NETS)}, got {net!r}")
    recipe = NETS[net]
    key = (f"{table.workload.phase}_ms", device)
    table.key(*key)  # names the known devices where this one is unknown
    setting = digest({"table": sha256_file(path), "key": key, "seed": seed, **vars(recipe)})
    file = folder / f"{device}-{net}-{seed}-{setting}.npz"
    if not file.exists():
        judge = _train(table, key, recipe, seed)
        arrays: dict[str, FloatArray] = {}
        for i, (matrix, offset) in enumerate(judge.weights):
            arrays |= {f"matrix{i}": matrix, f"offset{i}": offset}
        meta = {name: getattr(judge, name) for name in ("mean", "std", "tau", "train_tau")}
        write_archive(file, _KIND, _SCHEMA, {"layers": len(judge.weights), **meta}, arrays)
    stored, arrays = read_archive(file, _KIND, _SCHEMA)
    weights = tuple((arrays[f"matrix{i}"], arrays[f"offset{i}"]) for i in range(stored["layers"]))
    judge = NetJudge(
        weights,
        recipe.activation,
        stored["mean"],
        stored["std"],
        stored["tau"],
        stored["train_tau"],
    )
    content = hashlib.sha256(
        b"".join(np.ascontiguousarray(a).tobytes() for w in weights for a in w)
    )
    return judge, content.hexdigest()[:16]


def _train(table: MeasurementTable, key: Key, recipe: NetRecipe, seed: int) -> NetJudge:
    rows = table.measured_rows(*key)
    log_n = np.log(table.values(*key)[rows])
    X_nf = one_hot(table.encoded.take(rows), Encoder(table.space))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows))
    train, held_out = np.split(order, [int(_TRAIN_SHARE * len(order))])
    mean, std = float(log_n[train].mean()), float(log_n[train].std())
    weights = _fit(X_nf[train], (log_n[train] - mean) / std, recipe, rng, seed)
    found = NetJudge(weights, recipe.activation, mean, std, 0.0, 0.0)
    taus = [kendall_tau(found(X_nf[part]), log_n[part]) for part in (held_out, train)]
    return NetJudge(weights, recipe.activation, mean, std, *taus)


def _fit(
    X_rf: FloatArray, y_r: FloatArray, recipe: NetRecipe, rng: np.random.Generator, seed: int
) -> tuple[tuple[FloatArray, FloatArray], ...]:
    """Squared error by Adam with one cycle of the learning rate (Smith & Topin 2018); the global random state is left alone."""
    sizes = (X_rf.shape[1], *recipe.widths, 1)
    make = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[recipe.activation]
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        linears = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    modules: list[torch.nn.Module] = [linears[0]]
    for linear in linears[1:]:
        modules += [make(), linear]
    net = torch.nn.Sequential(*modules)
    X, y = torch.tensor(X_rf, dtype=torch.float32), torch.tensor(y_r, dtype=torch.float32)
    steps = -(-len(X) // _BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _PEAK_LEARNING_RATE, total_steps=recipe.epochs * steps
    )
    for _ in range(recipe.epochs):
        order = torch.from_numpy(rng.permutation(len(X)))
        for rows in order.split(_BATCH):
            optimizer.zero_grad()
            torch.mean((net(X[rows])[:, 0] - y[rows]) ** 2).backward()
            optimizer.step()
            schedule.step()
    return tuple(
        (
            linear.weight.detach().numpy().T.astype(np.float64),
            linear.bias.detach().numpy().astype(np.float64),
        )
        for linear in linears
    )
