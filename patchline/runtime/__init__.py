"""Shared by all processes: signals, logs, connections, health, metrics."""
