"""What every process shares: its signals, its logs, its surroundings."""
