"""TensorRT plugins without TensorRT: the conformance harness (tests/native/conformance) from Python.

The plugin library is the one with host execution, so that device memory is memory (trt_libraries.py builds both).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda_memory import HostBuffer, nhwc

Array = npt.NDArray[Any]
# nvinfer1::DataType, TensorFormat and PluginFieldType.
FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64, INT4 = range(10)
TYPES = {"float32": FLOAT, "float16": HALF, "int8": INT8}
LINEAR, HWC8, HWC, HWC16 = 0, 2, 8, 11
PITCHES = {HWC: 1, HWC8: 8, HWC16: 16}
CHANNELS_LAST = {"float32": HWC, "float16": HWC8, "int8": HWC16}
FIELD_FLOAT32, FIELD_INT32, FIELD_CHAR, FIELD_INT64 = 1, 5, 6, 10
FIELD_TYPES = {FIELD_FLOAT32: np.float32, FIELD_INT32: np.int32, FIELD_INT64: np.int64}

GIBIBYTE = 1 << 30
GUARD = 256
"""Bytes around each output that must stay as they are."""


class Dims(ctypes.Structure):
    """nvinfer1::Dims."""

    _fields_ = [("rank", ctypes.c_int32), ("d", ctypes.c_int64 * 8)]

    @classmethod
    def of(cls, shape: Sequence[int] | None) -> Dims:
        """None is a tensor that the node does not have."""
        return cls(-1) if shape is None else cls(len(shape), (ctypes.c_int64 * 8)(*shape))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.d[: self.rank])


class Desc(ctypes.Structure):
    """nvinfer1::PluginTensorDesc."""

    _fields_ = [("dims", Dims), ("type", ctypes.c_int32), ("format", ctypes.c_int32), ("scale", ctypes.c_float)]


class DynamicDesc(ctypes.Structure):
    """nvinfer1::DynamicPluginTensorDesc."""

    _fields_ = [("desc", Desc), ("min", Dims), ("max", Dims), ("opt", Dims)]


class Field(ctypes.Structure):
    """nvinfer1::PluginField."""

    _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("type", ctypes.c_int32),
                ("length", ctypes.c_int32)]  # fmt: skip


class PluginError(Exception):
    """What the plugin library logged when it refused something."""


class BrokenRule(AssertionError):
    """A rule of TensorRT's interfaces that a plugin broke."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of the network: its type and format, and its dimensions, of which unknown ones are -1.

    A `shape` of None is an input that the node does not have.
    """

    type: int
    shape: tuple[int, ...] | None
    format: int = LINEAR

    @property
    def desc(self) -> Desc:
        return Desc(Dims.of(self.shape), self.type, self.format, -1.0)


@dataclass(frozen=True)
class Creator:
    """What a creator says of itself; `fields` has (type, length) by name."""

    name: str
    version: str
    namespace: str
    fields: Mapping[str, tuple[int, int]]


def parser_fields(creator: Creator, attributes: Mapping[str, Any]) -> dict[str, tuple[int, Array | bytes]]:
    """A node's attributes as TensorRT's ONNX parser hands them over: those that the creator names, by their ONNX type.

    Integers become kINT32, floats kFLOAT32, strings kCHAR with the 0 at their end; scalars are lists of one.
    """
    fields: dict[str, tuple[int, Array | bytes]] = {}
    for name in creator.fields:
        if name not in attributes:
            continue  # the parser warns, and leaves the field out
        value = attributes[name]
        if isinstance(value, str):
            fields[name] = FIELD_CHAR, value.encode() + b"\0"
        elif all(isinstance(item, int) for item in np.ravel(np.asarray(value, object))):
            fields[name] = FIELD_INT32, np.atleast_1d(np.asarray(value, np.int32))
        else:
            fields[name] = FIELD_FLOAT32, np.atleast_1d(np.asarray(value, np.float32))
    return fields


class Plugins:
    """A plugin library, loaded as TensorRT of some version would."""

    def __init__(self, library: str, harness: str, version: int | None = None, with_finder: bool = True) -> None:
        self.path = library
        self.c = ctypes.CDLL(harness)
        for name in ("broken", "messages", "creator", "timing_cache_id"):
            getattr(self.c, f"conformance_{name}").restype = ctypes.c_char_p
        for name in ("create", "clone", "reload", "attach"):
            getattr(self.c, f"conformance_{name}").restype = ctypes.c_void_p
        self.c.conformance_context_bytes.restype = ctypes.c_int64
        self.messages()
        version = self.c.conformance_header_version() if version is None else version
        count = self.checked(self.c.conformance_load(library.encode(), version, int(with_finder)))
        self.creators = {creator.name: creator for creator in map(self._creator, range(count))}

    def _creator(self, index: int) -> Creator:
        name, version, namespace, *fields = self.c.conformance_creator(index).decode().split()
        parts = [field.split(":") for field in fields]
        return Creator(name, version, namespace, {part[0]: (int(part[1]), int(part[2])) for part in parts})

    def messages(self) -> str:
        """What was logged since the last call."""
        text: bytes = self.c.conformance_messages()
        return text.decode()

    def checked(self, result: Any) -> Any:
        """`result` of a call of the harness; a broken rule is an assertion."""
        if broken := self.c.conformance_broken():
            raise BrokenRule(broken.decode())
        return result

    def succeeded(self, code: int) -> None:
        """Turn a refusal into a PluginError; success must be silent."""
        messages = self.messages()
        if self.checked(code) != 0:
            raise PluginError(messages)
        assert not messages

    def made(self, handle: int | None) -> int:
        """The same for what gives an object."""
        self.succeeded(0 if self.checked(handle) else 1)
        assert handle
        return handle

    def create(self, op: str, attributes: Mapping[str, Any], layer: str = "node") -> Plugin:
        """The plugin of a node, as the parser creates it."""
        return self.create_of_fields(op, parser_fields(self.creators[op], attributes), layer)

    def create_of_fields(
        self, op: str, fields: Mapping[str, tuple[int, Array | bytes | None]], layer: str = "node", phase: int = 0
    ) -> Plugin:
        """A plugin of fields: their types and values by name."""
        records = (Field * len(fields))()
        kept = []
        for record, (name, (kind, value)) in zip(records, fields.items(), strict=True):
            length = 0 if value is None else len(value)
            data = value.tobytes() if isinstance(value, np.ndarray) else value
            kept.append(ctypes.create_string_buffer(data, len(data)) if data else None)
            address = ctypes.cast(kept[-1], ctypes.c_void_p) if kept[-1] else None
            record.name, record.data, record.type, record.length = name.encode(), address, kind, length
        handle = self.c.conformance_create(op.encode(), layer.encode(), records, len(fields), phase)
        return Plugin(self, self.made(handle))


class Plugin:
    """One plugin object."""

    def __init__(self, plugins: Plugins, handle: int) -> None:
        self.plugins, self.handle = plugins, ctypes.c_void_p(handle)
        self.outputs: int = plugins.c.conformance_outputs(self.handle)

    def __enter__(self) -> Plugin:
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy()

    def destroy(self) -> None:
        """As TensorRT does when the engine or the context is destroyed."""
        assert self.plugins.checked(self.plugins.c.conformance_destroy(self.handle)) == 0

    def clone(self) -> Plugin:
        return Plugin(self.plugins, self.plugins.made(self.plugins.c.conformance_clone(self.handle)))

    def reload(self, layer: str = "node") -> Plugin:
        """The plugin of an engine that this one was built into."""
        return Plugin(self.plugins, self.plugins.made(self.plugins.c.conformance_reload(self.handle, layer.encode())))

    def attach(self, limit: int = GIBIBYTE) -> Plugin:
        """A clone with an execution context, whose allocator gives so many bytes; negative: there is none."""
        handle = self.plugins.c.conformance_attach(self.handle, ctypes.c_int64(limit))
        return Plugin(self.plugins, self.plugins.made(handle))

    @property
    def context_bytes(self) -> int:
        """Device memory that it has taken from its context."""
        size: int = self.plugins.c.conformance_context_bytes(self.handle)
        return size

    @property
    def timing_cache_id(self) -> str:
        text: bytes = self.plugins.c.conformance_timing_cache_id(self.handle)
        return text.decode()

    def output_types(self, types: Sequence[int]) -> list[int]:
        inputs, outputs = (ctypes.c_int32 * len(types))(*types), (ctypes.c_int32 * self.outputs)()
        self.plugins.succeeded(self.plugins.c.conformance_types(self.handle, inputs, len(types), outputs))
        return list(outputs)

    def output_shapes(
        self, shapes: Sequence[Sequence[int] | None], sizes: Sequence[Sequence[int]] = ((),)
    ) -> tuple[list[list[tuple[int, ...]]], int]:
        """Shapes of all outputs for each of `sizes`, the values of the dimensions that are -1; and the operations."""
        inputs = (Dims * len(shapes))(*map(Dims.of, shapes))
        flat = [size for row in sizes for size in row]
        results, operations = (Dims * (self.outputs * len(sizes)))(), ctypes.c_int32()
        self.plugins.succeeded(
            self.plugins.c.conformance_shapes(
                self.handle, inputs, len(shapes), (ctypes.c_int64 * max(1, len(flat)))(*flat), len(sizes), results,
                ctypes.byref(operations),
            )
        )  # fmt: skip
        found = [dims.shape for dims in results]
        return [found[i : i + self.outputs] for i in range(0, len(found), self.outputs)], operations.value

    def formats(self, shapes: Sequence[Sequence[int] | None]) -> set[tuple[tuple[int, int], ...]]:
        """All combinations of type and format that it takes, for inputs of these shapes and its outputs."""
        tensors = _dynamic([*(Tensor(FLOAT, None if s is None else tuple(s)) for s in shapes),
                            *[Tensor(FLOAT, (1, 1, 1, 1))] * self.outputs])  # fmt: skip
        found = (ctypes.c_int32 * (2 * len(tensors) * 100))()
        count = self.plugins.c.conformance_formats(self.handle, tensors, len(shapes), found, 100)
        self.plugins.checked(count)
        each = 2 * len(tensors)
        rows = [found[i * each : (i + 1) * each] for i in range(count)]
        return {tuple(zip(row[::2], row[1::2], strict=True)) for row in rows}

    def configure(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], profile: Sequence[Sequence[Tensor]] | None = None
    ) -> int:
        """Configure for a profile: the inputs at their least, best and largest. Returns the workspace in bytes."""
        workspace = ctypes.c_uint64()
        tensors = _dynamic([*inputs, *outputs], profile)
        self.plugins.succeeded(
            self.plugins.c.conformance_configure(self.handle, tensors, len(inputs), ctypes.byref(workspace))
        )
        return workspace.value

    def clone_and_configure(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
        """The workspace for these shapes."""
        with self.clone() as clone:
            return clone.configure(inputs, outputs)

    def change_shape(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        tensors = _static([*inputs, *outputs])
        self.plugins.succeeded(self.plugins.c.conformance_shape_change(self.handle, tensors, len(inputs)))

    def enqueue(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], memory: Sequence[int], workspace: int
    ) -> None:
        addresses = (ctypes.c_void_p * len(memory))(*memory)
        self.plugins.succeeded(
            self.plugins.c.conformance_enqueue(
                self.handle, _static([*inputs, *outputs]), len(inputs), addresses, ctypes.c_uint64(workspace)
            )
        )


def _static(tensors: Sequence[Tensor]) -> Any:
    return (Desc * len(tensors))(*(tensor.desc for tensor in tensors))


def _dynamic(tensors: Sequence[Tensor], profile: Sequence[Sequence[Tensor]] | None = None) -> Any:
    result = (DynamicDesc * len(tensors))()
    for i, tensor in enumerate(tensors):
        least, best, largest = (
            Dims.of(point[i].shape) if profile and i < len(point) else Dims.of(tensor.shape)
            for point in (profile or [()] * 3)
        )
        result[i] = DynamicDesc(tensor.desc, least, largest, best)
    return result


@dataclass
class Call:
    """The values of a call: inputs in the node's order (None: absent), and where they lie."""

    inputs: list[Array | None]
    format: int
    """Of the first input, and of the output where `keeps_format`."""
    output_shapes: list[tuple[int, ...]]
    output_dtypes: list[npt.DTypeLike]
    keeps_format: bool = True

    def __post_init__(self) -> None:
        self.arrays = [
            None if value is None else np.ascontiguousarray(self._laid_out(value) if i == 0 else value)
            for i, value in enumerate(self.inputs)
        ]
        self.memory: list[Any] = [None if array is None else HostBuffer(array.tobytes()) for array in self.arrays]

    def _laid_out(self, x: Array) -> Array:
        if self.format == LINEAR:
            return x
        return nhwc(x, -(-x.shape[1] // PITCHES[self.format]) * PITCHES[self.format])

    @property
    def input_tensors(self) -> list[Tensor]:
        first = self.inputs[0]
        assert first is not None
        return [
            Tensor(TYPES[first.dtype.name], None) if value is None
            else Tensor(TYPES[value.dtype.name], value.shape, self.format if i == 0 else LINEAR)
            for i, value in enumerate(self.inputs)
        ]  # fmt: skip

    @property
    def output_tensors(self) -> list[Tensor]:
        form = self.format if self.keeps_format else LINEAR
        return [
            Tensor(TYPES[np.dtype(dtype).name], shape, form)
            for dtype, shape in zip(self.output_dtypes, self.output_shapes, strict=True)
        ]

    def rewrite(self, index: int, value: Array) -> None:
        """Put other values at the same address."""
        buffer = self.memory[index]
        assert buffer is not None
        ctypes.memmove(buffer.address, np.ascontiguousarray(value).tobytes(), value.nbytes)

    def run(self, plugin: Plugin, workspace: int) -> list[Array]:
        """Enqueue, and read the outputs; padding channels must be zero."""
        places, buffers = [], []
        for dtype, shape in zip(self.output_dtypes, self.output_shapes, strict=True):
            place = shape
            if self.keeps_format and self.format != LINEAR:
                pitch = PITCHES[self.format]
                place = (shape[0], *shape[2:], -(-shape[1] // pitch) * pitch)
            places.append((np.dtype(dtype), place))
            buffers.append(HostBuffer(b"\xff" * (int(np.prod(place)) * np.dtype(dtype).itemsize)))
        memory = [0 if buffer is None else buffer.address for buffer in self.memory]
        memory += [buffer.address for buffer in buffers]
        plugin.enqueue(self.input_tensors, self.output_tensors, memory, workspace)
        results = []
        for buffer, (dtype, place), shape in zip(buffers, places, self.output_shapes, strict=True):
            value = buffer.read(dtype, place)
            if place != shape:
                padding = value[..., shape[1] :]
                assert (padding == padding.dtype.type(0)).all() or dtype == np.int8, "padding channels are not zero"
                value = np.moveaxis(value[..., : shape[1]], 3, 1)
            results.append(value)
        return results
