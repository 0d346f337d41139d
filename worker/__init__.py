"""The process that inspects, one per device."""
