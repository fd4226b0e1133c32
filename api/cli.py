"""The `saestream` command: `serve` and `demo` start a server, the others are clients of a running one."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.logging import RichHandler
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from api import key_commands, relation_commands, tables
from api.client import Client, chunks, media_type
from api.console import DEFAULT_URL, Key, Url, complaints, console, feature_of, patient
from engine import logs
from engine.errors import BadInput, NotReady, SaestreamError
from engine.settings import Settings, load

app = typer.Typer(
    help="Live statistics on how SAE features evolve across the layers of a language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def serve(
    model: Annotated[str | None, typer.Option(help="model: hub name or local folder")] = None,
    saes: Annotated[str | None, typer.Option(help="SAEs: SAELens RELEASE[:glob], or a folder with one SAE folder per hook")] = None,
    dictionary: Annotated[str | None, typer.Option(help="D0,D1,…: dictionary sizes of a run without a model")] = None,
    pairs: Annotated[str | None, typer.Option(help="layer pairs, e.g. 0-1,1-2,0-5; adjacent ones by default")] = None,
    threshold: Annotated[
        str | None, typer.Option(help="a feature is active above this activation: 0.5, or 0.2max of its own maximum")
    ] = None,
    calibration_tokens: Annotated[int | None, typer.Option(help="take those maxima over the first so many tokens")] = None,
    include_special: Annotated[bool | None, typer.Option(help="count special tokens (BOS, EOS, padding) too")] = None,
    context_size: Annotated[int | None, typer.Option(help="window length in tokens; the SAEs' by default")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda")] = None,
    memory_budget: Annotated[
        str | None, typer.Option(help="memory for the statistics, such as 8GB: pair tables that don't fit are bounded")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="where the corpus log and the checkpoints live")] = None,
    host: Annotated[str | None, typer.Option(help="address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="port to listen on")] = None,
    redis_url: Annotated[str | None, typer.Option(help="your Redis; a private one by default")] = None,
    api_key: Annotated[
        str | None, typer.Option(help="a key that may write, beside those of `saestream keys`; also SAESTREAM_API_KEY")
    ] = None,
    disk_quota: Annotated[str | None, typer.Option(help="of the corpus log and what waits for it, e.g. 200GiB")] = None,
    retention: Annotated[str | None, typer.Option(help="when the quota nears, keep the oldest counted text or drop it")] = None,
    log_format: Annotated[str | None, typer.Option(help="human or json (one object a line)")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with any of the settings")] = None,
) -> None:
    """Serve until stopped: engine, API and private Redis. Without a model, the bundled demo model."""
    from engine.supervisor import Supervisor

    settings = load(
        config,
        model=model,
        saes=saes,
        dictionary=_numbers("--dictionary", dictionary),
        pairs=None if pairs is None else [_pair(item) for item in pairs.split(",")],
        threshold=threshold,
        calibration_tokens=calibration_tokens,
        include_special=include_special,
        context_size=context_size,
        device=device,
        memory_budget=memory_budget,
        data_dir=data_dir,
        host=host,
        port=port,
        redis_url=redis_url,
        api_key=api_key,
        disk_quota=disk_quota,
        retention=retention,
        log_format=log_format,
    )
    _log(settings)
    raise typer.Exit(Supervisor(settings).run())


@app.command()
def doctor(
    model: Annotated[str | None, typer.Option(help="model: hub name or local folder")] = None,
    saes: Annotated[str | None, typer.Option(help="SAEs: SAELens release, or a folder")] = None,
    dictionary: Annotated[str | None, typer.Option(help="D0,D1,…: dictionary sizes of a run without a model")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="where the corpus log and the checkpoints live")] = None,
    host: Annotated[str | None, typer.Option(help="address that it listens on")] = None,
    port: Annotated[int | None, typer.Option(help="port that it listens on")] = None,
    redis_url: Annotated[str | None, typer.Option(help="your Redis; a private one by default")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with any of the settings")] = None,
) -> None:
    """See whether a run can start with these settings, or how the one that runs is. Exit status 1 when something is wrong."""
    from api.doctor import examine

    settings = load(
        config,
        model=model,
        saes=saes,
        dictionary=_numbers("--dictionary", dictionary),
        device=device,
        data_dir=data_dir,
        host=host,
        port=port,
        redis_url=redis_url,
    )
    bad = False
    for found in examine(settings):
        console.print(tables.finding(found))
        bad |= found.state == "wrong"
    raise typer.Exit(int(bad))


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="end when the text is counted, instead of serving on")] = False,
    data_dir: Annotated[Path, typer.Option(help="where the corpus log and the checkpoints live")] = Path("saestream-data"),
    port: Annotated[int, typer.Option(help="port to listen on")] = 8000,
) -> None:
    """Serve the bundled model and stream this Python's own documentation through it; then print what was found."""
    from api.demo import run

    raise typer.Exit(run(console, data_dir=data_dir, port=port, once=once))


