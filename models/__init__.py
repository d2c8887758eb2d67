"""Architectures with plain or kervolutional layers, by name. Listing and building them needs the `export` extra."""

from edgeconv.models.registry import ModelInfo, create, list_models, register, resolve_config

__all__ = ["ModelInfo", "create", "list_models", "register", "resolve_config"]
