"""What schemathesis needs to know of us, loaded into its process by `test_contract`: how our bodies and answers are written, which
values the run under test has, and that a 503 with `Retry-After` is no failure if the request is answered when it is sent again.

`CONTRACT_RUN` names a JSON file: `known` (parameter → values, "path parameter" where they depend on the route), `dictionaries`, and
`tally`, a file to which every answer's operation, status and content type is appended.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import msgpack
import schemathesis
from fuzzed_bodies import bodies
from hypothesis import strategies as st

PATIENCE = 30.0
MSGPACK = "application/x-msgpack"

run = json.loads(Path(os.environ["CONTRACT_RUN"]).read_text())
tally = open(run["tally"], "a", buffering=1)  # noqa: SIM115  (as long as the process)

for media_type, strategy in bodies(run["dictionaries"]).items():
    schemathesis.openapi.media_type(media_type, strategy)


@schemathesis.deserializer(MSGPACK)
def unpacked(context: schemathesis.DeserializationContext, response: schemathesis.Response) -> Any:
    return msgpack.unpackb(response.content)


@schemathesis.hook
def flatmap_case(context: schemathesis.HookContext, case: schemathesis.Case) -> st.SearchStrategy[schemathesis.Case]:
    """Three in four requests with values that the run has: made-up ones alone seldom get behind the first check of a route."""
    operation = context.operation
    assert operation is not None

    def values(name: str) -> st.SearchStrategy[Any]:
        return st.sampled_from(run["known"].get(f"{operation.path} {name}") or run["known"][name])

    def is_known(name: str) -> bool:
        return name in run["known"] or f"{operation.path} {name}" in run["known"]

    in_path = {name: values(name) for name in case.path_parameters or {} if is_known(name)}
    query = [parameter for parameter in operation.query if is_known(parameter.name)]
    needed = {parameter.name: values(parameter.name) for parameter in query if parameter.is_required}
    free = {parameter.name: values(parameter.name) for parameter in query if not parameter.is_required}
    accept = st.sampled_from(["application/json", MSGPACK, "*/*", f"{MSGPACK};q=0.5, application/json;q=0.4"])

    @st.composite
    def mixed(draw: st.DrawFn) -> schemathesis.Case:
        case.headers = {**(case.headers or {}), "Accept": draw(accept)}
        if draw(st.integers(0, 3)):
            case.path_parameters = {**(case.path_parameters or {}), **draw(st.fixed_dictionaries(in_path))}
            case.query = draw(st.fixed_dictionaries(needed, optional=free))
        return case

    return mixed()


@schemathesis.hook
def after_call(context: schemathesis.HookContext, case: schemathesis.Case, response: schemathesis.Response) -> None:
    kind = (response.headers.get("content-type") or [""])[0]
    print(case.operation.label, response.status_code, kind, f"{response.elapsed:.3f}", sep="\t", file=tally)


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext, failure: Any, case: schemathesis.Case, response: schemathesis.Response
) -> bool:
    """Keep a failure, unless it is a 503 that keeps its promise."""
    if response.status_code != 503 or "retry-after" not in response.headers:
        return True
    if "max_staleness_ms" in (case.query or {}):
        return False  # a bound that the newest snapshot does not keep
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(float(response.headers["retry-after"][0]))
        response = case.call()
        if response.status_code != 503:
            return response.status_code >= 500
    return True
