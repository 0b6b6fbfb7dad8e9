"""One interface to run a network's parts: torch, ONNX Runtime, and what is built from them."""
