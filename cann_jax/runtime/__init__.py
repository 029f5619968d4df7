"""Devices, processes, preemption and the compilation cache."""
