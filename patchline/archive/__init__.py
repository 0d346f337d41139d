"""The archive: keeps every verdict in a database, and finds it again."""
