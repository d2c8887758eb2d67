"""Stamps: they come back whole, notice an exchanged engine, and say which part does not fit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from edgeconv.bench.model_file import file_sha256
from edgeconv.errors import InputError
from edgeconv.runtime.engine_shapes import ShapeRange
from edgeconv.runtime.engine_stamp import EngineKey, EngineStamp, read_stamp, stamp_path, write_engine
from edgeconv.runtime.ort import TensorInfo

KEY = EngineKey(
    provider="tensorrt",
    version="10.3.0",
    model_sha256="a" * 64,
    plugins_sha256="b" * 64,
    target=("Orin (compute capability 8.7)",),
    flags={"TF32": "off", "shapes of x": "1x3"},
)


def write(path: Path, content: bytes = b"engine") -> EngineStamp:
    path.write_bytes(content)
    stamp = EngineStamp(
        key=KEY,
        model="net.onnx",
        engine_sha256=file_sha256(path),
        engine_bytes=len(content),
        inputs=(TensorInfo("x", "tensor(float)", ("batch", 3, None)),),
        outputs=(TensorInfo("y", "tensor(int64)", ()),),
        profile={"x": ShapeRange((1, 3, 5), (2, 3, 6), (4, 3, 7))},
        metadata={"edgeconv.version": "0.1.0"},
        seconds=1.5,
    )
    path.unlink()
    write_engine(path, content, stamp)
    return stamp


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "net.engine"
    stamp = write(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.engine", "net.engine.json"]
    assert read_stamp(path) == stamp
    assert path.read_bytes() == b"engine"


def test_no_stamp_and_no_engine(tmp_path: Path) -> None:
    path = tmp_path / "net.engine"
    with pytest.raises(InputError, match="does not exist"):
        read_stamp(path)
    path.write_bytes(b"engine")
    assert read_stamp(path) is None


def test_an_exchanged_engine(tmp_path: Path) -> None:
    path = tmp_path / "net.engine"
    write(path)
    path.write_bytes(b"another")
    with pytest.raises(InputError, match="the stamp of another engine"):
        read_stamp(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', "\x00", '{"format": 1, "key": 3}'])
def test_a_damaged_stamp(text: str, tmp_path: Path) -> None:
    path = tmp_path / "net.engine"
    write(path)
    stamp_path(path).write_text(text)
    with pytest.raises(InputError, match="is not an engine's stamp, or is damaged"):
        read_stamp(path)


def test_a_stamp_with_a_missing_part(tmp_path: Path) -> None:
    path = tmp_path / "net.engine"
    data = write(path).to_dict()
    del data["key"]["version"]
    stamp_path(path).write_text(json.dumps(data))
    with pytest.raises(InputError, match="damaged"):
        read_stamp(path)


def test_a_failed_stamp_leaves_the_old_engine(tmp_path: Path) -> None:
    path = tmp_path / "net.engine"
    stamp = write(path, b"old")
    stamp_path(path).unlink()
    stamp_path(path).mkdir()
    with pytest.raises(InputError, match="not a regular file"):
        write_engine(path, b"new", stamp)
    assert path.read_bytes() == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.engine", "net.engine.json"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"version": "10.14.0"}, "built with TensorRT 10.3.0, this is 10.14.0"),
        ({"provider": "tensorrt-rtx"}, "built with TensorRT, wanted is TensorRT-RTX"),
        ({"model_sha256": "c" * 64}, "net.onnx has changed since"),
        ({"plugins_sha256": "c" * 64}, "built with another version of edgeconv's plugins (bbbbbbbbbbbb, this is cccc"),
        ({"plugins_sha256": None}, "built with edgeconv's plugins, which are not here"),
        ({"target": ("Thor",)}, "built for Orin (compute capability 8.7), wanted is Thor"),
        ({"flags": {"TF32": "on", "shapes of x": "1x3"}}, "built with TF32 off, wanted is on"),
        ({"flags": {"TF32": "off", "shapes of x": "4x3"}}, "built with shapes of x 1x3, wanted is 4x3"),
        ({"flags": {"TF32": "off"}}, "built with shapes of x 1x3, wanted is not set"),
        ({"preparation": 2}, "built by another version of edgeconv"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_every_part_of_the_key_is_told(change: dict[str, Any], text: str) -> None:
    found = KEY.differences(dataclasses.replace(KEY, **change), "net.onnx", "net.onnx")
    assert len(found) == 1
    assert found[0].startswith(text)


def test_equal_keys_and_all_parts_at_once() -> None:
    assert KEY.differences(dataclasses.replace(KEY)) == []
    other = EngineKey("tensorrt", "11.0", "c" * 64, None, ("Thor",), {}, 2)
    assert len(KEY.differences(other)) == 7
    assert len({field.name for field in dataclasses.fields(EngineKey)}) == 7  # a new part needs its text


def test_another_model() -> None:
    other = dataclasses.replace(KEY, model_sha256="c" * 64)
    assert KEY.differences(other, "b.onnx", "a.onnx") == ["built from a.onnx, not b.onnx"]


def test_plugins_that_came_later() -> None:
    bare = dataclasses.replace(KEY, plugins_sha256=None)
    assert bare.differences(KEY) == ["built without edgeconv's plugins, which are here now"]