@app.command()
def feed(
    files: Annotated[list[Path], typer.Argument(help="text, .jsonl, .parquet, or .msgpack (activations)")],
    corpus: Annotated[str | None, typer.Option(help="name of the corpus; the file's stem by default")] = None,
    wait: Annotated[
        str, typer.Option(help="durable: return when it is safe on disk; visible: when it is in the statistics")
    ] = "durable",
    key: Annotated[str | None, typer.Option(help="idempotency key: sending it again changes nothing (one file only)")] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
) -> None:
    """Send files to a running server. A file that is sent twice is counted twice, unless --key says that it is the same."""
    if wait not in ("durable", "visible"):
        raise BadInput(f"--wait {wait}: must be durable or visible")
    if key is not None and len(files) > 1:
        raise BadInput(f"--key names one upload, {len(files)} files were given: send them one by one")
    kinds = {path: media_type(path) for path in files}
    with Client(url, api_key) as client, _progress() as progress:
        uploads = {path: _send(client, progress, path, kinds[path], corpus or path.stem, key) for path in files}
        if wait == "visible":
            for path, upload in uploads.items():
                uploads[path] = _until_counted(client, progress, path.name, upload)
    for path, upload in uploads.items():
        console.print(tables.upload_line(path.name, upload))
    if any(upload["state"] == "failed" for upload in uploads.values()):
        raise typer.Exit(1)


@app.command()
def status(url: Url = DEFAULT_URL, api_key: Key = None) -> None:
    """What a running server has counted, and how it is doing."""
    with Client(url, api_key) as client:
        answers = client.get("/v1/status"), client.get("/v1/corpora")
        try:
            series = client.get("/v1/convergence", last=1)
        except NotReady:
            series = None  # nothing is published yet, and status says so
        console.print(tables.status(*answers, series))


@app.command()
def neighbors(
    feature: Annotated[str, typer.Argument(help="layer:index, e.g. 3:17")],
    direction: Annotated[str | None, typer.Option(help="downstream or upstream; both by default")] = None,
    measure: Annotated[str, typer.Option(help="measure to rank by")] = "jaccard",
    k: Annotated[int, typer.Option("-k", "--k", help="how many")] = 10,
    min_support: Annotated[int | None, typer.Option(help="smallest joint count; the server's default is 10")] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
) -> None:
    """The nearest features of a feature in the layers before and after it, with counts."""
    layer, index = feature_of(feature)
    with Client(url, api_key) as client:
        known = client.get(f"/v1/features/{layer}/{index}")
        console.print(tables.feature_line(known))
        for one in [direction] if direction else ["upstream", "downstream"]:
            try:
                answer = client.get(
                    f"/v1/features/{layer}/{index}/neighbors", direction=one, measure=measure, k=k, min_support=min_support
                )
            except SaestreamError as error:
                if direction:
                    raise
                console.print(Text(f"{one}: {error.message}", style="dim"))
                continue
            console.print(tables.neighbors(answer))


