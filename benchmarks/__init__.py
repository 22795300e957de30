"""What the library costs: `python -m benchmarks` times it, weighs it and compares it with plain JAX."""
