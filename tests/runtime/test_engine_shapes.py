"""Profiles: trtexec's spellings, what is not given, and what cannot be."""

from __future__ import annotations

import pytest

from edgeconv.errors import InputError
from edgeconv.runtime.engine_shapes import ShapeRange, parse_shape_lists, resolve_profile
from edgeconv.runtime.ort import TensorInfo

IMAGE = TensorInfo("image", "tensor(float)", ("batch", 3, "H", 13))
LABEL = TensorInfo("label", "tensor(int64)", ("batch", 5))
FIXED = TensorInfo("scale", "tensor(float)", (1, 3))


def profile(inputs: list[TensorInfo], metadata: dict[str, str] | None = None, **texts: str) -> dict[str, str]:
    """Ranges as text, of shapes as text."""
    shapes = {name: parse_shape_lists([text]) for name, text in texts.items()}
    return {name: str(ends) for name, ends in resolve_profile(inputs, metadata or {}, **shapes).items()}


def test_trtexec_spellings() -> None:
    expected = {"x": (1, 3, 224, 224), "y:0": (1, 10)}
    assert parse_shape_lists(["x:1x3x224x224,y:0:1x10"]) == expected
    assert parse_shape_lists(["x:1x3x224x224", "'y:0':1x10"]) == expected
    assert parse_shape_lists(["4x3"]) == {"": (4, 3)}
    assert parse_shape_lists([]) == {}


@pytest.mark.parametrize("text", ["x:1x3x", "x:1x-3", "x:", "x:0x3", "x=1x3", ","])
def test_what_is_no_shape(text: str) -> None:
    with pytest.raises(InputError, match="cannot read the shape"):
        parse_shape_lists([text])


def test_an_input_twice() -> None:
    with pytest.raises(InputError, match="two shapes are given for input x"):
        parse_shape_lists(["x:1x3", "x:2x3"])


def test_what_is_not_given_follows() -> None:
    low, mid, high = "image:1x3x7x13", "image:4x3x9x13", "image:8x3x21x13"
    whole = {"image": "1x3x7x13 / 4x3x9x13 / 8x3x21x13"}
    assert profile([IMAGE], min_shapes=low, opt_shapes=mid, max_shapes=high) == whole
    assert profile([IMAGE], min_shapes=low, max_shapes=high) == {"image": "1x3x7x13 / 8x3x21x13 / 8x3x21x13"}
    assert profile([IMAGE], opt_shapes=mid) == {"image": "4x3x9x13"}
    assert profile([IMAGE], min_shapes=low, opt_shapes=mid) == {"image": "1x3x7x13 / 4x3x9x13 / 4x3x9x13"}
    assert profile([IMAGE], max_shapes="8x3x21x13") == {"image": "8x3x21x13"}
    assert profile([IMAGE], min_shapes="1x3x7x13", max_shapes=high) == profile([IMAGE], min_shapes=low, max_shapes=high)
    assert profile([IMAGE], shapes=mid) == {"image": "4x3x9x13"}


def test_nothing_given_takes_the_metadata_and_a_batch_of_1() -> None:
    assert profile([IMAGE], {"edgeconv.input_shape": "[1, 3, 10, 13]"}) == {"image": "1x3x10x13"}
    with pytest.raises(InputError, match="dimension 2 open"):
        profile([IMAGE])


def test_other_inputs_follow_by_symbol() -> None:
    given = {"min_shapes": "image:1x3x7x13", "max_shapes": "image:6x3x7x13"}
    for inputs in ([IMAGE, LABEL], [LABEL, IMAGE]):
        assert profile(inputs, **given)["label"] == "1x5 / 6x5 / 6x5"
    assert profile([IMAGE, FIXED], **given)["scale"] == "1x3"


def test_fixed_models_have_no_profile() -> None:
    assert profile([FIXED]) == {}
    assert profile([FIXED], shapes="scale:1x3") == {}
    with pytest.raises(InputError, match="does not fit input scale"):
        profile([FIXED], shapes="scale:2x3")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"min_shapes": "image:4x3x7x13", "max_shapes": "image:2x3x7x13"}, "out of order: least 4x3x7x13"),
        (
            {"min_shapes": "image:1x3x9x13", "opt_shapes": "image:2x3x7x13", "max_shapes": "image:4x3x9x13"},
            "best 2x3x7x13",
        ),
        ({"min_shapes": "image:1x4x7x13"}, "does not fit input image"),
        ({"min_shapes": "image:1x3x7"}, "does not fit input image"),
        ({"max_shapes": "picture:1x3x7x13"}, "no input called picture"),
        ({"shapes": "image:1x3x7x13", "max_shapes": "image:1x3x7x13"}, "--shapes fixes the shapes"),
    ],
)
def test_what_cannot_be(texts: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        profile([IMAGE], **texts)


def test_several_inputs_need_names() -> None:
    with pytest.raises(InputError, match="several inputs") as caught:
        profile([IMAGE, LABEL], shapes="1x3x7x13")
    assert "image:1x3x224x224, label:" in caught.value.remedy


def test_to_dict() -> None:
    ends = ShapeRange((1, 2), (3, 4), (5, 6))
    assert ends.to_dict() == {"min": [1, 2], "opt": [3, 4], "max": [5, 6]}
    assert not ends.fixed
