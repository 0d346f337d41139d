"""The publisher sends captured images to RabbitMQ as jobs."""
