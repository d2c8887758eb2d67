"""Graph passes over ONNX models, one pass a module. They need the base dependencies; function bodies need `[export]`.

Each pass takes a model, leaves it as it is, and returns a new one with a report: what it rewrote, and what it left and
why.
"""

from __future__ import annotations

from edgeconv.rewrite.fold_whitening import fold_whitening
from edgeconv.rewrite.fuse_qlinear_kervolution import fuse_qlinear_kervolution
from edgeconv.rewrite.fuse_qlinear_manhattan import fuse_qlinear_manhattan
from edgeconv.rewrite.fuse_qlinear_mobile import fuse_qlinear_mobile

__all__ = ["fold_whitening", "fuse_qlinear_kervolution", "fuse_qlinear_manhattan", "fuse_qlinear_mobile"]
