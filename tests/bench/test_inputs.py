from __future__ import annotations

import json

import numpy as np
import pytest

from edgeconv.bench.inputs import INPUT_SHAPE_KEY, parse_shapes, resolve_shapes, synthetic_feeds
from edgeconv.errors import InputError
from edgeconv.runtime.ort import TensorInfo


def info(*shape: int | str | None, name: str = "x", type: str = "tensor(float)") -> TensorInfo:
    return TensorInfo(name, type, shape)


def exported(*shape: int) -> dict[str, str]:
    return {INPUT_SHAPE_KEY: json.dumps(shape)}


def test_parse_shapes() -> None:
    assert parse_shapes(["x:1x3x32x24", "a:b:2", "4X5"]) == {"x": (1, 3, 32, 24), "a:b": (2,), "": (4, 5)}


@pytest.mark.parametrize("text", ["", "x:", "x:1x", "x:1xax2", "x:0x3", "x:-1x3", "x:1,3"])
def test_unreadable_shape(text: str) -> None:
    with pytest.raises(InputError, match="NAME:1x3x32x32"):
        parse_shapes([text])


@pytest.mark.parametrize(
    ("declared", "metadata", "batch", "given", "expected"),
    [
        ((1, 3, 9, 7), {}, 1, None, (1, 3, 9, 7)),
        (("N", 3, 9, 7), {}, 4, None, (4, 3, 9, 7)),
        ((4, 3, 9, 7), {}, 1, None, (4, 3, 9, 7)),
        ((None, 3, None, "W"), exported(1, 3, 28, 20), 2, None, (2, 3, 28, 20)),
        (("N", 3, "H", "W"), {}, 1, {"x": (2, 3, 5, 6)}, (2, 3, 5, 6)),
        (("N", 3, "H", "W"), {}, 2, {"": (2, 3, 5, 6)}, (2, 3, 5, 6)),
        (("N", 3, "H", "W"), exported(1, 3, 28, 20), 1, {"x": (1, 3, 5, 6)}, (1, 3, 5, 6)),
    ],
)
def test_resolved_shape(
    declared: tuple[int | str | None, ...],
    metadata: dict[str, str],
    batch: int,
    given: dict[str, tuple[int, ...]] | None,
    expected: tuple[int, ...],
) -> None:
    assert resolve_shapes([info(*declared)], metadata, batch=batch, shapes=given) == {"x": expected}


def test_a_symbol_has_one_size() -> None:
    inputs = [info("N", "L"), info("N", "L", name="mask"), info("L", name="positions")]
    assert resolve_shapes(inputs, {}, batch=2, shapes={"x": (2, 11)}) == {
        "x": (2, 11),
        "mask": (2, 11),
        "positions": (11,),
    }


@pytest.mark.parametrize(
    ("declared", "metadata", "batch", "given", "message"),
    [
        (("N", 3, "H", 7), {}, 1, None, "--shapes x:1x3xSIZEx7"),
        (("N", 3, "H", 7), {INPUT_SHAPE_KEY: "many"}, 1, None, "not a list of sizes"),
        (("N", 3, "H", 7), exported(3, 28, 28), 1, None, "leaves the size of dimension 2 open"),
        ((1, 3, 9, 7), {}, 8, None, "fixed batch of 1, not 8"),
        (("N", 3, 9, 7), {}, 1, {"x": (1, 4, 9, 7)}, "does not fit"),
        (("N", 3, 9, 7), {}, 1, {"x": (1, 3, 9)}, "does not fit"),
        (("N", 3, 9, 7), {}, 4, {"x": (2, 3, 9, 7)}, "contradicts --batch 4"),
    ],
)
def test_shape_errors(
    declared: tuple[int | str | None, ...],
    metadata: dict[str, str],
    batch: int,
    given: dict[str, tuple[int, ...]] | None,
    message: str,
) -> None:
    with pytest.raises(InputError) as caught:
        resolve_shapes([info(*declared)], metadata, batch=batch, shapes=given)
    assert message in str(caught.value)


def test_a_nameless_shape_needs_a_single_input() -> None:
    with pytest.raises(InputError, match="several inputs: x, z"):
        resolve_shapes([info("N"), info("N", name="z")], {}, shapes={"": (1,)})


@pytest.mark.parametrize("kind", ["float", "float16", "double", "int64", "int32", "uint8", "int8", "bool"])
def test_feeds_have_the_type_and_are_repeatable(kind: str) -> None:
    one = info(2, 300, type=f"tensor({kind})")
    feeds = [synthetic_feeds([one], {"x": (2, 300)}, seed)["x"] for seed in (0, 0, 1)]
    assert feeds[0].dtype == one.dtype
    assert feeds[0].shape == (2, 300)
    np.testing.assert_array_equal(feeds[0], feeds[1])
    assert (feeds[0] != feeds[2]).any()
    if kind == "float":
        assert abs(feeds[0].mean()) < 0.2
        assert 0.8 < feeds[0].std() < 1.2
    if kind in ("int32", "int64"):
        assert set(feeds[0].ravel().tolist()) == {0, 1}


def test_inputs_of_other_names_get_other_values() -> None:
    feeds = synthetic_feeds([info(50), info(50, name="z")], {"x": (50,), "z": (50,)})
    assert (feeds["x"] != feeds["z"]).any()


def test_strings_cannot_be_made_up() -> None:
    with pytest.raises(InputError, match="no synthetic values"):
        synthetic_feeds([info(1, type="tensor(string)")], {"x": (1,)})
