"""A simulated plant: a belt with parts on it, an arm, sensors, a PLC's program and a camera."""
