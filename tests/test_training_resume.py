"""Training goes on: from a checkpoint, after kill -9, in two processes, with the same bits."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nas.model import CheckpointError, Supernet
from nas.model.checkpoint import load_info
from nas.training import TrainingDiverged, train, trainer
from tests.small_models import random_supernet
from tests.small_spaces import small_space
from tests.training_recipe import RECIPE, SPACE, TOKENS, VISITED, recorded

REPOSITORY = Path(__file__).resolve().parents[1]


def weights(supernet: Supernet) -> list[Tensor]:
    return [p.detach().clone() for p in supernet.parameters()]


def are_equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(x.equal(y) for x, y in zip(a, b, strict=True))


# --- resume ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stops", [(1,), (2,), (3,), (4,), (5,), (6,), (1, 3), (2, 4), (3, 5, 6)], ids=str
)
@pytest.mark.parametrize("subnets", [None, lambda step: VISITED], ids=["sandwich", "same subnets"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    stops: tuple[int, ...], subnets: trainer.Sampler | None, tmp_path: Path
) -> None:
    """Weights bit by bit and the loss curve, wherever it stopped, with another supernet in the process's memory each time."""
    whole = random_supernet(SPACE)
    curve = train(whole, TOKENS, RECIPE, progress=False, subnets=subnets)
    path = tmp_path / "training.json"
    for seed, stop in enumerate(stops):
        begun = (
            random_supernet(SPACE) if not path.exists() else random_supernet(SPACE, seed=100 + seed)
        )
        train(
            begun, TOKENS, RECIPE, checkpoint=path, progress=False, stop_after=stop, subnets=subnets
        )
        if stop >= 2:
            assert load_info(path, "training")["step"] == stop // 2 * 2
    resumed = random_supernet(SPACE, seed=99) if path.exists() else random_supernet(SPACE)
    assert train(resumed, TOKENS, RECIPE, checkpoint=path, progress=False, subnets=subnets) == curve
    assert are_equal(weights(resumed), weights(whole))
    done = random_supernet(SPACE, seed=98)
    assert (
        train(done, TOKENS, RECIPE, checkpoint=path, progress=False, subnets=subnets) == curve
    )  # nothing left to do
    assert are_equal(weights(done), weights(whole))
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_a_resumed_run_keeps_its_curve_and_its_dtype(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses since the last entry of the curve are in the checkpoint, and a dtype once chosen by timing is kept."""
    recipe = replace(RECIPE, steps=28, batch_size=1, num_random=0, dtype="auto")
    monkeypatch.setattr(trainer, "faster_dtype", lambda requested, device: torch.bfloat16)
    whole = random_supernet(SPACE)
    curve = train(whole, TOKENS, recipe, progress=False)
    path = tmp_path / "training.json"
    train(random_supernet(SPACE), TOKENS, recipe, checkpoint=path, progress=False, stop_after=10)
    monkeypatch.setattr(trainer, "faster_dtype", lambda requested, device: torch.float32)
    resumed = random_supernet(SPACE, seed=9)
    assert train(resumed, TOKENS, recipe, checkpoint=path, progress=False) == curve
    assert are_equal(weights(resumed), weights(whole))
    assert [step for step, _, _ in curve] == [25, 28]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"recipe": replace(RECIPE, learning_rate=1e-3)}, "recipe"),
        ({"recipe": replace(RECIPE, seed=1)}, "recipe"),
        ({"space": small_space(depths=(1, 2, 3))}, "space"),
        ({"tokens": TOKENS[:-1]}, "num_tokens"),
        ({"tokens": TOKENS[::-1]}, "tokens_sha256"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    change: dict[str, Any], name: str, tmp_path: Path
) -> None:
    path = tmp_path / "training.json"
    train(random_supernet(SPACE), TOKENS, RECIPE, checkpoint=path, progress=False, stop_after=2)
    before = path.read_bytes()
    supernet = random_supernet(change.get("space", SPACE))
    with pytest.raises(CheckpointError, match=f"its {name} differs.*another output folder"):
        train(
            supernet,
            change.get("tokens", TOKENS),
            change.get("recipe", RECIPE),
            checkpoint=path,
            progress=False,
        )
    assert path.read_bytes() == before


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training.json"
    train(random_supernet(SPACE), TOKENS, RECIPE, checkpoint=path, progress=False, stop_after=2)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated or altered"):
        train(random_supernet(SPACE), TOKENS, RECIPE, checkpoint=path, progress=False)
    path.write_text('{"step": 2}')
    with pytest.raises(CheckpointError, match="foreign or damaged"):
        train(random_supernet(SPACE), TOKENS, RECIPE, checkpoint=path, progress=False)


@pytest.mark.parametrize("poison", ["weight", "gradient"])
def test_a_diverging_run_stops_before_it_spoils_weights(
    poison: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "training.json"
    supernet = random_supernet(SPACE)
    train(supernet, TOKENS, RECIPE, checkpoint=path, progress=False, stop_after=2)
    stored, before = path.read_bytes(), weights(supernet)
    backward = trainer._backward

    def spoiled(*args: Any) -> Tensor:
        losses = backward(*args)
        assert supernet.embedding.grad is not None
        if poison == "gradient":  # the loss is still a number, the step would not be
            supernet.embedding.grad[3, 3] = math.inf
            return losses
        return losses * math.nan

    monkeypatch.setattr(trainer, "_backward", spoiled)
    with pytest.raises(
        TrainingDiverged, match="expected a finite loss and gradient at step 2.*lower learning_rate"
    ):
        train(supernet, TOKENS, RECIPE, checkpoint=path, progress=False)
    assert are_equal(weights(supernet), before)
    assert path.read_bytes() == stored
    assert all(parameter.grad is None for parameter in supernet.parameters())


def test_not_a_number_in_the_weights_is_noticed_at_once() -> None:
    supernet = random_supernet(SPACE)
    with torch.no_grad():
        supernet.layers[0].up.weight[0, 0] = math.nan
    with pytest.raises(TrainingDiverged, match="at step 0"):
        train(supernet, TOKENS, RECIPE, progress=False)


def test_leftover_gradients_do_not_leak_into_training() -> None:
    clean, dirty = random_supernet(SPACE), random_supernet(SPACE)
    for parameter in dirty.parameters():
        parameter.grad = torch.ones_like(parameter)
    for supernet in (clean, dirty):
        train(supernet, TOKENS, RECIPE, progress=False)
    assert are_equal(weights(clean), weights(dirty))


def test_training_leaves_the_global_random_states_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    train(random_supernet(SPACE), TOKENS, RECIPE, progress=False)
    assert torch.get_rng_state().equal(before)


def test_a_text_shorter_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least context"):
        train(random_supernet(SPACE), TOKENS[:8], RECIPE, progress=False)


# --- kill -9 --------------------------------------------------------------------------------------


KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from nas.model.checkpoint import load_info, load_tensors
from nas.training import train
from tests.small_models import random_supernet
from tests.test_training_resume import KILLED_RECIPE
from tests.training_recipe import SPACE, TOKENS
random.seed(0)

# What the first optimizer imports takes seconds: once here, not in every child. No backward pass before a fork.
warm = torch.nn.Parameter(torch.ones(2, 2))
warm.grad = torch.ones(2, 2)
torch.optim.AdamW([warm], fused=True).step()

def start(path):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            train(random_supernet(SPACE), TOKENS, KILLED_RECIPE, checkpoint=path, progress=False)
            status = 0
        finally:
            os._exit(status)
    return pid

def finish(pid):
    return os.waitpid(pid, 0)[1]

folder = Path(sys.argv[1])
whole, killed = folder / "whole.json", folder / "killed.json"
began = time.perf_counter()
assert finish(start(whole)) == 0
duration = time.perf_counter() - began
def is_running(pid):
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

def stored():
    return load_info(killed, "training")["step"] if killed.exists() else 0

steps, finished = [0], False
while not finished:
    pid = start(killed)
    if len(steps) <= 8:
        if len(steps) > 2:  # not before it has come further than the one before it
            while stored() == steps[-1] and is_running(pid):
                time.sleep(0.001)
        time.sleep(random.uniform(0.0, 0.1 * duration))
        os.kill(pid, signal.SIGKILL)
    status = finish(pid)
    assert status in (0, signal.SIGKILL), status
    finished = status == 0
    steps.append(stored())
(a, info_a), (b, info_b) = load_tensors(whole, "training"), load_tensors(killed, "training")
equal = a.keys() == b.keys() and all(a[n].equal(b[n]) for n in a)
print(json.dumps({"steps": steps, "equal": equal, "info": info_a == info_b}))
"""


KILLED_RECIPE = replace(RECIPE, steps=30, num_random=1)


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)} | more


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_at_random_moments_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    """Eight kill -9 at random moments: no finished checkpoint is lost, and weights, optimizer and curve are bit-equal."""
    run = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path)],
        env=environment(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["equal"]
    assert found["info"]
    assert found["steps"] == sorted(found["steps"])  # no step that was stored is lost
    assert found["steps"][-1] == KILLED_RECIPE.steps
    assert len(set(found["steps"])) > 2  # it was killed in the middle, not only at the ends


# --- two processes --------------------------------------------------------------------------------


PARALLEL = """
import atexit, json, os, sys

@atexit.register  # the last to run
def list_threads():
    tasks = [f"/proc/self/task/{task}/comm" for task in os.listdir("/proc/self/task")]
    (folder / f"threads{rank}.json").write_text(json.dumps([open(task).read() for task in tasks]))

from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from nas.training import train
from nas.training.distributed import Processes
from tests.small_models import random_supernet
from tests.training_recipe import RECIPE, SPACE, TOKENS

losses, mean = [], Processes.mean
def record(self, values):
    found = mean(self, values)
    losses.append(found.tolist())
    return found
Processes.mean = record
folder, rank = Path(sys.argv[1]), os.environ["RANK"]
path = folder / "training.json"
train(random_supernet(SPACE), TOKENS, RECIPE, checkpoint=path, progress=False, stop_after=4)
resumed = random_supernet(SPACE, seed=5)
curve = train(resumed, TOKENS, RECIPE, checkpoint=path, progress=False)
parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))]
parameters[0].grad = torch.full((3,), 1.0 + 2.0 * int(rank))
Processes(torch.device("cpu")).average_gradients(parameters)
averaged = [None if p.grad is None else p.grad.tolist() for p in parameters]
refused = ""
try:
    train(resumed, TOKENS, replace(RECIPE, batch_size=3), progress=False)
except ValueError as error:
    refused = str(error)
result = {"losses": losses, "curve": curve, "refused": refused, "averaged": averaged}
(folder / f"rank{rank}.json").write_text(json.dumps(result))
"""


def test_two_processes_learn_as_one_with_twice_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two gloo processes of torchrun, stopped and resumed once, each with half of the batch."""
    script = tmp_path / "parallel.py"
    script.write_text(PARALLEL)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    run = subprocess.run(
        [sys.executable, *launch, str(script), str(tmp_path)],
        env=environment(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    losses = recorded(monkeypatch)
    curve = train(random_supernet(SPACE), TOKENS, RECIPE, progress=False)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert len(losses) == len(first["losses"]) == RECIPE.steps
    # float32 sums in two halves, over six steps
    assert np.allclose(losses, first["losses"], rtol=1e-4)
    assert np.allclose(curve, first["curve"], rtol=1e-4)
    assert first["averaged"] == [
        [2.0, 2.0, 2.0],
        None,
    ]  # the mean of 1 and 3; what has no gradient keeps none
    assert "divisible by 2 processes, got 3" in first["refused"]
    assert len(list(tmp_path.glob("training-*.safetensors"))) == 1  # one of them writes
    # gloo's threads have ended before Python has: one that lets go of a tensor later aborts
    threads = [json.loads((tmp_path / f"threads{rank}.json").read_text()) for rank in (0, 1)]
    assert all("gloo" not in name for names in threads for name in names)
