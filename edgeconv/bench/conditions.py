"""The state of the machine before and after the timed runs, and what in it casts doubt on them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeconv.bench.environment import read_text

if TYPE_CHECKING:
    from edgeconv.runtime.gpu import GpuInfo, GpuState, Source


@dataclass(frozen=True)
class Snapshot:
    """Readings at one moment; None where the machine does not give them.

    Attributes:
        seconds: Monotonic time.
        load: Load average over a minute.
        frequency: Mean current frequency of the CPUs, MHz.
        temperature: Hottest thermal zone, °C.
        throttle_events: Sum of the thermal throttle counters of all cores and packages.
        busy: CPU seconds that all CPUs have worked.
        stolen: CPU seconds that the hypervisor gave to other machines.
        own: CPU seconds of this process and of the children that have ended.
    """

    seconds: float
    load: float | None
    frequency: float | None
    temperature: float | None
    throttle_events: int | None
    busy: float | None
    stolen: float | None
    own: float

    @classmethod
    def take(cls, root: Path = Path("/")) -> Snapshot:
        """Read the machine's state."""
        load = (read_text(root / "proc/loadavg") or "").split()
        busy, stolen = _processor_time(root)
        times = os.times()
        return cls(
            seconds=time.monotonic(),
            load=float(load[0]) if load else None,
            frequency=_frequency(root),
            temperature=_temperature(root),
            throttle_events=_throttle_events(root),
            busy=busy,
            stolen=stolen,
            own=times.user + times.system + times.children_user + times.children_system,
        )


@dataclass(frozen=True)
class Conditions:
    """The state of the machine around the timed runs.

    Attributes:
        before: Just before.
        after: Just after.
        clock_overhead_ns: What the measuring loop reports for an empty call.
        gpu: The GPU's state between timed turns; empty on the CPU, and where nothing tells it.
    """

    before: Snapshot
    after: Snapshot
    clock_overhead_ns: float
    gpu: tuple[GpuState, ...] = ()

    @property
    def other_cpus(self) -> float | None:
        """CPUs that worked for others meanwhile, on average."""
        if self.before.busy is None or self.after.busy is None:
            return None
        others = (self.after.busy - self.before.busy) - (self.after.own - self.before.own)
        return max(0.0, others / max(self.after.seconds - self.before.seconds, 1e-9))

    @property
    def stolen_cpus(self) -> float | None:
        """CPUs that the hypervisor took away meanwhile, on average."""
        if self.before.stolen is None or self.after.stolen is None:
            return None
        return (self.after.stolen - self.before.stolen) / max(self.after.seconds - self.before.seconds, 1e-9)

    def warnings(self, governor: tuple[str, ...] | None, boost: bool | None) -> list[str]:
        """Say what casts doubt on the results.

        Args:
            governor: Frequency governors in use.
            boost: Whether turbo frequencies are allowed.
        """
        found = []
        if governor and set(governor) != {"performance"}:
            found.append(
                f"the frequency governor is {', '.join(governor)}: clocks change with the load "
                "(sudo cpupower frequency-set -g performance; on Jetson: sudo jetson_clocks)"
            )
        if self.throttle_events:
            found.append(
                f"the CPU throttled (its counters rose by {self.throttle_events}): it is too hot or short of power"
            )
        if self.other_cpus is not None and self.other_cpus > 0.25:
            found.append(f"other processes kept {self.other_cpus:.1f} CPUs busy meanwhile")
        if self.stolen_cpus is not None and self.stolen_cpus > 0.02:
            found.append(f"the hypervisor took {self.stolen_cpus:.2f} CPUs away meanwhile")
        drop = self.frequency_drop
        if drop is not None and drop > 0.1:
            note = " (turbo frequencies are allowed)" if boost else ""
            found.append(f"the CPU frequency fell by {drop:.0%} during the run{note}")
        return found

    def gpu_warnings(self, gpu: GpuInfo) -> list[str]:
        """Say what casts doubt on times on a GPU.

        Args:
            gpu: The GPU.
        """
        if gpu.source is None:
            return ["the GPU's clocks, power and throttling are not recorded: pip install nvidia-ml-py (needs NVML)"]
        found = []
        for reason in dict.fromkeys(reason for state in self.gpu for reason in state.throttling or ()):
            count = sum(reason in (state.throttling or ()) for state in self.gpu)
            found.append(f"the GPU throttled ({reason}) in {count} of {len(self.gpu)} looks at it")
        clocks = [state.clock for state in self.gpu if state.clock is not None]
        if clocks and min(clocks) < 0.9 * max(clocks):
            found.append(
                f"the GPU's clock varied between {min(clocks):.0f} and {max(clocks):.0f} MHz: lock it (sudo nvidia-smi "
                "-lgc CLOCK; on Jetson: sudo jetson_clocks)"
            )
        return found

    @property
    def throttle_events(self) -> int | None:
        """Thermal throttle events during the run."""
        if self.before.throttle_events is None or self.after.throttle_events is None:
            return None
        return self.after.throttle_events - self.before.throttle_events

    @property
    def frequency_drop(self) -> float | None:
        """Fall of the mean frequency, as a part of the frequency before."""
        if self.before.frequency is None or self.after.frequency is None:
            return None
        return 1 - self.after.frequency / self.before.frequency

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            **asdict(self),
            "gpu": [state.to_dict() for state in self.gpu],
            "other_cpus": self.other_cpus,
            "stolen_cpus": self.stolen_cpus,
            "throttle_events": self.throttle_events,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Conditions:
        """Read what `to_dict` wrote."""
        from edgeconv.runtime.gpu import GpuState

        states = tuple(GpuState.from_dict(state) for state in data.get("gpu", ()))
        return cls(Snapshot(**data["before"]), Snapshot(**data["after"]), data["clock_overhead_ns"], states)


