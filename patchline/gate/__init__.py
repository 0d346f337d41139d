"""Verdicts out to the reject gate."""
