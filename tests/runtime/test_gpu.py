"""What a GPU says of itself: NVML, nvidia-smi and sysfs, each played."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

import pytest
from fake_gpu import UUID_TEXT, install

from edgeconv.runtime.gpu import (
    GpuState,
    NvmlSource,
    SmiSource,
    SysfsSource,
    find_source,
    read_state,
    reasons,
    select_gpu,
)

SMI = """#!/bin/sh
echo "$@" >>"$(dirname "$0")/asked"
case "$*" in
  *driver_version*) echo '570.86, 1980, 2619, 700.00' ;;
  *clocks_event_reasons*) echo 'Field "clocks_event_reasons.active" is not a valid field to query.'; exit 2 ;;
  *) echo '1755, 2619, 41, [N/A], 0x0000000000000044' ;;
esac
"""


class NvmlError(Exception):
    """NVMLError."""


def nvml_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("pynvml")
    handles = {UUID_TEXT: "handle"}

    def by_uuid(uuid: str) -> str:
        if uuid not in handles:
            raise NvmlError
        return handles[uuid]

    def power(handle: str) -> int:
        assert handle == "handle"
        raise NvmlError  # no sensor

    values = {
        "NVMLError": NvmlError, "NVML_CLOCK_SM": 1, "NVML_CLOCK_MEM": 2, "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None, "nvmlDeviceGetHandleByUUID": by_uuid,
        "nvmlSystemGetDriverVersion": lambda: b"570.86",
        "nvmlDeviceGetMaxClockInfo": lambda handle, kind: {1: 1980, 2: 2619}[kind],
        "nvmlDeviceGetClockInfo": lambda handle, kind: {1: 1500, 2: 2600}[kind],
        "nvmlDeviceGetTemperature": lambda handle, kind: 55,
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 700_000,
        "nvmlDeviceGetPowerUsage": power,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: 0x1 | 0x4 | 0x20,
    }  # fmt: skip
    for name, value in values.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def jetson(root: Path) -> Path:
    device = root / "sys/class/devfreq/17000000.gpu"
    device.mkdir(parents=True)
    for name, value in (("cur_freq", 918_000_000), ("min_freq", 306_000_000), ("max_freq", 1_300_500_000)):
        (device / name).write_text(f"{value}\n")
    for index, (kind, value) in enumerate((("cpu-thermal", 40_000), ("gpu-thermal", 47_500))):
        zone = root / f"sys/class/thermal/thermal_zone{index}"
        zone.mkdir(parents=True)
        (zone / "type").write_text(kind + "\n")
        (zone / "temp").write_text(f"{value}\n")
    return device


def test_the_gpu_is_identified(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    gpu = select_gpu(0)
    assert (gpu.name, gpu.compute_capability, gpu.multiprocessors) == ("NVIDIA Fake", "8.7", 16)
    assert (gpu.memory, gpu.uuid, gpu.cuda) == (2**34, UUID_TEXT, "12.6")


def test_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml_module(monkeypatch)
    source = find_source(UUID_TEXT)
    assert isinstance(source, NvmlSource)
    assert source.limits() == {
        "driver": "570.86", "clock_min": None, "clock_max": 1980, "memory_clock_max": 2619, "power_limit": 700.0,
    }  # fmt: skip
    state = read_state(source)
    assert (state.clock, state.memory_clock, state.temperature, state.power) == (1500, 2600, 55, None)
    assert state.throttling == ("power cap", "software thermal slowdown")
    assert GpuState.from_dict(json.loads(json.dumps(state.to_dict()))) == state


def test_nvidia_smi_where_nvml_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    tool = tmp_path / "nvidia-smi"
    tool.write_text(SMI)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    source = find_source(UUID_TEXT)
    assert isinstance(source, SmiSource)
    limits = source.limits()
    assert (limits["driver"], limits["clock_max"], limits["power_limit"]) == ("570.86", 1980, 700)
    state = read_state(source)
    assert (state.clock, state.temperature, state.power) == (1755, 41, None)
    assert state.throttling == ("power cap", "hardware thermal slowdown")
    assert f"--id={UUID_TEXT}" in (tmp_path / "asked").read_text()


def test_a_broken_nvidia_smi_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert find_source(UUID_TEXT, tmp_path) is None


def test_a_jetson(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    jetson(tmp_path)
    source = find_source(UUID_TEXT, tmp_path)
    assert isinstance(source, SysfsSource)
    limits = source.limits()
    assert (limits["clock_min"], limits["clock_max"], limits["driver"]) == (306.0, 1300.5, None)
    state = read_state(source)
    assert (state.clock, state.temperature, state.throttling) == (918.0, 47.5, None)


def test_a_gpu_that_nvml_does_not_know_goes_on_to_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvml_module(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_source("GPU-ffffffff", tmp_path) is None
    assert find_source(None, tmp_path) is None
    jetson(tmp_path)
    assert isinstance(find_source("GPU-ffffffff", tmp_path), SysfsSource)


def test_reasons() -> None:
    assert reasons(None) is None
    assert reasons(0x3) == ()  # idle, and clocks that somebody has set: no throttling
    assert reasons(0x88) == ("hardware slowdown", "power brake")
