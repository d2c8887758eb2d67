"""The changes of the domain-shift example against their definitions, and its program on few images."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from edgeconv.checkpoint import load_checkpoint
from edgeconv.nn import Deconv2d

EXAMPLE = Path(__file__).parents[2] / "examples" / "domain_shift"


@pytest.fixture(scope="module")
def shifts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("domain_shift_shifts", EXAMPLE / "shifts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    with np.load(EXAMPLE.parent / "mnist_test_200.npz") as data:
        return data["images"]


def test_clean_strength_changes_nothing(shifts: ModuleType, images: np.ndarray) -> None:
    assert [shift.name for shift in shifts.SHIFTS] == ["contrast", "brightness", "blur", "inversion"]
    for shift in shifts.SHIFTS:
        clean = shift.clean if shift.name != "blur" else 1e-3
        np.testing.assert_array_equal(shift.change(images, clean), images)
        for strength in shift.strengths:
            seen = shift.change(images, strength)
            assert (seen.dtype, seen.shape) == (np.uint8, images.shape)
            assert not np.array_equal(seen, images)


def test_point_changes(shifts: ModuleType) -> None:
    pixels = np.array([[[0, 100, 255]]], np.uint8)
    assert shifts.contrast(pixels, 0.1).tolist() == [[[115, 125, 140]]]
    assert shifts.brightness(pixels, 0.4).tolist() == [[[102, 202, 255]]]
    assert shifts.inversion(pixels, 1.0).tolist() == [[[255, 155, 0]]]
    assert shifts.inversion(pixels, 0.5).tolist() == [[[128, 128, 128]]]


def test_blur(shifts: ModuleType, images: np.ndarray) -> None:
    """Against torch's convolution with the two-dimensional Gaussian."""
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    kernel = torch.outer(line, line) / line.sum() ** 2
    x = torch.from_numpy(images[:20]).double()[:, None]
    expected = torch.nn.functional.conv2d(x, kernel[None, None], padding=5)[:, 0].numpy()
    assert np.abs(shifts.blur(images[:20], 1.5) - expected).max() <= 0.5 + 1e-9


def test_checkpoints() -> None:
    """The two networks differ in their layers alone; both fit into a repository."""
    plain, whitened = (load_checkpoint(EXAMPLE / f"lenet_{name}.pt") for name in ("bn", "deconv"))
    assert sum(isinstance(module, Deconv2d) for module in whitened.module.modules()) == 3
    assert plain.training is not None
    assert whitened.training is not None
    assert plain.training["settings"] == whitened.training["settings"]
    changed = {key for key in plain.config if plain.config[key] != whitened.config[key]}
    assert changed == {"batch_norm", "deconv_block", "deconv_block_linear"}
    for name, checkpoint in (("bn", plain), ("deconv", whitened)):
        assert (EXAMPLE / f"lenet_{name}.pt").stat().st_size < 2**20
        assert checkpoint.training is not None
        history = json.loads((EXAMPLE / f"lenet_{name}.json").read_text())
        assert checkpoint.training["epochs"] == history["epochs"]


def test_record() -> None:
    """The recorded table is whole, and clean images are read as well as the checkpoints' histories say."""
    results = json.loads((EXAMPLE / "domain_shift.json").read_text())
    assert len(results["rows"]) == 13
    assert {len(row["top1"]) for row in results["rows"]} == {13}
    clean = results["rows"][0]["top1"]
    for reader, name in (("batch norm", "bn"), ("frozen", "deconv")):
        top1 = json.loads((EXAMPLE / f"lenet_{name}.json").read_text())["top1"]
        assert abs(clean[reader] - top1) < 0.01


def test_program(tmp_path: Path, images: np.ndarray) -> None:
    """On a stand-in for MNIST whose test set begins with the shipped images."""
    with np.load(EXAMPLE.parent / "mnist_test_200.npz") as data:
        labels = data["labels"].astype(np.uint8)
    for prefix, count in (("train", 60_000), ("t10k", 10_000)):
        filler = count // 200
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", np.tile(images, (filler, 1, 1)))
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", np.tile(labels, filler))
    output = tmp_path / "out"
    output.mkdir()
    command = [sys.executable, EXAMPLE / "domain_shift.py", "--data-dir", tmp_path, "--images", "64", "--json"]
    done = subprocess.run([*command, "--output", output], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results == json.loads((output / "domain_shift.json").read_text())
    assert [row["change"] for row in results["rows"]].count("contrast") == 3
    clean = results["rows"][0]["top1"]
    assert min(clean["batch norm"], clean["frozen"]) > 0.9
    assert (output / "domain_shift.svg").read_text().lstrip().startswith("<?xml")


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())
