"""What every process needs: signals, logs, connections, health, metrics."""
