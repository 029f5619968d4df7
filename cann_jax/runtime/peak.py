"""Peak compute of known devices.

Sources: the specification tables of cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e, and NVIDIA's data
sheets of A100 (SXM), H100 (SXM) and H200, without sparsity (read November 2026).
"""

PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}
"""Bfloat16 operations per second, by ``jax.Device.device_kind``; a TPU v5 is a v5p."""
