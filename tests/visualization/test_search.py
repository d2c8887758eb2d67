"""The strongest activations over several places, against looking at everything at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeconv.errors import InputError
from edgeconv.normalization import Normalization
from edgeconv.quantize.images import InputSpec
from edgeconv.visualization import Stack, trace
from edgeconv.visualization.image_set import ImageSet
from edgeconv.visualization.search import Search, search_images

from .networks import build

SHAPE = (3, 15, 18)
SPEC = InputSpec("image", SHAPE, Normalization((0.5,), (0.25, 0.5, 1.0)))


def stack_of(name: str = "overlapping") -> Stack:
    module, images, layer = build(name)
    return trace(module, images).stack(layer)


def search(stack: Stack, images: ImageSet, top: int = 9, batch: int = 4) -> Search:
    return search_images(stack, images, top, batch, lambda _what, _done: None)


@pytest.fixture
def places(tmp_path: Path) -> list[Path]:
    """An array of pixels, a directory of pictures with a damaged one, prepared values, a picture on its own."""
    generator = np.random.default_rng(0)
    np.save(tmp_path / "pixels.npy", generator.integers(0, 256, (11, *SHAPE), dtype=np.uint8))
    (tmp_path / "pictures").mkdir()
    for index in range(5):
        picture = generator.integers(0, 256, (20 + index, 30, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{index}.png")
    (tmp_path / "pictures" / "2.jpg").write_bytes(b"no picture")
    np.savez(tmp_path / "values.npz", images=generator.standard_normal((7, *SHAPE), np.float32).clip(-0.6, 0.6))
    Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "alone.PNG")
    return [tmp_path / name for name in ("pixels.npy", "pictures", "values.npz", "alone.PNG")]


@pytest.mark.parametrize(("top", "batch"), [(9, 4), (1, 1), (30, 5), (3, 64)])
def test_against_all_at_once(top: int, batch: int, places: list[Path]) -> None:
    stack = stack_of()
    images = ImageSet(places, SPEC)
    found = search(stack, images, top, batch)
    every = list(images.images())
    assert len(every) == found.images == 24
    assert [name for name in images.skipped] == [str(places[1] / "2.jpg")]
    maps = stack.forward(torch.from_numpy(np.stack([array for _, _, array in every]))).detach().numpy()
    assert len(found.features) == stack.features
    for feature, strongest in enumerate(found.features):
        values = maps[:, feature].reshape(24, -1).max(1)
        order = sorted(range(24), key=lambda image: (-values[image], image))[:top]
        assert [each.image for each in strongest] == [every[image][1] for image in order]
        assert len({each.image for each in strongest}) == len(strongest) == min(top, 24)
        for each, image in zip(strongest, order, strict=True):
            assert each.activation == pytest.approx(values[image], rel=1e-5)
            assert maps[image, feature, each.row, each.column] == values[image]
            assert np.array_equal(images.read(each.key), every[image][2])


def test_equal_activations_are_those_of_the_first_images(tmp_path: Path) -> None:
    np.save(tmp_path / "same.npy", np.repeat(np.random.default_rng(0).integers(0, 256, (1, *SHAPE), np.uint8), 12, 0))
    found = search(stack_of(), ImageSet([tmp_path / "same.npy"], SPEC), top=5)
    for strongest in found.features:
        assert [each.key for each in strongest] == [(0, index) for index in range(5)]


def test_the_strongest_features(places: list[Path]) -> None:
    found = search(stack_of(), ImageSet(places, SPEC))
    order = found.strongest_features(100)
    values = [found.features[feature][0].activation for feature in order]
    assert values == sorted(values, reverse=True)
    assert len(order) == len(found.features) - found.silent
    assert found.strongest_features(2) == order[:2]


def test_features_that_are_never_active(places: list[Path]) -> None:
    module, images, layer = build("overlapping")
    with torch.no_grad():
        module[3].bias[1] = -100.0
    found = search(trace(module, images).stack(layer), ImageSet(places, SPEC))
    assert found.silent >= 1
    assert 1 not in found.strongest_features(4)
    with torch.no_grad():
        module[3].bias.fill_(-100.0)
    found = search(trace(module, images).stack(layer), ImageSet(places, SPEC))
    assert (found.silent, found.strongest_features(4)) == (4, [0])


def test_images_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images are given"):
        ImageSet([], SPEC)
    with pytest.raises(InputError, match=r"none\.png does not exist"):
        ImageSet([tmp_path / "none.png"], SPEC)
    with pytest.raises(InputError, match="there is no image in"):
        ImageSet([tmp_path], SPEC)
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"no image of .* can be read"):
        list(ImageSet([tmp_path / "a.png"], SPEC).images())
    np.save(tmp_path / "wrong.npy", np.zeros((2, 3, 9, 9), np.uint8))
    with pytest.raises(InputError, match="has the shape 3x9x9; the model takes 3x15x18"):
        list(ImageSet([tmp_path / "wrong.npy"], SPEC).images())
