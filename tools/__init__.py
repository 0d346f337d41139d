"""What makes and checks files of this repository: run by its developers, not installed."""
