"""`edgeconv.visualize_model`: what it finds, draws and writes, and one message for each way to ask wrongly."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

import edgeconv
from edgeconv.errors import InputError, ParityError
from edgeconv.models.registry import create
from edgeconv.visualization import project, trace
from edgeconv.visualization.api import visualize_model
from edgeconv.visualization.picture import Patch, around_grey, as_image, draw_features, grid
from edgeconv.visualization.window import Box

GREY = {"mean": [0.1307], "std": [0.3081]}
COLOUR = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]}


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of one channel, with a file of images beside it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("lenet") / "lenet.pt"
    model = create("lenet5")
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (13, 28, 28), dtype=np.uint8)
    np.savez(path.with_name("images.npz"), images=pixels, labels=np.zeros(13, np.int64))
    samples = {"images": torch.from_numpy(pixels[:3, None]), "labels": torch.zeros(3, dtype=torch.int64)}
    edgeconv.save_checkpoint(
        path, model, architecture="lenet5", config={}, input_shape=(1, 28, 28), normalization=GREY, samples=samples
    )
    return path


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of three channels, with a directory of pictures beside it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("alexnet") / "alexnet.pt"
    config = {"width": 0.125}
    edgeconv.save_checkpoint(
        path,
        create("alexnet", **config),
        architecture="alexnet",
        config=config,
        input_shape=(3, 70, 90),
        normalization=COLOUR,
    )
    pictures = path.with_name("pictures")
    pictures.mkdir()
    generator = np.random.default_rng(0)
    for index in range(5):
        Image.fromarray(generator.integers(0, 256, (90, 100, 3), np.uint8)).save(pictures / f"{index}.png")
    return path


def text_of(report: Any) -> str:
    console = Console(file=io.StringIO(), width=140)
    report.render(console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_one_channel_from_an_array(lenet: Path, tmp_path: Path) -> None:
    out = tmp_path / "c3.png"
    report = visualize_model(lenet, "c3", [lenet.with_name("images.npz")], output=out, filters=tmp_path / "f.svg")
    assert out.stat().st_size > 2000
    assert Image.open(out).size[0] > 500
    assert (tmp_path / "f.svg").read_text().startswith("<?xml")
    assert (report.features, report.map_size, report.receptive_field) == (16, (10, 10), (14, 14))
    assert (report.images, len(report.shown)) == (13, 9)
    assert report.operations == {"convolution": 2, "ReLU": 2, "max pooling": 1}
    # What the report says is what the projection finds.
    content = np.load(lenet.with_name("images.npz"))["images"][:, None]
    images = torch.from_numpy((content.astype(np.float32) / 255 - 0.1307) / 0.3081)
    module = edgeconv.load_checkpoint(lenet).module
    for shown in report.shown[:2]:
        found = project(module, "c3", images, shown.feature)
        order = found.activation.argsort(descending=True, stable=True)[:9]
        assert [each.image.split()[1] for each in shown.strongest] == [str(int(index)) for index in order]
        for each, index in zip(shown.strongest, order, strict=True):
            assert each.activation == pytest.approx(float(found.activation[index]), rel=1e-4)
            assert [each.row, each.column] == found.position[index].tolist()
            assert each.patch == (2 * each.row - 2 + (each.row == 0) * 2, 2 * each.column - 2 + (each.column == 0) * 2,
                                  min(2 * each.row + 11, 27), min(2 * each.column + 11, 27))  # fmt: skip
    assert json.loads(json.dumps(report.to_dict()))["shown"][0]["strongest"][0]["row"] is not None
    text = text_of(report)
    for part in ("16 features of 10x10", "14x14 of 28x28", "Strongest activations", "13 images searched", "c3.png"):
        assert part in text


def test_three_channels_from_pictures(alexnet: Path, tmp_path: Path) -> None:
    pictures = alexnet.with_name("pictures")
    report = visualize_model(
        alexnet,
        "features.4",
        [pictures, pictures / "0.png"],
        output=tmp_path / "out.png",
        features=[3, 0, 3],
        top=4,
        filters=tmp_path / "filters.png",
        export_onnx=tmp_path / "projection.onnx",
    )
    assert [shown.feature for shown in report.shown] == [3, 0]
    assert [len(shown.strongest) for shown in report.shown] == [4, 4]
    assert report.images == 6
    assert report.onnx is not None
    assert report.onnx.feature == 3
    assert report.onnx.parity.passed
    assert {comparison.inputs for comparison in report.onnx.parity.comparisons} == {"random", "real"}
    model = onnx.load(tmp_path / "projection.onnx")
    properties = {each.key: each.value for each in model.metadata_props}
    assert json.loads(properties["edgeconv.normalization"]) == COLOUR
    assert (properties["edgeconv.layer"], properties["edgeconv.input_shape"]) == ("features.4", "[1, 3, 70, 90]")
    assert "the projection, of feature 3" in text_of(report)
    json.dumps(report.to_dict())


def test_an_export_needs_no_images(lenet: Path, tmp_path: Path) -> None:
    report = visualize_model(lenet, "s2", export_onnx=tmp_path / "s2.onnx", features=[2])
    assert report.onnx is not None
    assert {comparison.inputs for comparison in report.onnx.parity.comparisons} == {"random", "real"}
    assert (report.images, report.shown) == (0, [])


def test_a_layer_alone_is_described(lenet: Path) -> None:
    report = visualize_model(lenet, "c3")
    assert (report.features, report.images, report.output) == (16, 0, None)
    assert text_of(report).startswith("c3: 16 features of 10x10, each activation sees 14x14 of 28x28 pixels")


def test_filters_need_neither_layer_nor_images(lenet: Path, tmp_path: Path) -> None:
    report = visualize_model(lenet, filters=tmp_path / "filters.png")
    assert report.filters is not None
    assert "first filters" in text_of(report)
    kervolution = Path(__file__).parents[2] / "examples/lenet_kerv.pt"
    assert visualize_model(kervolution, filters=tmp_path / "kerv.png").filters is not None
    assert (tmp_path / "kerv.png").stat().st_size > 1000


def test_the_filters_are_those_of_the_first_layer(lenet: Path) -> None:
    module = edgeconv.load_checkpoint(lenet).module
    name, weights = trace(module, torch.zeros(1, 1, 28, 28)).first_filters()
    assert name == "c1"
    assert torch.equal(weights, module.c1.weight)


def test_a_bare_state_dict_at_another_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(create("vgg11", width=0.125, form="cifar").state_dict(), tmp_path / "vgg.pth")
    generator = np.random.default_rng(0)
    np.save(tmp_path / "pixels.npy", generator.integers(0, 256, (3, 36, 44, 3), dtype=np.uint8))
    options: dict[str, Any] = {"architecture": "vgg11", "config": {"width": 0.125, "form": "cifar"}, "size": (36, 44)}
    with pytest.raises(InputError, match="does not say how they are normalised"):
        visualize_model(tmp_path / "vgg.pth", "features.4", [tmp_path / "pixels.npy"], **options)
    report = visualize_model(
        tmp_path / "vgg.pth", "features.4", [tmp_path / "pixels.npy"], mean=[0.5], std=[0.5], count=2, **options
    )
    assert report.input_shape == (3, 36, 44)
    assert len(report.shown) == 2


def test_a_program(lenet: Path, tmp_path: Path) -> None:
    module = edgeconv.load_checkpoint(lenet).module
    torch.export.save(torch.export.export(module, (torch.zeros(1, 1, 28, 28),)), tmp_path / "m.pt2")
    np.save(tmp_path / "values.npy", np.random.default_rng(0).standard_normal((4, 1, 28, 28), np.float32))
    report = visualize_model(tmp_path / "m.pt2", "c3", tmp_path / "values.npy", output=tmp_path / "out.png", count=1)
    assert (report.input_shape, report.images) == ((1, 28, 28), 4)
    with pytest.raises(InputError, match="has its input's size fixed"):
        visualize_model(tmp_path / "m.pt2", "c3", [tmp_path / "values.npy"], size=(32, 32))
    half = torch.export.export(module.half(), (torch.zeros(1, 1, 28, 28).half(),))
    torch.export.save(half, tmp_path / "half.pt2")
    with pytest.raises(InputError, match="computes in float16"):
        visualize_model(tmp_path / "half.pt2", "c3", [tmp_path / "values.npy"])


def test_a_file_that_fails_is_not_kept(lenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeconv.visualization import onnx_file

    build = onnx_file.build_projection

    def wrong(*arguments: Any) -> onnx.ModelProto:
        model = build(*arguments)
        next(node for node in model.graph.node if node.op_type == "ArgMax").op_type = "ArgMin"
        return model

    monkeypatch.setattr(onnx_file, "build_projection", wrong)
    with pytest.raises(ParityError, match="not that of the largest activation"):
        visualize_model(lenet, "c3", export_onnx=tmp_path / "c3.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "c9"}, "has no layer 'c9'"),
        ({"layer": "f6"}, "'f6' cannot be shown"),
        ({"layer": None}, "no layer is named"),
        ({"layer": "c3", "features": [16]}, "no feature 16"),
        ({"layer": "c3", "features": [-1]}, "no feature -1"),
        ({"layer": "c3", "images": []}, "--output needs images"),
        ({"layer": "c3", "images": ["none.npz"]}, "does not exist"),
        ({"layer": "c3", "top": 0}, "--top must be 1 or more"),
        ({"layer": "c3", "count": 0}, "--count must be 1 or more"),
        ({"layer": "c3", "batch": 0}, "--batch must be 1 or more"),
        ({"layer": "c3", "output": "out.jpeg"}, "is not a picture"),
        ({"layer": "c3", "output": "none/out.png"}, "cannot write"),
        ({"layer": "c3", "filters": "out.png"}, "name the same file"),
        ({"layer": "c3", "filters": "none/out.png"}, "cannot write"),
        ({"layer": "c3", "output": None, "images": [], "features": [3]}, "--feature needs images"),
        ({"layer": "c3", "mean": (0.1, 0.2), "std": (0.1, 0.2)}, "--mean has 2 values"),
        ({"layer": "c3", "export_onnx": "."}, "is a directory"),
        ({"layer": "c3", "size": (32, 32)}, "cannot be traced"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_one_message_and_no_file(
    options: dict[str, Any], message: str, lenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = [lenet.with_name("images.npz")]
    with pytest.raises(InputError, match=message):
        visualize_model(lenet, **{"images": images, "output": "out.png", **options})
    assert list(tmp_path.iterdir()) == []


def test_inputs_are_not_overwritten(lenet: Path, tmp_path: Path) -> None:
    images = lenet.with_name("images.npz")
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(tmp_path / "in.png")
    before = {path: path.read_bytes() for path in (lenet, images, tmp_path / "in.png")}
    for options in ({"export_onnx": lenet}, {"export_onnx": images}, {"output": tmp_path / "in.png"}):
        with pytest.raises(InputError, match="is a file that is read"):
            visualize_model(lenet, "c3", [images, tmp_path / "in.png"], **options)
    assert {path: path.read_bytes() for path in before} == before


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    module = create("lenet5")
    with torch.no_grad():
        next(module.parameters())[0] = torch.nan
    path = tmp_path / "nan.pt"
    edgeconv.save_checkpoint(
        path, module, architecture="lenet5", config={}, input_shape=(1, 28, 28), normalization=GREY
    )
    np.save(tmp_path / "images.npy", np.zeros((2, 28, 28), np.uint8))
    with pytest.raises(InputError, match="'c3' computes NaN"):
        visualize_model(path, "c3", [tmp_path / "images.npy"], output=tmp_path / "out.png")
    with pytest.raises(InputError, match="filters of c1 have NaN"):
        visualize_model(path, filters=tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_an_unreadable_picture(lenet: Path, tmp_path: Path) -> None:
    """One that is named is an error; of a directory it is skipped, counted and named."""
    for name in ("a.png", "b.png"):
        Image.fromarray(np.arange(784, dtype=np.uint8).reshape(28, 28)).save(tmp_path / name)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"no image of .*a\.png can be read \(1 were tried: Unidentified"):
        visualize_model(lenet, "c3", [tmp_path / "b.png", tmp_path / "a.png"])
    report = visualize_model(lenet, "c3", [tmp_path])
    assert report.images == 1
    assert list(report.skipped) == [str(tmp_path / "a.png")]
    assert "1 unreadable skipped, the first" in text_of(report)
    assert "a.png" in text_of(report)


def test_filters_behind_a_padding(tmp_path: Path) -> None:
    first = nn.Conv2d(3, 4, 3, stride=2)
    module = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Dropout(), first, nn.ReLU())
    name, weights = trace(module, torch.zeros(1, 3, 9, 8)).first_filters()
    assert name == "2"
    assert torch.equal(weights, first.weight)


def test_filters_of_many_channels_are_refused(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(4, 2, 3))
    torch.export.save(torch.export.export(module, (torch.zeros(1, 4, 8, 9),)), tmp_path / "m.pt2")
    with pytest.raises(InputError, match="have 4 channels"):
        visualize_model(tmp_path / "m.pt2", filters=tmp_path / "f.png")
    assert not (tmp_path / "f.png").exists()


def test_pictures() -> None:
    assert np.array_equal(around_grey(np.array([-2.0, 0, 1])), [0, 0.5, 0.75])
    assert np.array_equal(around_grey(np.zeros(3)), [0.5] * 3)
    assert as_image(np.zeros((1, 4, 5))).shape == as_image(np.zeros((2, 4, 5))).shape == (4, 5, 3)
    tiles = [np.full((4, 6, 3), index / 10, np.float32) for index in range(5)]
    whole = grid(tiles)
    assert whole.shape == (2 * 4 + 1, 3 * 6 + 2, 3)
    assert np.allclose(whole[5:, :6], 0.3)
    assert np.allclose(whole[:4, 14:], 0.2)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_patches_at_the_borders(suffix: str, tmp_path: Path) -> None:
    """Patches that are cut off, and a receptive field larger than the image."""
    size = (10, 12)
    for field in (Box(-3, -2, 3, 3), Box(-8, -9, 14, 15), Box(6, 8, 12, 14)):
        box = field.clip(size)
        values = np.random.default_rng(0).standard_normal((3, box.height, box.width))
        patch = Patch(values, values, box, field)
        draw_features([("feature 1", [patch] * 2), ("feature 2", [patch])], size, tmp_path / f"out{suffix}")
        assert (tmp_path / f"out{suffix}").stat().st_size > 500
