"""Models in: ONNX files checked, given static shapes, and imported into Relax."""
