"""NVIDIA GPUs: which one it is, what limits it has, and how it is doing (clocks, power, temperature, throttling).

Clocks and throttling come from NVML (the package nvidia-ml-py), else from nvidia-smi, else, on a Jetson, from sysfs.
Nothing here needs privileges, and nothing changes a setting. What a machine does not tell is None, never a guess.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from edgeconv.errors import InputError
from edgeconv.runtime.engine_device import cuda, find_gpu

THROTTLING = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Reasons (bits of NVML's mask) for which a GPU that has work runs below the clock it could have."""


@dataclass(frozen=True)
class GpuInfo:
    """A GPU and its limits.

    Attributes:
        name: As the driver gives it.
        compute_capability: Such as ``8.7``.
        multiprocessors: Their number.
        memory: Bytes; on a Jetson the CPU shares them.
        uuid: As NVML writes it.
        cuda: Newest CUDA that the driver serves, such as ``13.0``.
        driver: Version of the driver.
        clock_min: Lowest clock of the multiprocessors that may be chosen, MHz; equal to the highest where it is locked.
        clock_max: Highest.
        memory_clock_max: Highest clock of the memory, MHz.
        power_limit: W.
        source: What told the limits and tells the state: ``NVML``, ``nvidia-smi``, ``sysfs``, or None.
    """

    name: str
    compute_capability: str
    multiprocessors: int | None = None
    memory: int | None = None
    uuid: str | None = None
    cuda: str | None = None
    driver: str | None = None
    clock_min: float | None = None
    clock_max: float | None = None
    memory_clock_max: float | None = None
    power_limit: float | None = None
    source: str | None = None


@dataclass(frozen=True)
class GpuState:
    """A GPU at one moment.

    Attributes:
        seconds: Monotonic time.
        clock: Of the multiprocessors, MHz.
        memory_clock: Of the memory, MHz.
        temperature: °C.
        power: W.
        throttling: Reasons out of `THROTTLING` that hold now; None where they are not told.
    """

    seconds: float
    clock: float | None = None
    memory_clock: float | None = None
    temperature: float | None = None
    power: float | None = None
    throttling: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "throttling": None if self.throttling is None else list(self.throttling)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GpuState:
        """Read what `to_dict` wrote."""
        reasons = data["throttling"]
        return cls(**{**data, "throttling": None if reasons is None else tuple(reasons)})


def select_gpu(device: int) -> GpuInfo:
    """Make a GPU the calling thread's own, and identify it.

    Args:
        device: Its number among those that the process sees (CUDA_VISIBLE_DEVICES).

    Raises:
        InputError: There is no GPU of that number beside others.
        MissingDependencyError: There is no GPU, its driver is missing or too old, or cuda-bindings is not installed.
    """
    first = find_gpu()
    runtime = cuda()
    _, count = runtime.cudaGetDeviceCount()
    if not 0 <= device < count:
        raise InputError(
            f"there is no GPU {device}: {count} {'is' if count == 1 else 'are'} visible, counted from 0 ({first.name}"
            f"{'' if count == 1 else ' and others'}).",
            "Choose another --device; CUDA_VISIBLE_DEVICES says which GPUs a process sees.",
        )
    runtime.cudaSetDevice(device)
    _, properties = runtime.cudaGetDeviceProperties(device)
    _, version = runtime.cudaDriverGetVersion()
    name = properties.name.decode(errors="replace").strip("\0") if properties.name else first.name
    return GpuInfo(
        name=name,
        compute_capability=f"{properties.major}.{properties.minor}",
        multiprocessors=int(properties.multiProcessorCount),
        memory=int(properties.totalGlobalMem),
        uuid=_uuid(getattr(properties.uuid, "bytes", b"")),
        cuda=f"{version // 1000}.{version % 1000 // 10}" if version else None,
    )


def free_memory() -> int | None:
    """Bytes of the current GPU that nobody has taken, None where it does not tell."""
    error, free, _ = cuda().cudaMemGetInfo()
    return None if int(error) else int(free)


class Source(Protocol):
    """What tells limits and state."""

    name: str

    def limits(self) -> dict[str, Any]:
        """Fields of `GpuInfo`: driver, clock_min, clock_max, memory_clock_max, power_limit."""
        ...

    def state(self) -> dict[str, Any]:
        """Fields of `GpuState` but for the time."""
        ...


def find_source(uuid: str | None, root: Path = Path("/")) -> Source | None:
    """Return the first source that knows the GPU, None if there is none.

    Args:
        uuid: The GPU's; None where the driver does not tell it.
        root: Where ``sys`` is.
    """
    if uuid is not None:
        try:
            return NvmlSource(importlib.import_module("pynvml"), uuid)
        except Exception:  # not installed; or it has exceptions of its own for a driver that is not there
            pass
        tool = shutil.which("nvidia-smi")
        if tool is not None:
            smi = SmiSource(lambda fields: _query(tool, uuid, fields))
            if smi.limits()["driver"] is not None:
                return smi
    devices = sorted((root / "sys/class/devfreq").glob("*"))
    for device in devices:
        if any(word in device.name for word in ("gpu", "ga10b", "gb10b", "gv11b")):
            return SysfsSource(device, root)
    return None


