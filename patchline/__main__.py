"""The command `patchline`, and `python -m patchline`."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line. Ctrl-C while its modules are loaded ends it without a stack trace."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # a shell may have it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from patchline.cli import main as command_line

    signal.signal(signal.SIGINT, before)
    command_line.main()


if __name__ == "__main__":
    main()