@app.command()
def watch(
    features: Annotated[
        list[str] | None, typer.Argument(help="pairs, upstream then downstream: 0:3 1:3 …; none lists them")
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
) -> None:
    """Keep the intervals of pairs of features from here on, or list the pairs that were asked for."""
    named = features or []
    if len(named) % 2:
        raise BadInput(f"{len(named)} features: pairs are given as upstream downstream, e.g. 0:3 1:3")
    for feature in named:
        feature_of(feature)
    with Client(url, api_key) as client:
        if named:
            pairs = [{"up": up, "down": down} for up, down in zip(named[::2], named[1::2], strict=True)]
            console.print(tables.pinned_line(client.post("/v1/watch", {"pairs": pairs})))
        else:
            console.print(tables.pinned(client.get("/v1/watch", limit=1_000)))


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="a corpus")],
    b: Annotated[str, typer.Argument(help="another corpus")],
    layer: Annotated[int | None, typer.Option(help="features of this layer; of all by default")] = None,
    edges: Annotated[str | None, typer.Option(help="up-down, e.g. 0-1: the watched pairs of these layers instead")] = None,
    measure: Annotated[str, typer.Option(help="of the edges: jaccard, sufficiency, necessity or pearson")] = "jaccard",
    k: Annotated[int, typer.Option("-k", "--k", help="how many")] = 20,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
) -> None:
    """What differs most between two corpora: densities of features, or with --edges similarities of watched pairs."""
    if edges is not None and layer is not None:
        raise BadInput(f"--layer {layer} and --edges {edges}: features are compared, or edges; give one of them")
    with Client(url, api_key) as client:
        if edges is None:
            console.print(tables.compared(client.get("/v1/compare", a=a, b=b, layer=layer, limit=k)))
        else:
            up, down = _pair(edges, "--edges")
            console.print(tables.compared(client.get("/v1/compare/edges", a=a, b=b, up=up, down=down, measure=measure, limit=k)))


app.add_typer(relation_commands.commands)
app.add_typer(key_commands.commands, name="keys")


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="the HTML file to write; one that is there is replaced")] = Path("report.html"),
    url: Url = DEFAULT_URL,
    api_key: Key = None,
) -> None:
    """Write one self-contained HTML file about the run: flow, dead features, convergence, histograms, examples with their text."""
    from api import report as page

    page.check_out(out)
    with patient(url, api_key) as client, complaints.status("reading the run …"):
        found = page.gather(client)
        page.write(found, out)
    if found.notice:
        console.print(Text(found.notice, style="yellow"))
    console.print(Text(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {tables.number(found.run.status['tokens'])} tokens"))


def _send(client: Client, progress: Progress, path: Path, kind: str, corpus: str, key: str | None) -> Any:
    task = progress.add_task(f"sending {path.name}", total=path.stat().st_size)
    route = "/v1/activations" if kind == "application/x-msgpack" else "/v1/corpora"
    return client.upload(route, chunks(path, lambda count: progress.advance(task, count)), kind, key, name=corpus)


def _until_counted(client: Client, progress: Progress, name: str, upload: Any) -> Any:
    task = progress.add_task(f"counting {name}", total=None)
    while upload["state"] not in ("counted", "failed"):
        time.sleep(0.2)
        upload = client.get(f"/v1/uploads/{upload['id']}")
        progress.update(task, total=upload["tokens_received"], completed=upload["tokens_counted"])
    return upload


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn() if not console.is_terminal else DownloadColumn(),
        TimeRemainingColumn(),
        console=complaints,
        transient=True,
    )


def _numbers(option: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"{option} {text}: must be whole numbers separated by commas, e.g. 1024,1024,1024") from None


def _pair(text: str, option: str = "--pairs") -> tuple[int, int]:
    up, _, down = text.partition("-")
    if not (up.isdigit() and down.isdigit()):
        raise BadInput(f"{option} {text}: must be up-down, two layer numbers, e.g. 0-1,1-2")
    return int(up), int(down)


def _log(settings: Settings) -> None:
    """What this process logs as a server: on the console, or as the others where that is to be JSON."""
    if settings.log_format == "json":
        return logs.setup("supervisor", "json", settings.log_requests)
    handler = RichHandler(console=complaints, show_path=False, log_time_format="%H:%M:%S")
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)


def main() -> None:
    """Entry point: errors that were written for the user are printed as one sentence, exit status 1."""
    try:
        app()
    except SaestreamError as error:
        complaints.print(Text.assemble((f"{error.title}: ", "red"), error.message), soft_wrap=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
