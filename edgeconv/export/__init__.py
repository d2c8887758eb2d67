"""From PyTorch to one `.onnx` file that every runtime opens, and the proof that it computes the same.

graph         a module or ExportedProgram becomes an ONNX graph whose custom operators are single nodes
forms         the operators' functions put into the file, expanded in place, or left out
precision     how the kervolutions are asked to multiply
deconvolution what the deconvolutions whiten with
shapes        which axes are dynamic, and how users write that
parity        PyTorch against every runtime; the first layer that differs
report        the parity report, drawn and as JSON
pipeline      all of it in order: `to_onnx`, `export_checkpoint`, `verify_model`
"""
