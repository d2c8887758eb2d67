"""The registry of architectures: a name, what it is, where it comes from, and how it is configured.

Importing this module needs no torch; the architectures are imported when one is first listed or built.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.padding import Padding

from edgeconv.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    from torch import nn

PACKAGE = "edgeconv.models"


@dataclass(frozen=True)
class ModelInfo:
    """What the registry knows of one architecture.

    Args:
        name: As the commands take it.
        description: One line.
        paper: Citation of the source.
        input_shape: Default input (C, H, W).
        config: Every configuration key with its default.
        weights: Other implementations whose state dicts of this architecture load.
    """

    name: str
    description: str
    paper: str
    input_shape: tuple[int, int, int]
    config: Mapping[str, Any]
    weights: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able copy."""
        return {
            "name": self.name,
            "description": self.description,
            "paper": self.paper,
            "input_shape": list(self.input_shape),
            "config": dict(self.config),
            "weights": list(self.weights),
        }


@dataclass(frozen=True)
class ModelTable:
    """The registry as a table: `edgeconv models`."""

    models: Sequence[ModelInfo]

    def to_dict(self) -> list[dict[str, Any]]:
        """Return a JSON-able copy."""
        return [model.to_dict() for model in self.models]

    def render(self, console: Console) -> None:
        """Print one block a model: name, input, description, paper, whose weights load, configuration keys."""
        for model in self.models:
            shape = "x".join(map(str, model.input_shape))
            console.print(f"[bold]{model.name}[/]  [dim]input {shape}[/]  {model.description}", highlight=False)
            console.print(Padding(model.paper, (0, 0, 0, 4)), style="dim", highlight=False)
            if model.weights:
                weights = f"weights: {', '.join(model.weights)}"
                console.print(Padding(weights, (0, 0, 0, 4)), style="dim", highlight=False)
            settings = "  ".join(f"{key}={json.dumps(value)}" for key, value in model.config.items())
            console.print(Padding(settings, (0, 0, 1, 4)), highlight=False)


Renaming = Callable[["nn.Module", str], "str | None"]
"""What a parameter or buffer that others named so is called in a model; None: a name that it does not know."""

_Builder = TypeVar("_Builder", bound="Callable[..., nn.Module]")


@dataclass(frozen=True)
class _Entry:
    info: ModelInfo
    builder: Callable[..., nn.Module]
    renamings: Mapping[str, Renaming]


@dataclass(frozen=True)
class RenamedState:
    """A state dict under the names that a model here has.

    Attributes:
        state: Parameters and buffers. Names that the implementation does not have stay as they were.
        source: The implementation whose names were read, as `ModelInfo.weights` gives it; None for the names here.
    """

    state: dict[str, Any]
    source: str | None


_REGISTRY: dict[str, _Entry] = {}


def register(
    name: str,
    *,
    description: str,
    paper: str,
    input_shape: tuple[int, int, int],
    config: Mapping[str, Any],
    renamings: Sequence[Renaming] = (),
    weights: Mapping[str, Renaming | None] = MappingProxyType({}),
) -> Callable[[_Builder], _Builder]:
    """Register a function or class that builds an architecture from keyword arguments.

    Args:
        name: Unique name, as its paper names it, in lower case.
        description: One line.
        paper: Citation of the source.
        input_shape: Default input (C, H, W).
        config: Every keyword argument the builder takes, with its default; JSON-able.
        renamings: Of further implementations, which the function's name says.
        weights: Other implementations whose state dicts load, and how they name things; None for the names here.

    Returns:
        A decorator that leaves the builder as it is.

    Raises:
        ValueError: The name is taken, or the defaults are not JSON-able.
    """
    json.dumps(dict(config))

    def decorate(builder: _Builder) -> _Builder:
        if name in _REGISTRY:
            raise ValueError(f"a model named {name!r} is registered already")
        info = ModelInfo(name, description, paper, input_shape, MappingProxyType(dict(config)))
        _REGISTRY[name] = _Entry(info, builder, {renaming.__name__: renaming for renaming in renamings})
        add_weights(name, weights)
        return builder

    return decorate


def add_weights(name: str, weights: Mapping[str, Renaming | None]) -> None:
    """Say whose state dicts load into a registered architecture; see `register`."""
    entry = _REGISTRY[name]
    _REGISTRY[name] = _Entry(
        dataclasses.replace(entry.info, weights=(*entry.info.weights, *weights)),
        entry.builder,
        {**entry.renamings, **{source: renaming for source, renaming in weights.items() if renaming is not None}},
    )


