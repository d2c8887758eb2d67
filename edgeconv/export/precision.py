"""Sets the precision that a file's kervolutions ask for."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from edgeconv.errors import InputError
from edgeconv.export.forms import Form
from edgeconv.ops.kervolution import OPERATORS, PRECISIONS, precision_of

_DEFAULT = PRECISIONS[0]
_TAKERS = ", ".join(operator.kernel for operator in OPERATORS.values() if operator.has_precision)


def check_request(precision: str | None, form: Form) -> None:
    """Check what a caller asks of an export, before it begins.

    Raises:
        InputError: There is no such precision, or the form has no node that could carry it.
    """
    if precision is None or precision == _DEFAULT:
        return
    if precision not in PRECISIONS:
        raise InputError(
            f"there is no precision {precision!r}.", f"Use --precision {' or --precision '.join(PRECISIONS)}."
        )
    if form == "inlined":
        raise InputError(
            f"--precision {precision} needs the operators, and --inline leaves standard ones only, which compute in "
            f"{_DEFAULT}.",
            "Drop --inline or --precision.",
        )


def request_precision(nodes: Iterable[onnx.NodeProto], precision: str | None) -> None:
    """Give every operator that takes a precision the one that is asked for, in place.

    Nodes carry the attribute only where it is not the default: see `edgeconv.ops.kervolution.Precision`.

    Args:
        nodes: A graph's nodes.
        precision: One of `PRECISIONS`, or None to keep what each node says.

    Raises:
        InputError: A precision other than the default is asked for, and no operator takes it.
    """
    takers = [node for node in nodes if precision_of(node) is not None]
    if precision not in (None, _DEFAULT) and not takers:
        raise InputError(
            f"--precision {precision} changes nothing: no layer is a kervolution that takes it.",
            f"Drop --precision; it is for the kernels {_TAKERS}.",
        )
    for node in takers:
        wanted = precision or precision_of(node)
        kept = [attribute for attribute in node.attribute if attribute.name != "precision"]
        if wanted != _DEFAULT:
            kept.append(onnx.helper.make_attribute("precision", wanted))
        del node.attribute[:]
        node.attribute.extend(kept)
