"""The subcommands of the command line: only wiring."""