def list_models() -> list[ModelInfo]:
    """Return every registered architecture, sorted by name.

    Raises:
        MissingDependencyError: torch is not installed.
    """
    _import_architectures()
    return [_REGISTRY[name].info for name in sorted(_REGISTRY)]


def model_info(name: str) -> ModelInfo:
    """Return what is known of one architecture.

    Raises:
        InputError: No such name.
        MissingDependencyError: torch is not installed.
    """
    return _find(name).info


def resolve_config(name: str, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the architecture's whole configuration: its defaults, with `config` over them.

    Raises:
        InputError: No such architecture, or no such key.
        MissingDependencyError: torch is not installed.
    """
    info = _find(name).info
    given = dict(config or {})
    unknown = [key for key in given if key not in info.config]
    if unknown:
        close = difflib.get_close_matches(unknown[0], info.config, n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        raise InputError(
            f"model {name!r} has no configuration key {unknown[0]!r}.",
            f"{hint}Keys: {', '.join(f'{key}={json.dumps(value)}' for key, value in info.config.items())}.",
        )
    return {**info.config, **given}


def create(name: str, **config: Any) -> nn.Module:
    """Build an architecture with freshly initialised weights (from torch's global random generator).

    Args:
        name: As `list_models` gives it.
        **config: Keys to set; the others keep the defaults that `list_models` shows.

    Returns:
        The module, in training mode.

    Raises:
        InputError: No such architecture or key, or a value out of range.
        MissingDependencyError: torch is not installed.
    """
    resolved = resolve_config(name, config)
    try:
        return _find(name).builder(**resolved)
    except (TypeError, ValueError, RuntimeError) as error:
        settings = ", ".join(f"{key}={json.dumps(value, default=str)}" for key, value in config.items())
        raise InputError(
            f"model {name!r} cannot be built with {settings or 'its defaults'}: {error}.",
            "Correct the configuration; `edgeconv models` lists the keys and their defaults.",
        ) from error


def rename_state(name: str, module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict under the names that a model has, as far as an implementation that is known wrote it.

    Args:
        name: The architecture.
        module: A model of it.
        state: Parameters and buffers by their names in the file.
    """
    return match_state(name, module, state).state


def match_state(name: str, module: nn.Module, state: Mapping[str, Any]) -> RenamedState:
    """Read a state dict by the names of the implementation that fits best.

    Of 1x1 convolutions and linear layers, which implementations take for each other, the shapes are made fit.

    Args:
        name: The architecture.
        module: A model of it.
        state: Parameters and buffers by their names in the file.
    """
    expected = module.state_dict()
    best, most = RenamedState(dict(state), None), sum(key in expected for key in state)
    for source, renaming in _find(name).renamings.items():
        renamed: dict[str, Any] = {}
        for key, value in state.items():
            ours = renaming(module, key)
            renamed[key if ours is None or ours not in expected or ours in renamed else ours] = value
        found = sum(key in expected for key in renamed)
        if found > most and len(renamed) == len(state):
            best, most = RenamedState(renamed, source), found
    for key in best.state.keys() & expected.keys():
        theirs, ours = best.state[key], expected[key]
        if {theirs.dim(), ours.dim()} == {2, 4} and _flat(theirs) == _flat(ours):
            best.state[key] = theirs.reshape(ours.shape)
    return best


def _flat(weight: Any) -> tuple[int, int]:
    return len(weight), math.prod(weight.shape[1:])


def _find(name: str) -> _Entry:
    _import_architectures()
    if name not in _REGISTRY:
        close = difflib.get_close_matches(name, _REGISTRY, n=3)
        hint = f"Did you mean {' or '.join(close)}? " if close else ""
        raise InputError(f"no model is named {name!r}.", f"{hint}Models: {', '.join(sorted(_REGISTRY))}.")
    return _REGISTRY[name]


def _import_architectures() -> None:
    package = importlib.import_module(PACKAGE)
    try:
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{PACKAGE}.{module.name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "torch":
            raise
        raise MissingDependencyError(
            "building models needs PyTorch, which is not installed.", "Install it: pip install 'edgeconv[export]'."
        ) from error
