"""The nearest good patch of every patch, exactly."""
