"""Compound scaling (Tan and Le, ICML 2019) as a tool: larger and smaller networks of an architecture, measured.

axes     which of depth, width and resolution an architecture scales, and by which configuration keys
grid     the paper's grid of coefficients, and the steps that lead up to a budget
search   candidates, their MACs, their files, their latencies: `scale_architecture`
report   the table and the Pareto front of measured latency against MACs
plot     the same as a picture
"""
