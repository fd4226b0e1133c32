"""The commands about relations, communities and gates: `saestream flow`, `lineages`, `specializations`, `communities`, `gates`."""

from __future__ import annotations

from typing import Annotated

import typer

from api import gate_tables, relation_tables
from api.client import Client
from api.console import DEFAULT_URL, Key, Url, console, feature_of, patient
from engine.errors import BadInput

commands = typer.Typer()


@commands.command()
def flow(
    measure: Annotated[str, typer.Option(help="measure of a pair")] = "pearson",
    threshold: Annotated[float | None, typer.Option(help="a feature passes at this value or above; 0.4 by default")] = None,
    min_support: Annotated[int | None, typer.Option(help="smallest joint count; what is published by default")] = None,
    pair: Annotated[str | None, typer.Option(help="one layer pair, e.g. 3-4")] = None,
    kind: Annotated[
        str | None, typer.Option(help="list the features of --pair that passed, disappeared, are hidden, passed_into or appeared")
    ] = None,
    hidden_share: Annotated[
        float | None, typer.Option(help="hidden: at least this part of what it wrote is in the next SAE's error; 0.5 by default")
    ] = None,
    hidden_factor: Annotated[float | None, typer.Option(help="and so many times what it would be by chance; 2 by default")] = None,
    hidden_windows: Annotated[int | None, typer.Option(help="in at least so many windows; 10 by default")] = None,
    limit: Annotated[int, typer.Option(help="how many of them")] = 20,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
) -> None:
    """What passes from layer to layer, appears and disappears, among live features and all, and what is hidden in SAE errors."""
    with patient(url, api_key) as client:
        answer = client.get(
            "/v1/flow",
            measure=measure,
            threshold=threshold,
            min_support=min_support,
            hidden_share=hidden_share,
            hidden_factor=hidden_factor,
            hidden_windows=hidden_windows,
            pair=pair,
            kind=kind,
            limit=limit,
        )
    console.print(relation_tables.flow(answer))


@commands.command()
def lineages(
    feature: Annotated[str | None, typer.Argument(help="layer:index: only the lineage that it is part of")] = None,
    measure: Annotated[str, typer.Option(help="measure of a link")] = "pearson",
    threshold: Annotated[float | None, typer.Option(help="smallest value of a link; 0.4 by default")] = None,
    min_support: Annotated[int | None, typer.Option(help="smallest joint count; what is published by default")] = None,
    min_length: Annotated[int, typer.Option(help="layers, at least")] = 2,
    limit: Annotated[int, typer.Option(help="how many to show, the longest first")] = 20,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
) -> None:
    """Features that live on over layers: each other's best partner from birth to death."""
    with patient(url, api_key) as client:
        answer = client.get(
            "/v1/lineages",
            feature=feature,
            measure=measure,
            threshold=threshold,
            min_support=min_support,
            min_length=min_length,
            limit=limit,
        )
    console.print(relation_tables.lineages(answer))


@commands.command()
def specializations(
    threshold: Annotated[float, typer.Option(help="smallest necessity of each child")] = 0.8,
    coverage: Annotated[float, typer.Option(help="smallest share of the parent that the children cover together")] = 0.8,
    max_overlap: Annotated[float, typer.Option(help="largest part of a child that another child shares")] = 0.1,
    min_support: Annotated[int | None, typer.Option(help="smallest joint count; what is published by default")] = None,
    limit: Annotated[int, typer.Option(help="how many to show, the most certain first")] = 20,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
) -> None:
    """Features that are shared out among several features of the next layer."""
    with patient(url, api_key) as client:
        answer = client.get(
            "/v1/specializations",
            threshold=threshold,
            coverage=coverage,
            max_overlap=max_overlap,
            min_support=min_support,
            limit=limit,
        )
    console.print(relation_tables.specializations(answer))


@commands.command()
def communities(
    measure: Annotated[str, typer.Option(help="measure of a pair")] = "jaccard",
    min_value: Annotated[float | None, typer.Option(help="smallest value of it that joins two features; 0.1 by default")] = None,
    objective: Annotated[str, typer.Option(help="modularity or cpm")] = "modularity",
    resolution: Annotated[float | None, typer.Option(help="the higher, the smaller communities get")] = None,
    min_size: Annotated[int | None, typer.Option(help="features, at least; 5 by default")] = None,
    max_size: Annotated[int | None, typer.Option(help="features, at most; 199 by default")] = None,
    min_span: Annotated[int | None, typer.Option(help="layers, at least")] = None,
    sort: Annotated[str, typer.Option(help="stability, size or density, largest first")] = "stability",
    limit: Annotated[int, typer.Option(help="how many to show")] = 20,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
) -> None:
    """Groups of features that fire together over several layers, and how far both halves of the documents agree on them."""
    with patient(url, api_key) as client:
        answer = client.get(
            "/v1/communities",
            measure=measure,
            min_value=min_value,
            objective=objective,
            resolution=resolution,
            min_size=min_size,
            max_size=max_size,
            min_span=min_span,
            sort=sort,
            limit=limit,
        )
    console.print(relation_tables.communities(answer))


@commands.command()
def gates(
    feature: Annotated[
        str | None, typer.Argument(help="layer:index: the gates that it computes; without it, those of the run")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="and, or, and_not or k_of_n; all by default")] = None,
    verdict: Annotated[str | None, typer.Option(help="gate, joint, none or any; gate and joint by default")] = None,
    min_f1: Annotated[float | None, typer.Option(help="smallest F1")] = None,
    min_gain: Annotated[float | None, typer.Option(help="smallest gain over the best single parent")] = None,
    layer: Annotated[int | None, typer.Option(help="of features in this layer only")] = None,
    sort: Annotated[str | None, typer.Option(help="f1 (the default), gain, evidence or support, largest first")] = None,
    cells: Annotated[bool, typer.Option("--cells", help="with the truth table of each gate")] = False,
    limit: Annotated[int | None, typer.Option(help="how many to show; 20 by default")] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
) -> None:
    """Features that are boolean gates of features of an earlier layer, with how well they fit and what shows it."""
    of_run = {"kind": kind, "min_f1": min_f1, "min_gain": min_gain, "layer": layer, "sort": sort, "limit": limit}
    if feature is not None:
        at, index = feature_of(feature)
        if given := [name for name, value in of_run.items() if value is not None]:
            option = f"--{given[0].replace('_', '-')} {of_run[given[0]]}"
            raise BadInput(f"{option}: it chooses among the gates of the run, and those of {feature} are shown whole")
        with Client(url, api_key) as client:
            console.print(gate_tables.of_feature(client.get(f"/v1/features/{at}/{index}/gates", verdict=verdict, cells=cells)))
        return
    with patient(url, api_key) as client:
        answer = client.get("/v1/gates", **{**of_run, "limit": 20 if limit is None else limit}, verdict=verdict, cells=cells)
    console.print(gate_tables.of_run(answer))
