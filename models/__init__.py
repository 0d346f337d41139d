"""Backbones, and what makes them."""
