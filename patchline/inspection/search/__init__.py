"""Exact nearest-neighbour search in a memory bank."""
