"""The glue to ONNX Runtime: types, optional inputs, parameters, errors, threads, dispatch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from native_kernels import ISAS, KERNELS, Case, Library, make_case, oracle
from native_models import make_model
from sessions import session
from tolerances import assert_close


def run(case: Case, threads: int = 1, **model: Any) -> np.ndarray[Any, Any]:
    serialized, feeds = make_model(case, **model)
    (result,) = session(serialized, threads).run(None, feeds)
    assert result.dtype == case.x.dtype
    return np.asarray(result)


def small_case(kernel: str, dtype: str = "float32", **options: Any) -> Case:
    defaults = {"strides": (2, 1), "pads": (1, 0, 1, 2), "group": 2}
    return make_case(kernel, dtype, (2, 6, 9, 7), 8, (3, 2), **{**defaults, **options})


@pytest.mark.parametrize("bias", ["given", "absent", "empty name"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_matches_loop(kernel: str, dtype: str, per_channel: bool, bias: str) -> None:
    case = small_case(kernel, dtype, bias=bias == "given", per_channel=per_channel)
    assert_close(run(case, empty_bias=bias == "empty name"), oracle(case), dtype)


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_needs_to_be_constant(kernel: str) -> None:
    case = small_case(kernel)
    names = {"polynomial": ["balance"], "gaussian": ["gamma"], "sigmoid": ["scale", "balance"]}.get(kernel, [])
    assert_close(run(case, inputs=("X", "W", *names, "B")), oracle(case), np.float32)


def test_scalar_parameters_of_rank_0() -> None:
    case = small_case("sigmoid", per_channel=False)
    case.scale, case.balance = case.scale.reshape(()), case.balance.reshape(())
    assert_close(run(case), oracle(case), np.float32)


def test_one_session_takes_any_size_and_batch() -> None:
    case = small_case("manhattan")
    serialized, _ = make_model(case, x_shape=["N", 6, None, None])
    dynamic = session(serialized)
    for shape in ((1, 6, 9, 7), (3, 6, 4, 20), (0, 6, 9, 7), (1, 6, 30, 41)):
        x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        sized = Case(**{**vars(case), "x": x})
        assert_close(dynamic.run(None, {"X": x})[0], oracle(sized), np.float32)


def test_shapes_are_inferred() -> None:
    case = small_case("gaussian")
    # Older versions crash in shape inference where an input has the empty name, so there it is not offered.
    offered = tuple(map(int, ort.__version__.split(".")[:2])) >= (1, 24)
    (output,) = session(make_model(case)[0]).get_outputs()
    assert output.shape == (list(case.output_shape) if offered else [])
    (output,) = session(make_model(case, x_shape=["N", 6, None, 7])[0]).get_outputs()
    assert output.shape[:2] + output.shape[3:] == (["N", 8, 8] if offered else [])
    assert not offered or isinstance(output.shape[2], str)


def test_attributes_have_the_defaults_of_conv() -> None:
    case = make_case("polynomial", "float32", (1, 3, 6, 8), 5, (3, 2))
    serialized, feeds = make_model(case)
    model = onnx.load_from_string(serialized)
    del model.graph.node[0].attribute[:]
    (result,) = session(model.SerializeToString()).run(None, feeds)
    assert_close(result, oracle(case), np.float32)


def test_weights_are_packed_when_the_session_is_created() -> None:
    """An initialiser that the caller owns is overwritten afterwards: the session must not look at it again."""
    case = small_case("euclidean")
    weights = ort.OrtValue.ortvalue_from_numpy(case.w.copy())
    serialized, feeds = make_model(case)
    created = session(serialized, shared={"W": weights})
    weights.update_inplace(np.full_like(case.w, np.nan))
    assert_close(created.run(None, feeds)[0], oracle(case), np.float32)
    # The control: what is not an initialiser is read at each run.
    serialized, feeds = make_model(case, inputs=("X", "W"))
    assert np.isnan(session(serialized).run(None, {**feeds, "W": weights.numpy()})[0]).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_threads_do_not_change_the_bits(kernel: str) -> None:
    case = make_case(kernel, "float32", (2, 8, 40, 37), 300, (3, 3), pads=(1, 1, 1, 1), group=2)
    one = run(case)
    assert_close(one[:, :4, :9, :9], oracle_corner(case), np.float32)
    for threads in (2, 3, 5):
        np.testing.assert_array_equal(run(case, threads), one)


def oracle_corner(case: Case) -> np.ndarray[Any, Any]:
    """Channels 0 to 3 at rows and columns 0 to 8: the whole case would keep the loop busy for long."""
    corner = vars(case) | {"x": case.x[:, :4, :10, :10], "w": case.w[:4], "group": 1}
    corner |= {name: getattr(case, name)[:4] for name in ("bias", "balance", "scale")}
    return oracle(Case(**corner))[:, :, :9, :9]


@pytest.mark.parametrize("isa", ISAS)
def test_environment_chooses_the_instruction_set(monkeypatch: pytest.MonkeyPatch, library: Library, isa: str) -> None:
    case = make_case("sigmoid", "float32", (1, 9, 12, 11), 10, (3, 3))
    best = library.isas[-1]
    monkeypatch.setenv("EDGECONV_CPU_ISA", isa)
    np.testing.assert_array_equal(run(case), library.run(case, isa if isa in library.isas else best))


def test_instruction_sets_differ_in_the_last_bits(library: Library) -> None:
    """Otherwise the test above could not tell them apart."""
    case = make_case("sigmoid", "float32", (1, 9, 12, 11), 10, (3, 3))
    results = [library.run(case, isa) for isa in library.isas]
    assert len(results) == 1 or (results[0] != results[-1]).any()


def test_unknown_instruction_set_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECONV_CPU_ISA", "sse9")
    with pytest.raises(
        Exception, match="EDGECONV_CPU_ISA is 'sse9': expected baseline, avx2, avx512, avx512_vnni or amx"
    ):
        session(make_model(small_case("manhattan"))[0])


CREATION_ERRORS: list[tuple[str, dict[str, object], str]] = [
    ("polynomial", {"degree": 0}, "PolynomialKervolution 'node': degree is 0: it must be at least 1"),
    ("gaussian", {"strides": [1, 0]}, "GaussianKervolution 'node': strides are [1, 0]: both must be positive"),
    ("manhattan", {"pads": [1, 1]}, "ManhattanKervolution 'node': pads has 2 values: expected 4"),
    (
        "polynomial", {"precision": "bf16"},
        "PolynomialKervolution 'node': precision is 'bf16': it must be float32 or bf16x3",
    ),
    (
        "manhattan", {"precision": "bf16x3"},
        "ManhattanKervolution 'node': precision is 'bf16x3': it must be float32, the only one of this operator",
    ),
    (
        "chebyshev", {"kernel_shape": [3, 3]},
        "ChebyshevKervolution 'node': kernel_shape is [3, 3], W has shape (8, 3, 3, 2): they must agree",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kernel", "attributes", "message"), CREATION_ERRORS)
def test_bad_attributes_fail_when_the_session_is_created(kernel: str, attributes: dict[str, Any], message: str) -> None:
    serialized, _ = make_model(small_case(kernel), **attributes)
    with pytest.raises(Exception) as error:  # noqa: PT011 - the message is compared
        session(serialized)
    assert message in str(error.value)


def test_input_that_does_not_fit_names_node_and_shapes() -> None:
    case = small_case("manhattan")
    serialized, _ = make_model(case, x_shape=["N", "C", "H", "W"])
    created = session(serialized)
    expected = "ManhattanKervolution 'node': W has 3 channels per group, X has 8 and group is 2: expected 4"
    with pytest.raises(Exception) as error:  # noqa: PT011 - the message is compared
        created.run(None, {"X": np.zeros((1, 8, 9, 9), np.float32)})
    assert expected in str(error.value)
    # The session stays usable.
    assert_close(created.run(None, {"X": case.x})[0], oracle(case), np.float32)


@pytest.mark.parametrize(
    ("kernel", "name", "shape", "message"),
    [
        ("polynomial", "balance", (3,), "balance has shape (3): expected a scalar, (1) or (8)"),
        ("gaussian", "scale", (8, 1), "gamma has shape (8, 1): expected a scalar, (1) or (8)"),
        ("sigmoid", "scale", (0,), "scale has shape (0): expected a scalar, (1) or (8)"),
        ("manhattan", "bias", (1,), "B has shape (1): expected (8)"),
    ],
)
def test_parameters_of_the_wrong_shape(kernel: str, name: str, shape: tuple[int, ...], message: str) -> None:
    case = small_case(kernel)
    setattr(case, name, np.ones(shape, np.float32))
    with pytest.raises(Exception) as error:  # noqa: PT011 - the message is compared
        run(case)
    assert f"{kernel.capitalize()}Kervolution 'node': {message}" in str(error.value)
