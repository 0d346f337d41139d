"""The worker: takes jobs, inspects the images and publishes verdicts."""
