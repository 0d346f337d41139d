"""Message brokers: the interface, RabbitMQ, and one in memory."""
