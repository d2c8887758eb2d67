"""What others make of the same float file and images: ONNX Runtime's and NNCF's quantisation after training."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeconv.quantize.images import ImageSource

Array = NDArray[np.float32]
Quantize = Callable[[Path, ImageSource, Path], None]
"""Takes the float file and the images, and writes a QDQ file."""


def onnxruntime_static(method: str) -> Quantize:
    """ONNX Runtime's `quantize_static` as its documentation advises for CPUs: QDQ, uint8 activations, int8 by channel.

    Args:
        method: "MinMax", "Entropy" or "Percentile". The latter two keep all activations of all images in memory.
    """

    def quantize(floats: Path, images: ImageSource, output: Path) -> None:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        prepared = output.with_suffix(".prepared.onnx")
        quant_pre_process(str(floats), str(prepared))
        # It fails where the number of images is a multiple of how many it takes at a time.
        some = next(count for count in range(8, 2 * len(images) + 9) if len(images) % count)
        quantize_static(
            str(prepared), str(output), _reader(images), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
            extra_options={"CalibMaxIntermediateOutputs": some} if method == "MinMax" else {},
        )  # fmt: skip

    return quantize


def nncf_static(floats: Path, images: ImageSource, output: Path) -> None:
    """NNCF's `quantize` with its defaults for convolutional networks, on the ONNX file."""
    nncf = importlib.import_module("nncf")
    data = [{images.spec.name: image[None]} for _, image in images.images()]
    onnx.save(nncf.quantize(onnx.load(floats), nncf.Dataset(data), subset_size=len(data)), output)


PEERS: dict[str, Quantize] = {
    "ONNX Runtime min-max": onnxruntime_static("MinMax"),
    "ONNX Runtime entropy": onnxruntime_static("Entropy"),
    "ONNX Runtime percentile": onnxruntime_static("Percentile"),
    "NNCF": nncf_static,
}


def missing(peer: str) -> str:
    """Say why a peer cannot take part here; empty if it can."""
    if peer == "NNCF" and importlib.util.find_spec("nncf") is None:
        return "NNCF is not installed (pip install nncf, into an environment of its own that is put on PYTHONPATH)"
    return ""


def versions() -> dict[str, str]:
    """The peers' versions."""
    names = [name for name in ("onnxruntime", "nncf") if importlib.util.find_spec(name)]
    return {name: importlib.import_module(name).__version__ for name in names}


def _reader(images: ImageSource) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.stream: Iterator[tuple[str, Array]] = iter(images.images())

        def get_next(self) -> dict[str, Array] | None:
            found = next(self.stream, None)
            return None if found is None else {images.spec.name: found[1][None]}

    return Reader()
