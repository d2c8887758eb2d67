"""Optimisation profiles: between which shapes an engine runs, and for which it is tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from edgeconv.bench.inputs import parse_shapes, resolve_shapes
from edgeconv.errors import InputError
from edgeconv.runtime.ort import TensorInfo

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ShapeRange:
    """The shapes that an engine takes for one input: sizes from `min` to `max`, best at `opt`."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    @property
    def fixed(self) -> bool:
        """Whether there is only one shape."""
        return self.min == self.max

    def to_dict(self) -> dict[str, list[int]]:
        """Return plain JSON values."""
        return {end: list(shape) for end, shape in asdict(self).items()}

    def __str__(self) -> str:
        return text_of(self.opt) if self.fixed else " / ".join(map(text_of, (self.min, self.opt, self.max)))


def text_of(shape: Sequence[int]) -> str:
    """Write a shape as users do: 1x3x224x224."""
    return "x".join(map(str, shape))


def parse_shape_lists(texts: Sequence[str]) -> Shapes:
    """Parse ``x:1x3x224x224,y:1x10`` as trtexec takes it, quotes around names included; several texts add up.

    Raises:
        InputError: A part has another form, or an input comes twice.
    """
    parts = [part.strip().replace("'", "").replace('"', "") for text in texts for part in text.split(",")]
    shapes: Shapes = {}
    for part in parts:
        for name, shape in parse_shapes([part]).items():
            if name in shapes:
                raise InputError(f"two shapes are given for input {name or '(the only one)'}.", "Name each input once.")
            shapes[name] = shape
    return shapes


def resolve_profile(
    inputs: Sequence[TensorInfo],
    metadata: Mapping[str, str],
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    min_shapes: Mapping[str, Sequence[int]] | None = None,
    opt_shapes: Mapping[str, Sequence[int]] | None = None,
    max_shapes: Mapping[str, Sequence[int]] | None = None,
    model: str = "the model",
) -> dict[str, ShapeRange]:
    """Give every input of a model with dynamic axes its range of shapes.

    What is not given follows from the rest, as in trtexec: the least and the largest shape are the one to tune for, and
    that is the largest if only the ends are given. An input of which nothing is said has one shape: a batch of 1, the
    other sizes as the file's metadata has them or as another input uses the same symbol.

    Args:
        inputs: The model's inputs.
        metadata: The file's metadata properties.
        shapes: Shapes by input name, for least, best and largest alike.
        min_shapes: Least shapes.
        opt_shapes: Shapes to tune for.
        max_shapes: Largest shapes.
        model: Name for messages.

    Returns:
        A range for each input, or nothing if no input has a dynamic axis.

    Raises:
        InputError: A shape does not fit the model, names no input, or is out of order.
    """
    ends = {"min": min_shapes or {}, "opt": opt_shapes or {}, "max": max_shapes or {}}
    if shapes and any(ends.values()):
        raise InputError(
            "--shapes fixes the shapes, and --min-shapes, --opt-shapes and --max-shapes open them.", "Use one or other."
        )
    if shapes:
        ends = dict.fromkeys(ends, shapes)
    lower, best, upper = (_named(ends[end], inputs, model) for end in ("min", "opt", "max"))
    best = {**lower, **upper, **best}
    chosen = {"min": {**best, **lower}, "opt": best, "max": {**best, **upper}}
    resolved = {
        end: resolve_shapes(inputs, metadata, shapes=_follow(given, inputs), model=model)
        for end, given in chosen.items()
    }
    for info in inputs:
        low, mid, high = (resolved[end][info.name] for end in ("min", "opt", "max"))
        if not all(a <= b <= c for a, b, c in zip(low, mid, high, strict=True)):
            raise InputError(
                f"the shapes of input {info.name} are out of order: least {text_of(low)}, best {text_of(mid)}, largest "
                f"{text_of(high)}.",
                "Every size must satisfy --min-shapes <= --opt-shapes <= --max-shapes.",
            )
    if all(isinstance(size, int) for info in inputs for size in info.shape):
        return {}
    return {info.name: ShapeRange(*(resolved[end][info.name] for end in ("min", "opt", "max"))) for info in inputs}


def _named(given: Mapping[str, Sequence[int]], inputs: Sequence[TensorInfo], model: str) -> Shapes:
    """Return the shapes with the name of the only input in the place of the empty one."""
    known = [info.name for info in inputs]
    for name in given:
        if name not in known and (name or len(known) != 1):
            problem = f"{model} has no input called {name}." if name else f"{model} has several inputs."
            raise InputError(problem, f"Name them in the shapes: {', '.join(f'{n}:1x3x224x224' for n in known)}.")
    return {name or known[0]: tuple(shape) for name, shape in given.items()}


def _follow(given: Shapes, inputs: Sequence[TensorInfo]) -> Shapes:
    """Add the inputs that are not given and whose dynamic axes all have the symbols of given ones."""
    sizes = {
        size: actual
        for info in inputs
        if info.name in given
        for size, actual in zip(info.shape, given[info.name], strict=False)
        if isinstance(size, str)
    }
    found = dict(given)
    for info in inputs:
        shape = [size if isinstance(size, int) else sizes.get(size or "") for size in info.shape]
        if info.name not in given and shape and None not in shape:
            found[info.name] = tuple(size for size in shape if size is not None)
    return found
