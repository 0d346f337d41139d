"""What the people who run a plant use."""
