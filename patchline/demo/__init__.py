"""A complete line on pictures of solar cells."""
