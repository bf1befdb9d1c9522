"""Passes over the ONNX graph and over the Relax module; `lab.compile.pipeline` lists them in order."""
