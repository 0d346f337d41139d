"""Devices that run a backbone: the CPU with OpenVINO, the Ascend with MindX."""
