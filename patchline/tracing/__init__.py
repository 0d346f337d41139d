"""Exports verdicts as OpenTelemetry traces."""
