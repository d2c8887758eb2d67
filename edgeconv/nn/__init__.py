"""Layers with parameters. Needs the `export` extra (torch)."""

from edgeconv.nn.channel_deconvolution import ChannelDeconv
from edgeconv.nn.convert import convert
from edgeconv.nn.deconvolution import Deconv2d, DeconvLinear
from edgeconv.nn.kervolution import Kerv1d, Kerv2d
from edgeconv.nn.whitening import set_deconv_stats

__all__ = ["ChannelDeconv", "Deconv2d", "DeconvLinear", "Kerv1d", "Kerv2d", "convert", "set_deconv_stats"]
