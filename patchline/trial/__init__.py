"""A whole plant on one host, started by one command for a trial."""
