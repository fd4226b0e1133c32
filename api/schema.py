"""`/schema`: the OpenAPI document and its page, which work with no network.

Litestar writes the document from the types of the routes. What it can't know is added once at start: that every answer also comes
as MessagePack, what errors look like, and an example of each answer (`api/examples.py` and its like).
"""

from __future__ import annotations

from typing import Any

from litestar import Litestar, Request
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.openapi.spec import (
    Components,
    Example,
    OpenAPIMediaType,
    OpenAPIResponse,
    RequestBody,
    Schema,
    SecurityScheme,
)
from litestar.openapi.spec.enums import OpenAPIType

from api import community_examples, examples, gate_examples, graph_examples, relation_examples
from api.access import PROBES
from api.examples import PROBLEM
from api.negotiation import MSGPACK
from api.page import html
from api.problems import PROBLEM_JSON

PARAMETERS = examples.PARAMETERS | graph_examples.PARAMETERS
BODIES = examples.BODIES | graph_examples.BODIES
ANSWERS = examples.ANSWERS | relation_examples.ANSWERS | gate_examples.ANSWERS | graph_examples.ANSWERS | community_examples.ANSWERS

KEYED = {
    "401": "no API key, or one that is not known here",
    "403": "the key may not do this, or a page from elsewhere has sent it",
    "429": "too many at once, or in a second; `Retry-After` says when to ask again",
}
UPLOADED = {
    "408": "the body arrives at next to nothing a second",
    "413": "the body, or a document in it, is too large",
    "507": "the disk, or the run's quota of it, is full; nothing that is stored is lost",
}
"""Refusals that a client should be ready for, by status; `default` is any."""
UPLOADS = ("/v1/corpora", "/v1/activations")
SCHEMES = {
    "key": SecurityScheme(type="http", scheme="bearer", description="an API key of `saestream keys add`, where the server has any"),
    "password": SecurityScheme(type="http", scheme="basic", description="the key as the password, as a browser asks for it"),
}
SNAPSHOT_TAGS = {"statistics", "relations", "gates"}
"""Tags of routes whose answers have the snapshot's version as their ETag, where they are not live."""

DESCRIPTION = (
    "Cross-layer statistics of sparse-autoencoder features, while the text is still being counted. JSON by default, MessagePack "
    "by Accept: application/x-msgpack; errors are RFC 9457 problems. A feature is written layer:index. Every answer about "
    "statistics names its snapshot."
)


class LocalPage(OpenAPIRenderPlugin):
    """Renders the document with a page of our own: those that Litestar ships come from a CDN and are blank offline."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The page; it reads the document itself."""
        return html("schema.html")


def openapi(version: str) -> OpenAPIConfig:
    """Configuration of the document."""
    return OpenAPIConfig(
        title="saestream",
        version=version,
        description=DESCRIPTION,
        path="/schema",
        use_handler_docstrings=True,
        components=Components(security_schemes=dict(SCHEMES)),
        security=[{}, *({name: []} for name in SCHEMES)],
        render_plugins=[LocalPage(path="/"), JsonRenderPlugin(path="/openapi.json")],
    )


def complete(app: Litestar) -> None:
    """Add MessagePack, problems and examples to the document, before it is first read."""
    problem = OpenAPIResponse(description="a problem (RFC 9457)", content={PROBLEM_JSON: _problem_content()})
    for path, item in (app.openapi_schema.paths or {}).items():
        for method in ("get", "post"):
            operation = getattr(item, method)
            if operation is None:
                continue
            for parameter in operation.parameters or []:
                example = PARAMETERS.get(parameter.name)
                if example is not None and not parameter.examples:
                    parameter.example = example
            if (bodies := BODIES.get((method, path))) is not None:
                operation.request_body = RequestBody(content={kind: _body(value) for kind, value in bodies.items()}, required=True)
            responses = operation.responses or {}
            for status, response in responses.items():
                content = response.content or {}
                json = content.get("application/json")
                if status.startswith("2") and json is not None:
                    if (value := ANSWERS.get((method, path))) is not None:
                        json.examples = {"example": Example(summary="from the embedded demo", value=value)}
                    content[MSGPACK] = json
            responses.pop("400", None)  # Litestar's own idea of its validation error
            if method == "get" and SNAPSHOT_TAGS.intersection(operation.tags or ()):
                responses["304"] = OpenAPIResponse(
                    description="If-None-Match names the snapshot that would be answered from; no body"
                )
            responses["default"] = problem
            refusals = {} if path in PROBES else KEYED | (UPLOADED if method == "post" and path in UPLOADS else {})
            for status, description in refusals.items():
                responses[status] = OpenAPIResponse(description=description, content=problem.content)
            if path in PROBES:
                operation.security = []
            operation.responses = responses


def _body(example: Any) -> OpenAPIMediaType:
    """A raw body: routes stream it, so Litestar knows nothing of it. No schema for binary ones, as OpenAPI 3.1 wants it."""
    if example is None:
        return OpenAPIMediaType()
    kind = OpenAPIType.STRING if isinstance(example, str) else OpenAPIType.OBJECT
    return OpenAPIMediaType(schema=Schema(type=kind), examples={"example": Example(value=example)})


def _problem_content() -> OpenAPIMediaType:
    text = Schema(type=OpenAPIType.STRING)
    properties = {name: text for name in ("type", "title", "detail", "instance")}
    schema = Schema(
        type=OpenAPIType.OBJECT,
        properties={**properties, "status": Schema(type=OpenAPIType.INTEGER)},
        required=["type", "title", "status", "detail", "instance"],
    )
    return OpenAPIMediaType(schema=schema, examples={"example": Example(value=PROBLEM)})
