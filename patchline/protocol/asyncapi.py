"""The AsyncAPI 3.0 document of the messages, for clients in other languages."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pydantic

from patchline.protocol import (
    bank_message,
    gate_messages,
    image_files,
    judgement_message,
    messages,
    picture_message,
    shadow_message,
    status_message,
    topology,
)

_Model = type[pydantic.BaseModel]
_CHANNELS: tuple[tuple[str, str, str, str, _Model], ...] = (
    # name, exchange, routing key, description, class of the messages
    (
        "jobs",
        topology.JOBS,
        "{line}.{category}",
        "One image to inspect; the body is the encoded image. An image whose deadline has passed goes to the exchange "
        f"{topology.BACKLOG} instead, so that it delays no other.",
        messages.Job,
    ),
    (
        "parts",
        topology.PARTS,
        "{line}",
        "A part that will be inspected; published and confirmed before its job.",
        messages.Announcement,
    ),
    ("verdicts", topology.VERDICTS, "{line}.{category}.{decision}", "The result of a job, as JSON.", messages.Verdict),
    (
        "pictures",
        topology.PICTURES,
        "{line}.{category}.{decision}",
        "The image of a job, or the heat map of its verdict, for the archive; published after the verdict if the "
        "configuration asks for it.",
        picture_message.Picture,
    ),
    (
        "acts",
        topology.ACTS,
        "{line}",
        "What a gate is about to do with a part, and what its arm has done, as JSON.",
        gate_messages.Act,
    ),
    (
        "outcomes",
        topology.ACTS,
        "{line}.outcome",
        "What became of a part, if it is not what was to be expected, as JSON.",
        gate_messages.OutcomeRecord,
    ),
    (
        "confirmations",
        topology.ACTS,
        "{line}.confirmed",
        "The sensor behind the arm saw a part, and in which bin, as JSON.",
        gate_messages.ConfirmationRecord,
    ),
    (
        "judgements",
        topology.JUDGEMENTS,
        "{judgement}",
        "What a person says of a part after its verdict, as JSON. The archive keeps it; no gate hears it.",
        judgement_message.Judgement,
    ),
    (
        "status",
        topology.STATUS,
        "{role}.{line}",
        "What a process is doing, every second, as JSON; the line is `all` for a process that serves all lines.",
        status_message.Status,
    ),
    (
        "shadows",
        topology.SHADOWS,
        "{line}.{category}",
        "What a shadow bank says of a part beside its verdict, as JSON. The archive keeps it; no gate hears it.",
        shadow_message.ShadowJudgement,
    ),
    (
        "banks",
        topology.BANKS,
        "{category}",
        "Another version of a memory bank is active. Workers that have a store look at it then, as JSON.",
        bank_message.BankNews,
    ),
)
_TYPES: dict[_Model, str] = {
    messages.Job: messages.JOB_TYPE,
    messages.Announcement: messages.PART_TYPE,
    messages.Verdict: messages.VERDICT_TYPE,
    picture_message.Picture: picture_message.PICTURE_TYPE,
    gate_messages.Act: gate_messages.ACT_TYPE,
    gate_messages.OutcomeRecord: gate_messages.OUTCOME_TYPE,
    gate_messages.ConfirmationRecord: gate_messages.CONFIRMATION_TYPE,
    judgement_message.Judgement: judgement_message.JUDGEMENT_TYPE,
    status_message.Status: status_message.STATUS_TYPE,
    shadow_message.ShadowJudgement: shadow_message.SHADOW_TYPE,
    bank_message.BankNews: bank_message.BANK_TYPE,
}
# Their fields are AMQP properties and headers.
_IN_HEADERS = (messages.Job, messages.Announcement, picture_message.Picture)
_SENT = (
    messages.Job,
    messages.Announcement,
    judgement_message.Judgement,
)  # by clients in other languages, which receive the others
_PROPERTIES = {"job_id", "content_type"}  # AMQP properties of a job or announcement; the other fields are headers


def asyncapi() -> dict[str, Any]:
    """Return an AsyncAPI 3.0 document, generated from the classes that parse the messages."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Patchline",
            "version": metadata.version("patchline"),
            "description": "One verdict for each image, over AMQP 0-9-1: persistent messages on topic exchanges. The "
            "message id is the id of the job (a status has none), and the type is the name of the message.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            name: _channel(name, exchange, key, text, model) for name, exchange, key, text, model in _CHANNELS
        },
        "operations": {
            f"{'send' if model in _SENT else 'receive'}{model.__name__}": {
                "action": "send" if model in _SENT else "receive",
                "channel": {"$ref": f"#/channels/{name}"},
            }
            for name, _, _, _, model in _CHANNELS
        },
    }


def _channel(name: str, exchange: str, routing_key: str, text: str, model: _Model) -> dict[str, Any]:
    words = [word.strip("{}") for word in routing_key.split(".")]
    return {
        "address": routing_key,
        "description": text,
        "parameters": {word: {"description": f"the {word}"} for word in words},
        "messages": {model.__name__: {"name": _TYPES[model], **_content(name, model)}},
        "bindings": {
            "amqp": {"is": "routingKey", "exchange": {"name": exchange, "type": "topic", "durable": True}},
        },
    }


def _content(channel: str, model: _Model) -> dict[str, Any]:
    schema = model.model_json_schema(
        ref_template=f"#/channels/{channel}/messages/{model.__name__}/payload/$defs/{{model}}"
    )
    for defined in (schema, *schema.get("$defs", {}).values()):
        if defined["type"] == "object":  # readers ignore the fields of a later build
            defined["additionalProperties"] = True
    if model not in _IN_HEADERS:
        return {"contentType": "application/json", "payload": schema}
    fields = {name: field for name, field in schema["properties"].items() if name not in _PROPERTIES}
    required = [name for name in schema["required"] if name not in _PROPERTIES]
    headers = {"type": "object", "properties": fields, "required": required}
    if model in (messages.Job, picture_message.Picture):
        types = ", ".join(dict.fromkeys(image_files.CONTENT_TYPES.values()))
        text = f"one of {types}" if model is messages.Job else "the encoded file"
        body = {"type": "string", "format": "binary", "description": text}
        return {"headers": headers, "payload": body}
    return {"headers": headers, "payload": {"type": "string", "maxLength": 0}}
