"""The registry of architectures: a name, what it is, where it comes from, and how it is configured.

Importing this module needs no torch; the architectures are imported when one is first listed or built.
"""

from __future__ import annotations

import difflib
import importlib
import json
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
    """

    name: str
    description: str
    paper: str
    input_shape: tuple[int, int, int]
    config: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able copy."""
        return {
            "name": self.name,
            "description": self.description,
            "paper": self.paper,
            "input_shape": list(self.input_shape),
            "config": dict(self.config),
        }


@dataclass(frozen=True)
class ModelTable:
    """The registry as a table: `edgeconv models`."""

    models: Sequence[ModelInfo]

    def to_dict(self) -> list[dict[str, Any]]:
        """Return a JSON-able copy."""
        return [model.to_dict() for model in self.models]

    def render(self, console: Console) -> None:
        """Print one block a model: name, input, description, paper, configuration keys with defaults."""
        for model in self.models:
            shape = "x".join(map(str, model.input_shape))
            console.print(f"[bold]{model.name}[/]  [dim]input {shape}[/]  {model.description}", highlight=False)
            console.print(Padding(model.paper, (0, 0, 0, 4)), style="dim", highlight=False)
            settings = "  ".join(f"{key}={json.dumps(value)}" for key, value in model.config.items())
            console.print(Padding(settings, (0, 0, 1, 4)), highlight=False)


Renaming = Callable[["nn.Module", str], "str | None"]
"""What a parameter or buffer that others named so is called in a model; None: a name that it does not know."""

_Builder = TypeVar("_Builder", bound="Callable[..., nn.Module]")
_REGISTRY: dict[str, tuple[ModelInfo, Callable[..., nn.Module], Sequence[Renaming]]] = {}


def register(
    name: str,
    *,
    description: str,
    paper: str,
    input_shape: tuple[int, int, int],
    config: Mapping[str, Any],
    renamings: Sequence[Renaming] = (),
) -> Callable[[_Builder], _Builder]:
    """Register a function or class that builds an architecture from keyword arguments.

    Args:
        name: Unique name, as its paper names it, in lower case.
        description: One line.
        paper: Citation of the source.
        input_shape: Default input (C, H, W).
        config: Every keyword argument the builder takes, with its default; JSON-able.
        renamings: One for each other implementation whose state dicts load.

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
        _REGISTRY[name] = (info, builder, tuple(renamings))
        return builder

    return decorate


def list_models() -> list[ModelInfo]:
    """Return every registered architecture, sorted by name.

    Raises:
        MissingDependencyError: torch is not installed.
    """
    _import_architectures()
    return [_REGISTRY[name][0] for name in sorted(_REGISTRY)]


def model_info(name: str) -> ModelInfo:
    """Return what is known of one architecture.

    Raises:
        InputError: No such name.
        MissingDependencyError: torch is not installed.
    """
    return _find(name)[0]


def resolve_config(name: str, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the architecture's whole configuration: its defaults, with `config` over them.

    Raises:
        InputError: No such architecture, or no such key.
        MissingDependencyError: torch is not installed.
    """
    info = _find(name)[0]
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
        return _find(name)[1](**resolved)
    except (TypeError, ValueError, RuntimeError) as error:
        settings = ", ".join(f"{key}={json.dumps(value, default=str)}" for key, value in config.items())
        raise InputError(
            f"model {name!r} cannot be built with {settings or 'its defaults'}: {error}.",
            "Correct the configuration; `edgeconv models` lists the keys and their defaults.",
        ) from error


def rename_state(name: str, module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict under the names that a model has, if an implementation that is known wrote it; else as it is.

    Args:
        name: The architecture.
        module: A model of it.
        state: Parameters and buffers by their names in the file.
    """
    for renaming in _find(name)[2]:
        renamed = {renaming(module, key): value for key, value in state.items()}
        if None not in renamed and len(renamed) == len(state):
            return {str(key): value for key, value in renamed.items()}
    return dict(state)


def _find(name: str) -> tuple[ModelInfo, Callable[..., nn.Module], Sequence[Renaming]]:
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
