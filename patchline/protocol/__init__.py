"""The protocol between the processes: messages, errors, exchanges and queues."""
