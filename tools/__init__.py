"""Run by people: fit, evaluate, convert, bench, services, demo."""
