"""What runs a backbone: the CPU by OpenVINO, the Ascend by MindX."""