class GpuWatch:
    """Looks at a GPU now and then, between timed turns.

    Args:
        source: Tells its state; None for none.
        interval: Least seconds from one look to the next: each takes some milliseconds, in which the GPU rests.

    Attributes:
        states: What was seen.
    """

    def __init__(self, source: Source | None, interval: float = 0.5) -> None:
        self._source, self._interval = source, interval
        self.states: list[GpuState] = []

    def look(self) -> None:
        """Read the state, unless it was read a moment ago."""
        from edgeconv.runtime.gpu import read_state

        if self._source is None:
            return
        if not self.states or time.monotonic() - self.states[-1].seconds >= self._interval:
            self.states.append(read_state(self._source))


def _processor_time(root: Path) -> tuple[float | None, float | None]:
    """CPU seconds worked and stolen since boot, from the first line of /proc/stat."""
    match = re.match(r"cpu +(.+)", read_text(root / "proc/stat") or "")
    if match is None:
        return None, None
    ticks = [int(value) for value in match.group(1).split()]
    user, nice, system, _idle, _iowait, interrupt, soft_interrupt, *rest = ticks
    hertz = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + interrupt + soft_interrupt) / hertz, (rest[0] / hertz if rest else None)


def _frequency(root: Path) -> float | None:
    cpus = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    values = [int(text) / 1000 for path in cpus if (text := read_text(path)) and text.isdigit()]
    if not values:
        values = [
            float(value) for value in re.findall(r"cpu MHz\s*:\s*([\d.]+)", read_text(root / "proc/cpuinfo") or "")
        ]
    return sum(values) / len(values) if values else None


def _temperature(root: Path) -> float | None:
    texts = (read_text(path) for path in (root / "sys/class/thermal").glob("thermal_zone*/temp"))
    # Zones of parts that are switched off report absurd values.
    values = [int(text) / 1000 for text in texts if text and re.fullmatch(r"-?\d+", text)]
    return max((value for value in values if -40 < value < 150), default=None)


def _throttle_events(root: Path) -> int | None:
    paths = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
    counts = [int(text) for path in paths if (text := read_text(path)) and text.isdigit()]
    return sum(counts) if counts else None
