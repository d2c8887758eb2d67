"""Post-training quantisation to 8 bits: ONNX in, ONNX with QuantizeLinear and DequantizeLinear out.

It needs numpy, onnx and onnxruntime; pictures need pillow, learned rounding needs torch.
"""
