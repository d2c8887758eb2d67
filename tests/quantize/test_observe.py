"""What is observed against the values themselves; interruption; values that are not finite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeconv.errors import InputError
from edgeconv.quantize import observe as observing
from edgeconv.quantize import running
from edgeconv.quantize.images import ImageArray, ImageSource, open_images
from edgeconv.quantize.observe import Observation, observe
from edgeconv.quantize.prepare import PreparedModel, prepare_model
from edgeconv.quantize.running import with_outputs

from .models import SPEC, build, image_batch, inverted_residuals, run

Array = NDArray[Any]
TENSORS = ["x", "ac", "p", "s", "m"]


def source(tmp_path: Path, count: int = 10) -> ImageSource:
    np.save(tmp_path / "x.npy", image_batch(count))
    return open_images(tmp_path / "x.npy", SPEC)


def look(prepared: PreparedModel, images: ImageSource, state: Path | None = None) -> dict[str, Observation]:
    return observe(prepared, TENSORS, images, batch=4, producers={}, state=state)[0]


def same(one: Observation, two: Observation) -> bool:
    arrays = all(np.array_equal(getattr(one, name), getattr(two, name)) for name in ("low", "high", "total", "squares"))
    a, b = one.histogram, two.histogram
    return bool(
        arrays and one.count == two.count and np.array_equal(a.counts, b.counts)
        and (a.low, a.high, a.limit) == (b.low, b.high, b.limit)
    )  # fmt: skip


@pytest.mark.parametrize("memory", [2**29, 2**12])
def test_all_values_are_seen(memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "MEMORY", memory)  # the small one: a run for each tensor
    prepared, images = prepare_model(inverted_residuals()), image_batch(10)
    seen = look(prepared, source(tmp_path))
    for name in TENSORS:
        values = images if name == "x" else run(with_outputs(prepared.model, [name], prepared.types), images)
        axes = tuple(axis for axis in range(values.ndim) if axis != 1)
        found = seen[name]
        assert (found.histogram.low, found.histogram.high) == (values.min(), values.max())
        assert found.histogram.counts.sum() == values.size
        assert np.allclose(found.low, values.min(axes))
        assert np.allclose(found.high, values.max(axes))
        assert np.allclose(found.mean, values.mean(axes, dtype=np.float64), atol=1e-6)
        assert np.allclose(found.std, values.std(axes, dtype=np.float64), atol=1e-4)


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, state = prepare_model(inverted_residuals()), tmp_path / "out.onnx.resume"
    expected = look(prepared, source(tmp_path))
    monkeypatch.setattr(observing, "_SAVE_SECONDS", 0.0)
    whole = ImageArray.images

    def interrupted(self: ImageArray, start: int = 0) -> Iterator[tuple[str, Array]]:
        for index, image in enumerate(whole(self, start), start):
            if index == 9:
                raise KeyboardInterrupt
            yield image

    with monkeypatch.context() as patch:
        patch.setattr(ImageArray, "images", interrupted)
        with pytest.raises(KeyboardInterrupt):
            look(prepared, source(tmp_path), state)
    assert state.is_file()
    read: list[int] = []

    def counted(self: ImageArray, start: int = 0) -> Iterator[tuple[str, Array]]:
        read.append(start)
        return whole(self, start)

    monkeypatch.setattr(ImageArray, "images", counted)
    images = open_images(tmp_path / "x.npy", SPEC)
    seen, count = observe(prepared, TENSORS, images, batch=4, producers={}, state=state)
    assert read == [8]
    assert count == 10
    assert all(same(seen[name], expected[name]) for name in TENSORS)
    assert not state.exists()


@pytest.mark.parametrize("kind", ["other images", "damaged"])
def test_a_state_of_something_else_is_not_used(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, state = prepare_model(inverted_residuals()), tmp_path / "out.onnx.resume"
    monkeypatch.setattr(observing, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(Path, "unlink", lambda *_args, **_keywords: None)
    look(prepared, source(tmp_path, 6), state)
    monkeypatch.undo()
    assert state.is_file()
    if kind == "damaged":
        state.write_bytes(state.read_bytes()[:2000])
    assert look(prepared, source(tmp_path, 10), state)["x"].histogram.counts.sum() == image_batch(10).size


def test_a_layer_that_overflows_is_named(tmp_path: Path) -> None:
    model = build(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 3, 20, 26] x) => (float[N, 3, 20, 26] y) {
            a = Conv (x, w)
            [logarithm] b = Log (a)
            y = Conv (b, w)
        }""",
        {"w": np.eye(3, dtype=np.float32)[:, :, None, None]},
    )
    prepared = prepare_model(model)
    producers = {name: node.name for node in prepared.model.graph.node for name in node.output}
    with pytest.raises(InputError, match="logarithm gives NaN or infinite values") as error:
        observe(prepared, ["a", "b"], source(tmp_path), batch=4, producers=producers)
    assert "--mean" in error.value.remedy


def test_a_fixed_batch_is_filled_and_cut(tmp_path: Path) -> None:
    model = inverted_residuals()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    prepared = prepare_model(model)
    free = look(prepare_model(inverted_residuals()), source(tmp_path))
    fixed = look(prepared, source(tmp_path))
    assert fixed["s"].count == free["s"].count
    assert np.allclose(fixed["s"].mean, free["s"].mean, atol=1e-6)
