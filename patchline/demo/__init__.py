"""The whole line on real solar cells."""
