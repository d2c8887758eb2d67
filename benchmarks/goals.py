"""What the op library's kervolutions have to reach, each a figure of one row of one run of `kervolution_cpu.py`."""

from __future__ import annotations

from dataclasses import dataclass

from layers import HELD, LAYERS
from outcomes import Bound

K3 = ("56", "28", "14", "7")
ALL = tuple(LAYERS)
FROM_DOT = ("polynomial", "sigmoid", "gaussian", "euclidean")
KERNELS = (*FROM_DOT, "manhattan", "chebyshev")

TO_CONV = "library / Conv"
TO_STANDARD = "standard / library"
TO_COMPILE = "torch.compile / library"
ERROR = "error / rms"
SCALING = "one thread / two"
TO_PLAIN = "network / plain network"


@dataclass(frozen=True)
class Goal(Bound):
    """A bound on a metric.

    Attributes:
        kernels: Kernels that it is for.
        precision: Precision that it is for.
        layers: Layers (or networks) that it is for.
        metric: One of the names above.
        sense: "<=" or ">=".
        bound: The bound.
        threads: Numbers of threads that it is for.
    """

    kernels: tuple[str, ...]
    precision: str
    layers: tuple[str, ...]
    metric: str
    sense: str
    bound: float
    threads: tuple[int, ...] = (1,)

    def concerns(self, kernel: str, precision: str, layer: str, threads: int) -> bool:
        """Whether it is for such a row."""
        known = precision == self.precision and threads in self.threads
        return known and kernel in self.kernels and layer in self.layers

    def describe(self) -> str:
        """One line for people."""
        return f"{', '.join(self.kernels)} ({self.precision}): {self.metric} {self.sense} {self.bound:g}"


GOALS = (
    Goal(("polynomial", "sigmoid"), "float32", K3, TO_CONV, "<=", 1.00),
    Goal(("polynomial", "sigmoid"), "float32", ("224s2",), TO_CONV, "<=", 0.95),
    Goal(("gaussian", "euclidean"), "float32", K3, TO_CONV, "<=", 1.02),
    Goal(("gaussian", "euclidean"), "float32", ("224s2",), TO_CONV, "<=", 1.05),
    Goal(FROM_DOT, "bf16x3", ("56", "28", "14", "224s2"), TO_CONV, "<=", 0.30),
    Goal(FROM_DOT, "bf16x3", ("7",), TO_CONV, "<=", 0.42),
    Goal(FROM_DOT, "bf16x3", ALL, ERROR, "<=", 3e-5),
    Goal(("manhattan",), "float32", ALL, TO_CONV, "<=", 1.80),
    Goal(("manhattan",), "float32", ("56",), TO_STANDARD, ">=", 20),
    Goal(("manhattan",), "float32", ("56",), TO_COMPILE, ">=", 5),
    Goal(("chebyshev",), "float32", ALL, TO_CONV, "<=", 1.80),
    Goal(("chebyshev",), "float32", ("56",), TO_STANDARD, ">=", 30),
    Goal(("chebyshev",), "float32", ("56",), TO_COMPILE, ">=", 7),
    Goal(("manhattan",), "uint8", ALL, TO_CONV, "<=", 0.45),
    Goal(("manhattan",), "uint8 with Q/DQ", ALL, TO_CONV, "<=", 0.55),
    Goal(KERNELS, "float32", ALL, SCALING, ">=", 1.8, threads=(2,)),
    Goal(KERNELS, "float32", tuple(HELD), TO_STANDARD, ">=", 1.0, threads=(1, 2)),
    Goal(("polynomial",), "float32", ("ResNet-18",), TO_PLAIN, "<=", 1.00),
    Goal(("polynomial",), "bf16x3", ("ResNet-18",), TO_PLAIN, "<=", 0.45),
)
"""The five layers' goals; on the held set never to be slower than standard operators; the whole network."""
