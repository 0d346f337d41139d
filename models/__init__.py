"""Backbones, and the code that makes them."""