class NvmlSource:
    """NVML, through the package nvidia-ml-py.

    Args:
        nvml: The module ``pynvml``.
        uuid: The GPU's.
    """

    name = "NVML"

    def __init__(self, nvml: Any, uuid: str) -> None:
        self._nvml = nvml
        nvml.nvmlInit()
        self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)

    def limits(self) -> dict[str, Any]:
        """Read the limits."""
        driver = self._ask("nvmlSystemGetDriverVersion", handle=False)
        power = self._ask("nvmlDeviceGetEnforcedPowerLimit")
        return {
            "driver": driver.decode() if isinstance(driver, bytes) else driver,
            "clock_min": None,
            "clock_max": self._ask("nvmlDeviceGetMaxClockInfo", self._nvml.NVML_CLOCK_SM),
            "memory_clock_max": self._ask("nvmlDeviceGetMaxClockInfo", self._nvml.NVML_CLOCK_MEM),
            "power_limit": None if power is None else power / 1000,
        }

    def state(self) -> dict[str, Any]:
        """Read the state."""
        power = self._ask("nvmlDeviceGetPowerUsage")
        mask = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if mask is None:
            mask = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return {
            "clock": self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM),
            "memory_clock": self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_MEM),
            "temperature": self._ask("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU),
            "power": None if power is None else power / 1000,
            "throttling": reasons(mask),
        }

    def _ask(self, function: str, *arguments: Any, handle: bool = True) -> Any:
        try:
            return getattr(self._nvml, function)(*([self._handle] if handle else []), *arguments)
        except (AttributeError, self._nvml.NVMLError):  # older than the function, or a GPU without the sensor
            return None


class SmiSource:
    """nvidia-smi.

    Args:
        query: Gives the values of some of its fields, None where it fails.
    """

    name = "nvidia-smi"

    def __init__(self, query: Callable[[tuple[str, ...]], list[str] | None]) -> None:
        self._query = query

    def limits(self) -> dict[str, Any]:
        """Read the limits."""
        fields = ("driver_version", "clocks.max.sm", "clocks.max.mem", "enforced.power.limit")
        driver, clock, memory, power = self._query(fields) or [""] * 4
        return {
            "driver": driver if driver[:1].isdigit() else None,
            "clock_min": None,
            "clock_max": _number(clock),
            "memory_clock_max": _number(memory),
            "power_limit": _number(power),
        }

    def state(self) -> dict[str, Any]:
        """Read the state."""
        fields = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")
        # The mask changed its name; an unknown field fails the whole query.
        for mask in ("clocks_event_reasons.active", "clocks_throttle_reasons.active"):
            values = self._query((*fields, mask))
            if values is not None:
                break
        clock, memory, temperature, power, active = values or [""] * 5
        return {
            "clock": _number(clock),
            "memory_clock": _number(memory),
            "temperature": _number(temperature),
            "power": _number(power),
            "throttling": reasons(int(active, 16)) if active.startswith("0x") else None,
        }


class SysfsSource:
    """A Jetson's GPU clock and temperature.

    Args:
        device: Its directory in ``/sys/class/devfreq``.
        root: Where ``sys`` is.
    """

    name = "sysfs"

    def __init__(self, device: Path, root: Path = Path("/")) -> None:
        self._device, self._root = device, root

    def limits(self) -> dict[str, Any]:
        """Read the limits."""
        return {
            "driver": None,
            "clock_min": self._megahertz("min_freq"),
            "clock_max": self._megahertz("max_freq"),
            "memory_clock_max": None,
            "power_limit": None,
        }

    def state(self) -> dict[str, Any]:
        """Read the state."""
        temperature = None
        for zone in sorted((self._root / "sys/class/thermal").glob("thermal_zone*")):
            if "gpu" in _text(zone / "type").lower():
                temperature = _number(_text(zone / "temp"))
        return {
            "clock": self._megahertz("cur_freq"),
            "memory_clock": None,
            "temperature": None if temperature is None else temperature / 1000,
            "power": None,
            "throttling": None,
        }

    def _megahertz(self, name: str) -> float | None:
        hertz = _number(_text(self._device / name))
        return None if hertz is None else hertz * 1e-6


def read_state(source: Source) -> GpuState:
    """Read a GPU's state now."""
    return GpuState(time.monotonic(), **source.state())


def reasons(mask: int | None) -> tuple[str, ...] | None:
    """Return the names of what in NVML's mask is throttling; None for no mask."""
    return None if mask is None else tuple(name for bit, name in THROTTLING.items() if mask & bit)


def _uuid(raw: Any) -> str | None:
    digits = bytes(raw).hex() if raw else ""
    if len(digits) != 32 or not digits.strip("0"):
        return None
    return "GPU-" + "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _query(tool: str, uuid: str, fields: tuple[str, ...]) -> list[str] | None:
    command = [tool, f"--id={uuid}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    values = [value.strip() for value in done.stdout.strip().splitlines()[0].split(",")] if done.stdout.strip() else []
    return values if done.returncode == 0 and len(values) == len(fields) else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
