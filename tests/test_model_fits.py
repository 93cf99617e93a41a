"""When hyperparameters of the BoTorch samplers are fitted: from what was told alone, whatever is remembered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nas.searchers import model_fits
from nas.searchers.history import History, telling_rows
from nas.searchers.model_fits import MAX_TOLD, ModelFits
from nas.searchers.rungs import COLD_EVERY, rungs


def history(X: np.ndarray, Y: np.ndarray) -> History:
    feasible = np.ones(len(X), dtype=np.bool_)
    return History(X, Y, feasible, {}, X[:0], X[:0], np.ones(2), np.array([10.0, 10.0]))


def fits() -> ModelFits:
    return ModelFits(lambda space, X: (lambda points: points, None))  # type: ignore[arg-type,return-value]


def test_a_value_that_changed_reaches_the_fits_that_started_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beyond the most told points a rung may leave out a point that the rung before it saw, and from whose fit it starts."""

    def describe(F: Any, y: np.ndarray, may_log: bool, found: Any, parts: Any) -> Any:
        return (found, float(y.sum()))  # remembers where it started

    monkeypatch.setattr(model_fits, "describe", describe)
    rng, checked = np.random.default_rng(0), 0
    space: Any = object()
    for _ in range(20):
        n = int(rng.integers(480, 1200))
        X, Y = rng.random((n, 3)), rng.random((n, 2))
        steps = rungs(n)[1:]
        rows = [{*telling_rows(Y[:count], MAX_TOLD).tolist()} for count in steps[-2:]]
        left_out = sorted(rows[0] - rows[1])
        if (len(steps) - 1) % COLD_EVERY == 0 or not left_out:
            continue
        changed = Y.copy()
        changed[left_out[0], 0] *= 1.001
        used = fits()
        before = used.description(space, history(X, Y), "objective 0", Y[:, 0], True)
        told = (space, history(X, changed), "objective 0", changed[:, 0], True)
        after = used.description(*told)
        assert after == fits().description(*told)
        checked += after != before
    assert checked > 3
