"""A torch module and a Signature become an ONNX file that was loaded, checked and compared before it counts."""
