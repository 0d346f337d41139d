"""Subcommands for the console in the browser, and for its accounts."""

from __future__ import annotations

import getpass
import secrets
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchline import config
from patchline.archive import times
from patchline.cli.options import CONFIG, Settings, port
from patchline.console.roles import Role
from patchline.protocol.errors import SetupError
from patchline.runtime import signals, terminal, this_user

if TYPE_CHECKING:
    from patchline.console.accounts import Accounts
    from patchline.console.database import ConsoleDatabase

app = typer.Typer(invoke_without_command=True)
users = typer.Typer(no_args_is_help=True, help="The accounts of the console, and their roles.")
app.add_typer(users, name="users")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the account.")]
PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", metavar="FILE", help="Its first line; without it, you are asked.")
]
_EXTRA = {"argon2", "jinja2", "reportlab", "starlette", "uvicorn", "werkzeug"}


@app.callback()
def console(
    context: typer.Context,
    pages_port: Annotated[
        int | None, typer.Option("--port", metavar="PORT", min=0, max=65_535, help="Instead of console.port.")
    ] = None,
    metrics_port: Annotated[int | None, port("Serves metrics, /healthz and /readyz.")] = None,
    hand_in: Annotated[
        Path | None,
        typer.Option("--hand-in", metavar="FOLDER", help="Let engineers send pictures to the lines it has folders of."),
    ] = None,
    config_file: Settings = CONFIG,
) -> None:
    """Show the line, its parts and pictures in the browser, and let people judge rejects.

    It reads the archive, hears the statuses of the line, and publishes what people judge. Address and port are in the
    section console of the configuration. Add an account before the first log-in: patchline console users add --help.

    With --hand-in people send pictures of parts to a line, which judges them as those of its camera. FOLDER/LINE must
    be there, and this must run: patchline publish --line LINE --watch --hand-in FOLDER

    Example:  patchline console
    """
    if context.invoked_subcommand is not None:
        return
    settings = config.load(config_file)
    with needs_the_extra():
        from patchline.console import process
    if pages_port is not None:
        section = settings.console.model_copy(update={"port": pages_port})
        settings = settings.model_copy(update={"console": section})
    with signals.stop_event() as stop:
        process.run(settings, stop, metrics_port, hand_in)


@users.command()
def add(
    name: Name,
    role: Annotated[Role, typer.Option(help="See, review parts, engineer, or also keep the accounts: admin.")],
    password_file: PasswordFile = None,
    config_file: Settings = CONFIG,
) -> None:
    """Add an account.

    Example:  patchline console users add anna --role review
    """
    with _accounts(config_file) as accounts:
        accounts.add(name, role, _password(password_file), _me())
    print(f"{name}: {role}")


@users.command(name="list")
def list_(config_file: Settings = CONFIG) -> None:
    """List the accounts, their roles, when they were changed last, and which are disabled.

    Example:  patchline console users list
    """
    with _accounts(config_file) as accounts:
        for one in accounts.all():
            print(f"{one.name}  {one.role}  {times.local(one.changed_at)}{'  disabled' if one.disabled else ''}")


@users.command()
def role(
    name: Name,
    role: Annotated[Role, typer.Argument(help="The new role.")],
    config_file: Settings = CONFIG,
) -> None:
    """Give an account another role. It must log in again.

    Example:  patchline console users role anna engineer
    """
    with _accounts(config_file) as accounts:
        accounts.set_role(name, role, _me())
    print(f"{name}: {role}")


@users.command()
def password(name: Name, password_file: PasswordFile = None, config_file: Settings = CONFIG) -> None:
    """Give an account another password. It must log in again.

    Example:  patchline console users password anna
    """
    with _accounts(config_file) as accounts:
        accounts.set_password(name, _password(password_file), _me())
    print(f"{name}: has a new password")


@users.command()
def disable(name: Name, config_file: Settings = CONFIG) -> None:
    """Let nobody log in with an account, end its log-ins, and keep it.

    Example:  patchline console users disable anna
    """
    with _accounts(config_file) as accounts:
        accounts.disable(name, _me())
    print(f"{name}: disabled")


@users.command()
def enable(name: Name, config_file: Settings = CONFIG) -> None:
    """Let the person of a disabled account log in again.

    Example:  patchline console users enable anna
    """
    with _accounts(config_file) as accounts:
        accounts.enable(name, _me())
    print(f"{name}: enabled")


@users.command()
def remove(name: Name, config_file: Settings = CONFIG) -> None:
    """Remove an account, and end its log-ins. What the person has judged stays.

    Example:  patchline console users remove anna
    """
    with _accounts(config_file) as accounts:
        accounts.remove(name, _me())
    print(f"{name}: removed")


@app.command()
def audit(
    most: Annotated[int, typer.Option(min=1, metavar="N", help="How many entries at most.")] = 100,
    config_file: Settings = CONFIG,
) -> None:
    """Print who has changed what by the console, the latest first.

    Example:  patchline console audit --most 20
    """
    from patchline.console import audit as log

    with _database(config_file) as database:
        for entry in log.latest(database, most):
            line = f"{times.local(entry.at)}  {entry.who}  {entry.what}  {entry.detail}"
            print(terminal.printable(line.rstrip()))


@contextmanager
def _database(config_file: Path) -> Iterator[ConsoleDatabase]:
    from patchline.console.database import ConsoleDatabase
    from patchline.runtime.connections import now_ms

    with closing(ConsoleDatabase(config.load(config_file).console.database, now_ms)) as database:
        yield database


@contextmanager
def _accounts(config_file: Path) -> Iterator[Accounts]:
    with needs_the_extra():
        from patchline.console.accounts import Accounts
        from patchline.console.passwords import Passwords
    with _database(config_file) as database:
        yield Accounts(database, Passwords())


@contextmanager
def needs_the_extra() -> Iterator[None]:
    """Enclose imports of the console's packages: one that is missing is an error that says what to install."""
    try:
        yield
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        raise SetupError(
            f"{error.name} is not installed; the console needs: pip install 'patchline[console]'"
        ) from error


def first_admin(config_file: Path, once: bool = True) -> tuple[str, str] | None:
    """Add an administrator if there is no account. Return its name and password, which nobody can see again.

    Args:
        config_file: names the file of the accounts.
        once: the person must choose another password at the first log-in.
    """
    with _accounts(config_file) as accounts:
        if accounts.all():
            return None
        name, password = "admin", secrets.token_urlsafe(12)
        accounts.add(name, Role.ADMIN, password, _me(), given=once)
        return name, password


def _password(file: Path | None) -> str:
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").splitlines()[0]
        except (OSError, UnicodeError, IndexError) as error:
            raise SetupError(f"{file}: has no password in its first line ({error})") from error
    if not sys.stdin.isatty():
        raise SetupError("there is no terminal to ask for a password; use --password-file FILE")
    first = getpass.getpass("Password: ")
    if getpass.getpass("Once more: ") != first:
        raise SetupError("the two passwords differ; nothing was changed")
    return first


def _me() -> str:
    return f"command line ({this_user.person()})"
