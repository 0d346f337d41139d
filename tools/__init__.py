"""Developer tools that generate or check files of this repository. They are not installed."""
