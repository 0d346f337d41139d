"""What the line costs, against the limits of the machine."""
