"""What travels between processes: messages, errors, exchanges and queues."""
