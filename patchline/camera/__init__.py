"""Cameras: what they show at a trigger becomes the job of an announced part."""
