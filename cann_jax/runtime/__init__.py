"""Devices, sharding, processes, preemption and the compilation cache."""
