"""convert(to="deconvolution"): which layers, what becomes of their batch normalisations, and that outputs stay."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeconv.models.registry import create
from edgeconv.nn import Deconv2d, DeconvLinear, convert


def settle(model: nn.Module) -> nn.Module:
    """Give every batch normalisation statistics and coefficients of its own."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1, generator=generator)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr]
            with torch.no_grad():
                module.weight.uniform_(0.5, 2, generator=generator)
                module.bias.uniform_(-1, 1, generator=generator)
    return model.eval()


class PreActivation(nn.Module):
    """A DenseNet layer: the first normalisation takes a concatenation, the second one convolution's output."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(6)
        self.conv1 = nn.Conv2d(6, 8, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 4, (3, 1), padding=(1, 0), groups=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 6, H, W) to (N, 10, H, W)."""
        y = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return torch.cat([x, y], 1)


class TwoReaders(nn.Module):
    """A convolution whose output is normalised and also used as it is, one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.twice = nn.Conv2d(3, 3, 1)
        self.after = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to the same."""
        y = self.conv(x)
        return self.after(self.twice(self.twice(self.norm(y) + y)))  # type: ignore[no-any-return]


class Untraceable(nn.Module):
    """Its path depends on data, so only the order of registration tells what follows what."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 4, H', W')."""
        return self.features(x if float(x.sum()) > 0 else -x)  # type: ignore[no-any-return]


def norms(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("make", "shape", "kept"),
    [
        (lambda: create("resnet20", in_channels=1), (2, 1, 14, 15), []),
        (lambda: create("resnet18", num_classes=7), (2, 3, 40, 33), []),
        (PreActivation, (2, 6, 7, 9), ["norm1"]),
        (TwoReaders, (2, 3, 7, 9), ["norm", "after"]),
        (Untraceable, (2, 3, 7, 9), []),
    ],
)
def test_evaluation_is_what_it_was(make: type[nn.Module], shape: tuple[int, ...], kept: list[str]) -> None:
    torch.manual_seed(0)
    model = settle(make())
    x = torch.randn(shape)
    expected = model(x)
    converted = convert(model, to="deconvolution", block=16)
    assert converted is model
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))
    assert norms(model) == kept
    assert not any(type(module) in (nn.Conv2d, nn.Linear) for module in model.modules())


def test_trains_after_conversion() -> None:
    torch.manual_seed(0)
    model = convert(create("lenet5"), to="deconvolution", block=4, sampling_stride=2)
    assert isinstance(model.c3, Deconv2d)
    assert isinstance(model.output, DeconvLinear)
    assert (model.c3.block, model.c3.sampling_stride) == (2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    x, y = torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_parameters_and_their_circumstances() -> None:
    model = nn.Sequential(nn.Conv2d(6, 4, 3, bias=False), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4, 2)).double()
    model[0].weight.requires_grad_(False)
    model[1].eval()
    convert(model, to="deconvolution", block=3, block_linear=2, eps=1e-3, n_iter=7, momentum=0.2, sampling_stride=1)
    first, second, last = model[0], model[1], model[3]
    assert isinstance(first, Deconv2d)
    assert isinstance(last, DeconvLinear)
    assert first.bias is None
    assert not first.weight.requires_grad
    assert (first.training, second.training) == (True, False)
    assert first.running_deconv.dtype == torch.float64
    assert (first.block, second.block, last.block) == (3, 1, 2)
    assert (last.eps, last.n_iter, last.momentum) == (1e-3, 7, 0.2)


def test_where() -> None:
    model = convert(create("lenet5"), to="deconvolution", where=r"^c\d")
    assert [type(module) for module in (model.c1, model.c5, model.f6)] == [Deconv2d, Deconv2d, nn.Linear]


def test_what_cannot_be_converted() -> None:
    with pytest.raises(ValueError, match="no Conv2d or Linear layer matches"):
        convert(nn.Sequential(nn.ReLU()), to="deconvolution")
    with pytest.raises(ValueError, match="pads with 'circular'"):
        convert(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")), to="deconvolution")
    with pytest.raises(ValueError, match="to must be"):
        convert(nn.Conv2d(1, 1, 1), to="whitening")  # type: ignore[arg-type]
