"""``nas train``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from nas.commands.searching import search_command
from nas.deploy.runtime import check_device
from nas.files import run_lock
from nas.model.storage import supernet_info
from nas.training import TrainingRecipe, embedded_path, train_supernet
from nas.training.distributed import is_first_process
from search_spaces import preset

if TYPE_CHECKING:
    from nas.cli import Train


def train(command: Train) -> None:
    """``nas train``."""
    if command.recipe not in ("default", "embedded"):
        raise ValueError(f"expected recipe 'default' or 'embedded', got {command.recipe!r}")
    space = preset(command.space)
    check_device(command.device)
    if command.recipe == "embedded":
        stages = [TrainingRecipe.from_json(r) for r in supernet_info(embedded_path())["recipes"]]
    else:
        stages = [
            TrainingRecipe(
                steps=command.steps,
                batch_size=command.batch_size,
                context=min(256, space.family.context_length),
                learning_rate=command.learning_rate,
                warmup_steps=min(200, command.steps // 4),
                seed=command.seed,
            )
        ]
    # Under torchrun every process trains and the first speaks.
    console = Console(quiet=not is_first_process())
    tokens, steps = sum(s.tokens for s in stages), sum(s.steps for s in stages)
    console.print(f"{tokens:,} tokens in {steps} steps; checkpoints in {command.out}")
    with run_lock(command.out):
        supernet = train_supernet(
            space,
            command.corpus,
            recipe=stages,
            out=command.out,
            device=command.device,
            from_scratch=True,
        )
        if is_first_process():
            largest, smallest = supernet.perplexities([space.largest, space.smallest], 8192)
            console.print(f"Perplexity: largest subnet {largest:.2f}, smallest {smallest:.2f}")
    options = {"supernet": supernet.path, "space": command.space, "corpus": command.corpus}
    options |= {"device": command.device, "out": "runs/mine"}
    console.print(
        f"Supernet in {supernet.path}\nNext: {search_command(options)}\n"
        f"or: nas.load_trained('{supernet.path}', '{command.corpus}', '{command.out}')",
        soft_wrap=True,
        highlight=False,
    )
