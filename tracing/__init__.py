"""Verdicts out to OpenTelemetry."""
