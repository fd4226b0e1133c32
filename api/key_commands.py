"""`saestream keys`: who may read and write. The file is the server's; a running server sees every change at once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from api.console import complaints, console
from engine.api_keys import KeyFile, Scope
from engine.settings import load

commands = typer.Typer(help="API keys of a server: make, list and remove them.", no_args_is_help=True)

DataDir = Annotated[Path | None, typer.Option(help="of the server")]
File = Annotated[Path | None, typer.Option(help="the file of keys; api-keys.json in the data directory by default")]
Config = Annotated[Path | None, typer.Option(help="the server's TOML file")]


@commands.command()
def add(
    name: Annotated[str, typer.Argument(help="whose key it is, for lists and limits")],
    scope: Annotated[Scope, typer.Option(help="write includes read")] = "read",
    data_dir: DataDir = None,
    key_file: File = None,
    config: Config = None,
) -> None:
    """Make a key and print it: it is kept as a hash alone, and never shown again."""
    file = _file(data_dir, key_file, config)
    typer.echo(file.add(name, scope))  # alone on standard output: a script takes it as it is
    complaints.print(Text(f"{name} may {scope}; the server of {file.path} takes this key from now on", style="dim"))


@commands.command(name="list")
def list_(data_dir: DataDir = None, key_file: File = None, config: Config = None) -> None:
    """The names and scopes of all keys."""
    file = _file(data_dir, key_file, config)
    table = Table("name", "scope", "made (UTC)", "sha256", box=None, header_style="bold")
    for key in file.read():
        made = datetime.fromtimestamp(key.made_at, UTC).strftime("%Y-%m-%d %H:%M")
        table.add_row(key.name, key.scope, made, key.hash.partition(":")[2][:12])
    console.print(table if table.row_count else Text(f"{file.path} has no key", style="dim"))


@commands.command()
def remove(
    name: Annotated[str, typer.Argument(help="of the key")],
    data_dir: DataDir = None,
    key_file: File = None,
    config: Config = None,
) -> None:
    """Take a key back: from the next request on it is refused."""
    file = _file(data_dir, key_file, config)
    file.remove(name)
    complaints.print(Text(f"the key {name} is taken no more", style="dim"))


def _file(data_dir: Path | None, key_file: Path | None, config: Path | None) -> KeyFile:
    return load(config, data_dir=data_dir, key_file=key_file).api_keys
