"""Which layers there are, what leads to them, and what is refused, with one message that names the layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor, nn

from edgeconv.errors import InputError
from edgeconv.models.registry import create
from edgeconv.visualization import project, trace

from .networks import CASES, build


def outputs(module: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return what each module gives that runs once."""
    seen: dict[str, list[Tensor]] = {}

    def keep(name: str, value: Tensor) -> None:
        seen.setdefault(name, []).append(value.clone())

    handles = [
        each.register_forward_hook(lambda _module, _inputs, output, name=name: keep(name, output))
        for name, each in module.named_modules()
        if not list(each.children())
    ]
    with torch.no_grad():
        module(images)
    for handle in handles:
        handle.remove()
    return {name: values[0] for name, values in seen.items() if len(values) == 1}


NETWORKS = {
    "lenet5": ((1, 28, 28), {"pool": "avg", "batch_norm": True}, 2),
    "alexnet": ((3, 70, 80), {"width": 0.125}, 10),
    "zfnet": ((3, 80, 95), {"width": 0.125}, 10),
    "vgg11": ((3, 32, 40), {"width": 0.125, "form": "cifar"}, 12),
    "nin": ((3, 32, 32), {"width": 0.125}, 11),
    "resnet18": ((3, 40, 48), {}, 3),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_stacks_compute_what_the_layers_do(name: str) -> None:
    shape, config, least = NETWORKS[name]
    torch.manual_seed(0)
    module = create(name, **config).eval()
    images = torch.randn(2, *shape)
    traced = trace(module, images)
    expected = outputs(module, images)
    checked = 0
    for layer in traced.shown():
        stack = traced.stack(layer)
        maps = stack.forward(images)
        assert tuple(maps.shape[1:]) == stack.output_shape
        if layer in expected and stack.operations[-1].layer == layer:
            assert_close(maps, expected[layer], np.float32, layer)
            checked += 1
        elif layer in expected:  # with the rectifier, and perhaps the normalisation, behind it
            assert (maps >= 0).all()
    assert checked >= least


@pytest.mark.parametrize("name", CASES)
def test_every_case(name: str) -> None:
    module, images, layer = build(name)
    traced = trace(module, images)
    assert layer in traced.shown()
    stack = traced.stack(layer)
    end = int(layer) + 1
    while end < len(module) and isinstance(module[end], nn.ReLU | nn.ReLU6 | nn.BatchNorm2d):
        end += 1
    with torch.no_grad():
        assert_close(stack.forward(images), module[:end](images), np.float32)


class Functional(nn.Module):
    """Layers and calls mixed, one layer called twice, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps."""
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.relu(self.again(F.dropout(F.relu(self.again(x)), training=self.training)))
        return self.last(x + torch.tanh(x))


def test_functions_and_layers_called_again() -> None:
    torch.manual_seed(0)
    module, images = Functional().eval(), torch.randn(2, 3, 14, 17)
    traced = trace(module, images)
    names = traced.shown()
    assert [name for name in names if "_" not in name and name not in ("relu", "dropout")] == [
        *("first", "again", "again@1")
    ]
    stack = traced.stack("again@1")
    assert [type(each).__name__ for each in stack.operations] == [
        *("Convolution", "Rectifier", "MaxPooling", "Convolution", "Rectifier", "Convolution", "Rectifier")
    ]
    relu = F.relu(module.again(F.relu(module.again(F.max_pool2d(F.relu(module.first(images)), 2)))))
    assert_close(stack.forward(images).detach(), relu.detach(), np.float32)
    with pytest.raises(InputError, match=r"'last' cannot be shown: .*add.*2 layers.*\n.*first.*again@1"):
        traced.stack("last")


def test_a_container_is_its_last_layer() -> None:
    module = create("nin", width=0.125)
    traced = trace(module, torch.zeros(1, 3, 32, 32))
    assert traced.stack("features.0").operations[-1].layer == "features.0.5"


def test_a_program_from_a_file(tmp_path: Path) -> None:
    module, images, layer = build("columns")
    torch.export.save(torch.export.export(module, (images,)), tmp_path / "m.pt2")
    program = torch.export.load(tmp_path / "m.pt2")
    found, expected = (project(each, layer, images, 1) for each in (program, module))
    assert torch.equal(found.reconstruction, expected.reconstruction)
    assert float(found.reconstruction.abs().max()) > 0


def test_deconvolutions_with_frozen_statistics_are_convolutions() -> None:
    torch.manual_seed(0)
    module = create("lenet5", deconv_block=3)
    for _ in range(2):
        module(torch.randn(8, 1, 28, 28))
    module.eval()
    images = torch.randn(2, 1, 28, 28)
    stack = trace(module, images).stack("c3")
    with torch.no_grad():
        expected = F.relu(module.c3(module.s2(F.relu(module.c1(images)))))
    assert_close(stack.forward(images), expected, np.float32)
    assert float(project(module, "c3", images, 0).reconstruction.abs().max()) > 0


REFUSED = {
    "tanh": (
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Conv2d(2, 2, 3)),
        "2",
        r"1 \(aten.tanh.*is no convolution",
    ),
    "clip": (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Hardtanh(-1, 1)), "1", "clips to -1"),
    "reflected": (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect")), "0", "else than zeros"),
    "uneven": (nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(5)), "1", "windows that differ in size"),
    "upwards": (nn.Sequential(nn.ConvTranspose2d(1, 2, 3)), "0", "is no convolution"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_layer_and_reason(name: str) -> None:
    module, layer, reason = REFUSED[name]
    with pytest.raises(InputError, match=rf"layer '{layer}' cannot be shown: .*{reason}"):
        trace(module, torch.zeros(1, 1, 16, 18)).stack(layer)


def test_layers_behind_flatten_and_unknown_ones() -> None:
    traced = trace(create("lenet5"), torch.zeros(1, 1, 28, 28))
    with pytest.raises(InputError, match=r"'output' cannot be shown: flatten .* leaves no maps.*\n.*c1, .*c5"):
        traced.stack("output")
    with pytest.raises(InputError, match=r"no layer 'c2'.\n.*can be shown: c1, activation, s2, c3"):
        traced.stack("c2")


def test_kervolutions_and_batch_statistics() -> None:
    example = torch.zeros(1, 1, 28, 28)
    with pytest.raises(InputError, match=r"c1 is a kervolution \(GaussianKervolution\).*\nNo layer"):
        trace(create("lenet5", kernel="gaussian", gamma=0.1), example).stack("c3")
    module = create("lenet5", deconv_block=3)
    from edgeconv.nn import set_deconv_stats

    set_deconv_stats(module, "batch")
    with pytest.raises(InputError, match=r"'c3' cannot be shown: c1 "):
        trace(module, example).stack("c3")


class TwoImages(nn.Module):
    """Takes two inputs."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return their sum."""
        return x + y


def test_models_of_another_kind() -> None:
    program = torch.export.export(TwoImages(), (torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)))
    with pytest.raises(InputError, match="takes 2 inputs"):
        trace(program, torch.zeros(1, 1, 4, 4))
    with pytest.raises(InputError, match=r"cannot be traced on an input of shape 1x1x32x32: .*28x28"):
        trace(create("lenet5"), torch.zeros(1, 1, 32, 32))
