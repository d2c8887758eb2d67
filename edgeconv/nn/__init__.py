"""Layers with parameters. Needs the `export` extra (torch)."""

from edgeconv.nn.convert import convert
from edgeconv.nn.deconvolution import ChannelDeconv, Deconv2d, DeconvLinear, set_deconv_stats
from edgeconv.nn.kervolution import Kerv1d, Kerv2d

__all__ = ["ChannelDeconv", "Deconv2d", "DeconvLinear", "Kerv1d", "Kerv2d", "convert", "set_deconv_stats"]
