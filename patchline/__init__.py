"""Inspects parts on production lines: images in over RabbitMQ, one accountable verdict for each."""
