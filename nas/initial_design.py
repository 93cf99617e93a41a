"""The architectures a person would try first: where a model-based search starts."""

from __future__ import annotations

from collections.abc import Iterator

from search_spaces import Architecture, SearchSpace

MAX_DESIGN = 12


def initial_design(space: SearchSpace, number: int = MAX_DESIGN) -> list[Architecture]:
    """Largest, smallest, and the largest with one kind of choice changed in every layer at once.

    One factor at a time shows a model the main effects, which carry most of these landscapes: a
    linear model of the choices already ranks HW-GPT-Bench's perplexities with a Kendall tau of 0.97.
    Whether a part is kept changes in every second layer only: without any attention, or any FFN,
    nothing works.

    Args:
        space: to search.
        number: most architectures to return.

    Returns:
        Distinct members of the space, the most telling first.
    """
    found: dict[Architecture, None] = {space.largest: None, space.smallest: None}
    axes = [_global(space, "depth"), _parts(space, "attention"), _global(space, "embed_dim")]
    axes += [_layers(space, slot) for slot in ("ffn_sparsity", "num_heads", "attention_sparsity")]
    axes += [_layers(space, "ffn_ratio"), _parts(space, "ffn")]
    while axes and len(found) < number:  # one of each axis in turn
        for axis in list(axes):
            architecture = next(axis, None)
            if architecture is None:
                axes.remove(axis)
            elif len(found) < number:
                found[architecture] = None
    return list(found)[:number]


def _global(space: SearchSpace, name: str) -> Iterator[Architecture]:
    params = space.to_params(space.largest)
    for choice in space.choices:
        if choice.name == name:
            for value in reversed(choice.values[:-1]):
                yield space.from_params(params | {name: value})


def _layers(space: SearchSpace, slot: str) -> Iterator[Architecture]:
    params = space.to_params(space.largest)
    names = [c.name for c in space.choices if c.name.endswith(f".{slot}")]
    values = next((c.values for c in space.choices if c.name in names), ())
    for value in values if slot.endswith("sparsity") else reversed(values):
        yield space.from_params(params | dict.fromkeys(names, value))


def _parts(space: SearchSpace, slot: str) -> Iterator[Architecture]:
    params = space.to_params(space.largest)
    names = [c.name for c in space.choices if c.name.endswith(f".{slot}")]
    if names:
        yield space.from_params(params | dict.fromkeys(names[1::2], False))
