"""What to do about a refusal by RabbitMQ."""

from __future__ import annotations

from typing import Any

INTERNAL_ERROR = 541  # reply code of AMQP 0-9-1
LOGIN = "correct the user or the password in the url; its file is read again at every attempt"


def reason(error: BaseException) -> str:
    """Return the cause of a failed connection, which pika 1.4 nests in several exceptions, in one short text."""
    while True:
        inner = getattr(error, "exceptions", error.args)
        nested = getattr(error, "exception", inner[-1] if inner else None)
        if not isinstance(nested, BaseException):
            return getattr(error, "strerror", None) or repr(error)
        error = nested


def login(node: Any) -> dict[str, object]:
    """Return what to log of a refused login: pika's parameters of the connection without the password."""
    return {"advice": LOGIN, "user": node.credentials.username, "host": node.host, "port": node.port}


def unusable(hosts: str, error: BaseException, login_refused: bool) -> str:
    """Return the error for a connection that could not be made or used."""
    if login_refused:
        return f"RabbitMQ at {hosts} refused the login; {LOGIN}"
    if getattr(error, "reply_code", None) == INTERNAL_ERROR:
        advice = "if it goes on, restart its node: quorum queues keep what they hold"
        return f"RabbitMQ at {hosts} failed ({reason(error)}); {advice}"
    return f"RabbitMQ at {hosts} cannot be used ({reason(error)}); is it running, and is the url correct?"


def topology(reply_code: int, reply_text: str) -> str:
    """Return the error for a refused declaration."""
    reply = f"({reply_code} {reply_text})"
    if reply_code == 404:
        return f"a queue or exchange is missing {reply}; an administrator creates it with: patchline topology"
    if reply_code == 403:
        return (
            f"this user may not create queues {reply}; set broker.make_queues to false, and have an administrator run: "
            "patchline topology"
        )
    if reply_code != 406:
        return f"RabbitMQ refused the topology {reply}"
    return (
        f"a queue or exchange of that name exists with other arguments {reply}. RabbitMQ cannot change the arguments "
        "of an existing queue: empty it, delete it with `rabbitmqctl delete_queue NAME` and start again, or set the "
        "limits under `broker:` in the configuration to those of the queue"
    )
