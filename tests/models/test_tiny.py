"""Small forms of every architecture: shapes, variants, golden outputs, fresh weights, and export to ONNX."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from edgeconv.export import pipeline
from edgeconv.models import create, list_models
from edgeconv.models.registry import model_info
from edgeconv.models.vgg import CifarVGG
from edgeconv.nn import Deconv2d, Kerv2d, convert

from .zoo import TINY, Config, pattern, patterned

CLASSES = 5
VARIANTS: dict[str, Config] = {
    "plain": {},
    "kervolution": {"kernel": "sigmoid"},
    "deconvolution": {"deconv_block": 4, "deconv_n_iter": 3},
}


EXPORTED_ELSEWHERE = {"lenet5", "resnet20", "mobilenet_v2"}
"""In tests/export and tests/rewrite."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Layers as small as these only wait for further threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(name: str, **config: object) -> nn.Module:
    tiny, shape = TINY[name]
    return create(name, **{"num_classes": CLASSES, "in_channels": shape[0], **tiny, **config})


def test_every_class_is_here() -> None:
    with torch.device("meta"):
        built = {type(create(info.name)) for info in list_models()}
        assert {type(build(name)) for name in TINY} == {*built, CifarVGG}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", TINY)
def test_variants(name: str, variant: str) -> None:
    """Fresh weights give outputs that are neither all zero nor infinite; convolutions are what was asked for."""
    torch.manual_seed(0)
    model = build(name, **VARIANTS[variant]).eval()
    x = torch.randn(2, *TINY[name][1])
    with torch.no_grad():
        y = model(x)
    assert y.shape == ((2, CLASSES, *x.shape[2:]) if name.startswith("deeplab") else (2, CLASSES))
    assert bool(y.isfinite().all())
    assert float(y.abs().max()) > 0
    plain = [m for m in build(name).modules() if type(m) is nn.Conv2d]
    kind = {"plain": nn.Conv2d, "kervolution": Kerv2d, "deconvolution": Deconv2d}[variant]
    assert sum(type(module) is kind for module in model.modules()) == len(plain)


@pytest.mark.parametrize("name", ["alexnet", "googlenet", "vgg13", "preact_resnet18", "dpn92", "mobilenet_v1"])
def test_fresh_weights_at_full_width(name: str) -> None:
    """At the paper's width, on a small input: outputs differ between images, and are finite."""
    torch.manual_seed(0)
    small = {"blocks": [1, 1, 1, 1]} if name == "dpn92" else {}
    model = create(name, num_classes=CLASSES, **small).eval()
    with torch.no_grad():
        y = model(torch.randn(2, 3, 64, 64))
    assert bool(y.isfinite().all())
    assert float((y[0] - y[1]).abs().max()) > 1e-6


@pytest.mark.parametrize("name", TINY)
def test_training_step(name: str) -> None:
    """Every parameter but those of layers that see one pixel gets a gradient, auxiliary heads' too."""
    torch.manual_seed(0)
    model = build(name).train()
    outputs = model(torch.randn(3, *TINY[name][1]))
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    assert len(heads) == {"googlenet": 3, "deeplabv3_resnet50": 2}.get(name, 1)
    assert all(head.shape == heads[0].shape for head in heads)
    sum(head.square().mean() for head in heads).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


