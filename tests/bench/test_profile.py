from __future__ import annotations

import pytest

from edgeconv.bench.profile import Profile, summarize_events


def event(name: str, start: int, duration: int, operator: str = "", category: str = "Node") -> dict[str, object]:
    arguments = {"op_name": operator, "provider": "CPUExecutionProvider"} if operator else {}
    return {"name": name, "ts": start, "dur": duration, "tid": 1, "cat": category, "args": arguments}


def trace(runs: int) -> list[dict[str, object]]:
    """Runs of 100 us: Conv 40, If 30 with two Relu of 10 inside, so 30 us outside of operators. The first is slow."""
    events = []
    for index in range(runs):
        start, factor = index * 10_000, 50 if index == 0 else 1
        events += [
            event("conv_kernel_time", start + 5, 40 * factor, "Conv"),
            event("relu_kernel_time", start + 55 * factor, 10 * factor, "Relu"),
            event("relu_kernel_time", start + 66 * factor, 10 * factor, "Relu"),
            event("if_kernel_time", start + 50 * factor, 30 * factor, "If"),
            event("SequentialExecutor::Execute", start + 2, 90 * factor, category="Session"),
            event("model_run", start, 100 * factor, category="Session"),
        ]
    return events


def test_times_by_node_are_of_the_node_alone() -> None:
    profile = summarize_events(trace(5), skipped=1)
    assert profile.runs == 4
    assert profile.run_milliseconds == pytest.approx(0.1)
    assert [(node.node, node.operator, node.provider) for node in profile.nodes] == [
        ("conv", "Conv", "CPU"),
        ("relu", "Relu", "CPU"),
        ("if", "If", "CPU"),
    ]
    assert [node.milliseconds for node in profile.nodes] == pytest.approx([0.04, 0.02, 0.01])
    assert [node.share for node in profile.nodes] == pytest.approx([0.4, 0.2, 0.1])
    assert [node.calls for node in profile.nodes] == [1, 2, 1]
    assert profile.unattributed_milliseconds == pytest.approx(0.03)


def test_sums_by_operator() -> None:
    others = (event("other_kernel_time", start, 4, "Relu") for start in (10_090, 20_090))
    events = [*trace(3), *others]
    rows = summarize_events(events, skipped=1).by_operator()
    assert [(row.operator, row.node) for row in rows] == [("Conv", "1"), ("Relu", "2"), ("If", "1")]
    assert rows[1].milliseconds == pytest.approx(0.024)
    assert rows[1].calls == pytest.approx(3)


def test_nodes_after_the_last_complete_run_do_not_count() -> None:
    events = [*trace(3), event("conv_kernel_time", 40_000, 40, "Conv")]
    assert summarize_events(events, skipped=1).nodes[0].calls == 1


def test_too_short_a_trace_counts_nothing() -> None:
    assert summarize_events(trace(1), skipped=1) == Profile(0, 0.0, (), 0.0)


def test_profile_survives_json() -> None:
    profile = summarize_events(trace(4), skipped=1)
    assert Profile.from_dict(profile.to_dict()) == profile
