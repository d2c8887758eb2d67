"""Measuring: latency, throughput, memory and where the time goes. `edgeconv.bench.api.benchmark` is the entry."""