GOLDEN: dict[str, list[float]] = {
    "alexnet": [1.7338505, 0.29726441, 0.18119682, 2.0061535, 0.5161027, 0.093871686],
    "zfnet": [1.5820923, 0.58496596, -0.12476414, 1.6381276, 0.48572986, -0.14706055],
    "nin": [0.69225531, 0.41790411, 3.0318299e-05, 0.72029147, 0.41372165, 0.00024909146],
    "googlenet": [0.4341589, -0.046196965, -0.52323169, 0.41328681, -0.043166926, -0.51003106],
    "vgg13": [0.47598004, -0.91177404, -0.033380435, 0.65112713, -0.79823032, -0.026473329],
    "vgg11": [2.4162352, 0.063775039, -2.4968103, 2.9840139, 0.51981563, -2.0145776],
    "resnet18": [47.962911, -32.045126, 11.747119, 46.98962, -30.383709, 9.9505489],
    "preact_resnet18": [16.669412, -1.8428457, -7.3178006, 14.308918, -3.0146294, -5.2058731],
    "resnext29_8x64d": [23.063597, -5.8217749, 13.096716, 21.06569, -3.7144084, 10.926388],
    "senet18": [0.88066617, 0.3989323, 1.0144233, 0.28545965, 0.003777185, 1.3780144],
    "densenet121": [0.86781955, -0.071068389, -0.078228788, 1.082123, -0.17168828, -0.2150524],
    "dpn92": [-0.096180375, 0.92105988, 1.1469823, 0.13851583, 0.75105668, 1.152718],
    "pnasnet": [0.82010313, 3.4122094, 4.8448411, -0.27308278, 3.1601461, 3.8522589],
    "mobilenet_v1": [0.07756244, 0.06504634, 0.046568335, 0.076790915, 0.062787977, 0.047533194],
    "mobilenet_v2": [4.2942268, 1.4954779, 2.4861776, 4.9029352, 1.5626481, 2.430678],
    "efficientnet_b0": [0.083421986, 0.06129808, -0.012515909, 0.083306562, 0.061210716, -0.012342876],
    "deeplabv3_resnet50": [1.6578246, -2.7771605, -0.84507506, 1.2228753, -2.2045652, -0.71275224],
}
"""Of `patterned` models in float64: the first, the middle and the last value of both images."""


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_output(name: str) -> None:
    """Each architecture computes what it computed when it was written."""
    model = patterned(build(name).double())
    with torch.no_grad():
        y = model(pattern((2, *TINY[name][1]), 7)).flatten(1)
    actual = y[:, [0, y.shape[1] // 2, -1]].flatten()
    torch.testing.assert_close(actual, torch.tensor(GOLDEN[name], dtype=torch.float64), rtol=1e-6, atol=1e-9)


def test_golden_outputs_are_complete() -> None:
    # The others have theirs in test_architectures.py.
    assert set(GOLDEN) == set(TINY) - {"lenet5", "resnet20"}
    assert all(values[:3] != values[3:] for values in GOLDEN.values())  # the outputs hang on the inputs


@pytest.mark.parametrize("name", sorted(set(TINY) - EXPORTED_ELSEWHERE))
def test_export(name: str, tmp_path: Path) -> None:
    """One file with a kervolution (the first layer) and a deconvolution (the second), run on another batch size."""
    model = build(name, kernel="polynomial", degree=2, where="first")
    second = next(layer for layer, module in model.named_modules() if type(module) is nn.Conv2d)
    model = patterned(convert(model, to="deconvolution", where=lambda layer, _: layer == second, block=4))
    kinds = [type(module) for module in model.modules()]
    assert (kinds.count(Kerv2d), kinds.count(Deconv2d)) == (1, 1)
    shape = TINY[name][1]
    report = pipeline.to_onnx(model, pattern((2, *shape), 3).float(), tmp_path / "model.onnx", verify=False)
    assert next(iter(report.inputs.values()))[0] == "batch"
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    x = pattern((3, *shape), 5).float()
    (actual,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        expected = model(x).numpy()
    largest = float(np.abs(expected).max())
    assert 0 < largest < np.inf
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * largest)


def test_bad_configuration() -> None:
    for name, config, cause in (
        ("alexnet", {"columns": 3}, "columns must be 1 or 2; got 3"),
        ("zfnet", {"width": 0}, "width must be positive; got 0"),
        ("resnet18", {"stem": "mnist"}, "stem must be one of imagenet, cifar; got 'mnist'"),
        ("vgg16", {"form": "mnist"}, "form must be one of imagenet, cifar"),
        ("pnasnet", {"cell": "C"}, "cell must be one of A, B"),
        ("senet18", {"reduction": 0}, "reduction must be a whole number from 1 up; got 0"),
        ("densenet121", {"growth": 0}, "growth and each of blocks must be at least 1; got 0"),
        ("dpn92", {"blocks": [1, 2]}, "blocks must be 4 numbers from 1 up"),
        ("mobilenet_v1", {"activation": "gelu"}, "activation must be one of relu6, relu"),
    ):
        with pytest.raises(Exception, match=cause):
            create(name, **config)  # type: ignore[arg-type]


def test_forms() -> None:
    """Keys that change an architecture's form."""
    with torch.device("meta"):
        large = model_info("vgg13").input_shape
        assert create("vgg13", form="cifar", num_classes=10).eval()(torch.empty(2, 3, 32, 32)).shape == (2, 10)
        assert create("vgg13").eval()(torch.empty(1, *large)).shape == (1, 1000)
        for name in ("resnet18", "preact_resnet18", "senet18", "densenet121", "dpn92"):
            model = create(name, stem="cifar", num_classes=10).eval()
            first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
            assert (first.kernel_size, first.stride) == ((3, 3), (1, 1))
            assert not any(isinstance(module, nn.MaxPool2d) for module in model.modules())
            assert model(torch.empty(2, 3, 32, 32)).shape == (2, 10)


def test_first_activation_of_the_preact_resnet() -> None:
    """The appendix's form differs from timm's by the first shortcut alone."""
    model = patterned(build("preact_resnet18"))
    other = patterned(build("preact_resnet18", activate_first=True))
    x = pattern((2, 3, 33, 40), 1).float()
    with torch.no_grad():
        stem = model.maxpool(model.conv1(x))  # type: ignore[operator]
        first, second = model.layer1[0], other.layer1[0]  # type: ignore[index]
        activated = torch.relu(first.bn1(stem))  # type: ignore[operator, union-attr]
        torch.testing.assert_close(second(stem) - first(stem), activated - stem)  # type: ignore[operator]
