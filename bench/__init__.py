"""Benchmarks of the line, each measured against a limit of the machine or a baseline."""
