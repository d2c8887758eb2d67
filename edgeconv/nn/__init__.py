"""Layers with parameters. Needs the `export` extra (torch)."""

from edgeconv.nn.convert import convert
from edgeconv.nn.kervolution import Kerv1d, Kerv2d

__all__ = ["Kerv1d", "Kerv2d", "convert"]
