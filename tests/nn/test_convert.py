"""convert(): what changes, what stays, and which layers it takes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgeconv.nn import Kerv1d, Kerv2d, convert


class Net(nn.Module):
    """Convolutions of both kinds, nested, one in two places, one of a class of its own, one frozen and without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding="same", padding_mode="circular")
        shared = nn.Conv2d(6, 6, (1, 3), padding=(0, 1), groups=2, bias=False)
        self.blocks = nn.Sequential(shared, nn.ReLU(), nn.ModuleDict({"again": shared})["again"])
        self.own = OwnConv(6, 4, 3, stride=2)
        self.line = nn.Conv1d(4, 5, 3, dilation=2)
        self.head = nn.Linear(5, 2)
        self.stem.weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to (N, L, 2)."""
        x = self.own(self.blocks(self.stem(x)))
        return self.head(self.line(x.flatten(2)).transpose(1, 2))  # type: ignore[no-any-return]


class OwnConv(nn.Conv2d):
    """A subclass that somebody wrote, whose forward pass may be anything."""


def test_linear_kernel_gives_the_same_model() -> None:
    torch.manual_seed(0)
    model = Net()
    x = torch.randn(2, 3, 9, 8)
    expected, state, model_id = model(x), copy.deepcopy(model.state_dict()), id(model)
    converted = convert(model, "linear")
    assert id(converted) == model_id
    assert [type(module) for module in (model.stem, model.blocks[0], model.own, model.line)] == [
        Kerv2d,
        Kerv2d,
        OwnConv,
        Kerv1d,
    ]
    torch.testing.assert_close(converted(x), expected, rtol=1e-6, atol=1e-6)
    assert list(converted.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in converted.state_dict().items())


def test_weights_and_their_circumstances_stay() -> None:
    model = Net().double().eval()
    model.blocks.train()
    stem, shared = model.stem, model.blocks[0]
    convert(model, "gaussian", gamma=0.25, learnable="layer")
    assert model.stem.weight is stem.weight
    assert model.stem.bias is stem.bias
    assert not model.stem.weight.requires_grad
    assert (model.stem.padding, model.stem.padding_mode) == ("same", "circular")
    assert model.stem.gamma.dtype == torch.float64
    assert not model.stem.training
    new = model.blocks[0]
    assert new.training
    assert (new.groups, new.padding, new.bias, new.weight) == (2, (0, 1), None, shared.weight)
    assert new is model.blocks[2]
    assert sum(isinstance(module, Kerv2d) for module in model.modules()) == 2
    assert (model.line.dilation, model.line.gamma.item()) == ((2,), 0.25)
    assert set(model.state_dict()) >= {"stem.gamma", "blocks.0.gamma", "line.gamma"}


def test_where_is_a_regular_expression_or_a_predicate() -> None:
    model = convert(Net(), where="^(stem|line)$")
    assert [type(module) for module in (model.stem, model.blocks[0], model.line)] == [Kerv2d, nn.Conv2d, Kerv1d]
    model = convert(Net(), where="ste")
    assert type(model.stem) is Kerv2d
    model = convert(Net(), where=lambda name, module: "blocks" in name and module.groups == 2)
    assert [type(module) for module in (model.stem, model.blocks[0], model.line)] == [nn.Conv2d, Kerv2d, nn.Conv1d]


def test_any_name_of_a_shared_layer_selects_it_everywhere() -> None:
    model = convert(Net(), where=r"blocks\.2")
    assert type(model.blocks[0]) is Kerv2d
    assert model.blocks[0] is model.blocks[2]


def test_a_convolution_itself_is_replaced() -> None:
    conv = nn.Conv1d(3, 4, 3)
    layer = convert(conv, "euclidean")
    assert type(layer) is Kerv1d
    assert layer.weight is conv.weight


def test_a_kervolution_changes_its_kernel() -> None:
    model = convert(nn.Sequential(Kerv2d(3, 4, 3, kernel="sigmoid", learnable="channel")), "polynomial", degree=2)
    assert (model[0].kernel, model[0].degree) == ("polynomial", 2)
    assert set(model.state_dict()) == {"0.weight", "0.bias", "0.balance"}


def test_precision_is_an_argument_like_the_others() -> None:
    model = convert(Net(), "sigmoid", precision="bf16x3")
    assert {layer.precision for layer in model.modules() if isinstance(layer, Kerv1d | Kerv2d)} == {"bf16x3"}
    with pytest.raises(ValueError, match="the chebyshev kernel takes float32 only"):
        convert(model, "chebyshev", precision="bf16x3")
    assert model.stem.kernel == "sigmoid"
    assert convert(model, "chebyshev").stem.precision == "float32"


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    model[1].weight = model[0].weight
    convert(model, "manhattan")
    assert model[0] is not model[1]
    assert model[0].weight is model[1].weight


@pytest.mark.parametrize("where", ["nothing", lambda name, module: False])
def test_no_match_is_an_error_and_changes_nothing(where: object) -> None:
    model = Net()
    with pytest.raises(ValueError, match="no Conv1d or Conv2d layer matches where="):
        convert(model, where=where)  # type: ignore[arg-type]
    assert type(model.stem) is nn.Conv2d


def test_an_expression_that_is_none() -> None:
    with pytest.raises(ValueError, match=r"where='\(' is not a regular expression: missing \)"):
        convert(Net(), where="(")


def test_an_argument_out_of_range_changes_nothing() -> None:
    model = Net()
    with pytest.raises(ValueError, match="degree must be"):
        convert(model, degree=0)
    assert type(model.stem) is nn.Conv2d
