"""From a QDQ file to one whose layers are 8-bit operators, and the count of values that this changes by a step.

passes   every rewrite of `edgeconv.rewrite` that makes an 8-bit operator, one after the other
steps    the operators against DequantizeLinear, the float operator and QuantizeLinear, each on the same input
report   what became of the file, drawn and as JSON
api      all of it in order: `fuse_model`
"""
