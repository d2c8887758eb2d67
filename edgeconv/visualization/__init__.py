"""The deconvnet: which image patches excite a feature, and what in them does (Zeiler and Fergus, arXiv 1311.2901)."""

from edgeconv.visualization.project import Projection, project, project_feature
from edgeconv.visualization.stack import Stack
from edgeconv.visualization.tracing import Trace, trace

__all__ = ["Projection", "Stack", "Trace", "project", "project_feature", "trace"]
