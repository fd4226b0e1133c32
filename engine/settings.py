"""One settings object for every process: defaults < TOML file < environment (`SAESTREAM_…`) < command line.

The supervisor reads all four sources once and hands the result to its children as one environment variable, so that engine, API and
command line can't disagree.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ByteSize, Field, PlainSerializer, PlainValidator, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from engine.api_keys import KeyFile, hash_of_setting, is_loopback
from engine.errors import BadInput
from engine.threshold import Threshold

_SECRET = re.compile("key|redis|secret|password")  # of settings, whatever their spelling: values that no message repeats

MIB = 1 << 20
GIB = 1 << 30
KEY_FILE = "api-keys.json"
"""Name of the file of API keys in the data directory, where the settings name no other."""


class Settings(BaseSettings):
    """What a run can be told. Every field is also an environment variable `SAESTREAM_<FIELD>` and a key of the TOML file."""

    model_config = SettingsConfigDict(env_prefix="SAESTREAM_", extra="forbid", frozen=True, hide_input_in_errors=True)

    # what is measured
    model: str | None = Field(default=None, description="model: hub name or local Hugging Face folder")
    saes: str | None = Field(default=None, description="SAEs: SAELens RELEASE[:glob], or a folder with one SAE folder per hook")
    dictionary: list[int] | None = Field(default=None, description="dictionary sizes, one per layer, of a run without a model")
    pairs: list[tuple[int, int]] | None = Field(default=None, description="layer pairs (up, down); adjacent ones by default")
    threshold: Annotated[Threshold, PlainValidator(Threshold.parse), PlainSerializer(str)] = Field(
        default=Threshold(), description="a feature is active where its activation is above this: 0.5, or 0.2max of its own maximum"
    )
    calibration_tokens: int = Field(
        default=1_000_000, ge=1, description="a relative threshold is a share of the maximum over these first tokens"
    )
    include_special: bool = Field(default=False, description="count special tokens (BOS, EOS, padding) too")
    context_size: int | None = Field(default=None, ge=2, description="window length in tokens, BOS included; the SAEs' by default")
    gate_candidates: int = Field(
        default=6, ge=2, le=8, description="candidate parents of a downstream feature whose joint truth table is counted"
    )
    device: Literal["cpu", "cuda"] = "cpu"
    memory_budget: ByteSize | None = Field(
        default=None,
        description="memory for the statistics, such as 8GB: pair tables that do not fit are bounded",
    )
    fused_encode: bool = Field(
        default=False,
        description="encode and compact in one kernel, on a GPU, for SAEs with ReLU or JumpReLU: other last bits, another run",
    )

    # where it runs
    data_dir: Path = Path("saestream-data")
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    redis_url: str | None = None
    redis_prefix: str = "saestream:"
    log_format: Literal["human", "json"] = Field(default="human", description="lines for a person, or JSON objects with ids")
    log_requests: bool = Field(default=False, description="log every request, not only those that were slow or failed")
    threads: int = Field(default=2, ge=1, description="CPU threads of the forward pass")

    # who gets in
    key_file: Path | None = Field(
        default=None, description="file of `saestream keys`; api-keys.json in the data directory by default"
    )
    api_key: Annotated[str | None, BeforeValidator(hash_of_setting)] = Field(
        default=None, description="one more key, which may write, or the sha256:… of one; kept as its hash"
    )
    allowed_hosts: list[str] = Field(default=[], description="further names that requests may give as Host, such as a proxy's")
    cors_origins: list[str] = Field(default=[], description="origins whose pages may read and write here, e.g. https://a.example")
    trusted_proxies: list[str] = Field(default=[], description="addresses whose X-Forwarded-For is believed")

    # how much at once; full is 429 or 507 with Retry-After
    max_upload_bytes: ByteSize = Field(default=ByteSize(2 * GIB), ge=1, description="of one body, and of what it unpacks to")
    max_uploads: int = Field(default=8, ge=1, description="uploads that arrive at the same time; each may hold a few documents")
    max_subscribers: int = Field(default=200, ge=1, description="open event streams; each holds a connection to Redis")
    slow_seconds: float = Field(
        default=30.0, gt=0, description="a connection is closed that sends, or takes, next to nothing for so long"
    )
    rate_limit: float | None = Field(
        default=None, ge=0, description="requests per second of one key or address; 0: any. 200 where keys are needed, else any"
    )
    rate_burst: int = Field(default=1_000, ge=1, description="requests that may come at once, before that rate holds")

    # what is kept
    disk_quota: ByteSize | None = Field(default=None, ge=1, description="bytes of the corpus log and the inbox, e.g. 200GiB")
    min_free_bytes: ByteSize = Field(
        default=ByteSize(256 * MIB), ge=0, description="of the disk, that uploads leave to checkpoints and to others"
    )
    retention: Literal["keep", "drop"] = Field(
        default="keep", description="of text that is counted when the quota nears: keep it, or drop the oldest"
    )

    # what is published
    published_k: int = Field(default=20, ge=1, le=200, description="neighbours kept per measure and direction in Redis")
    min_support: int = Field(default=10, ge=1, description="smallest joint count of a published neighbour")
    explanations: Path | None = Field(
        default=None, description="what features are about: JSON lines of feature and text, or a Neuronpedia export"
    )
    watched_pairs: int = Field(default=100_000, ge=0, description="pairs whose intervals are kept, over all layer pairs")
    publish_interval: float = Field(default=0.3, gt=0, description="seconds between snapshots, at least")

    # how text is cut
    segment_tokens: int = Field(default=65_536, ge=128)
    quiet_ms: int = Field(default=200, ge=0, description="a segment is sealed after this long without news")
    max_document_bytes: int = Field(default=64 * MIB, ge=1)
    checkpoint_interval: float = Field(default=30.0, ge=0.0, description="seconds between checkpoints, at least")
    micro_batch_seconds: float = Field(default=0.25, gt=0, le=0.5, description="aim for the length of one micro-batch")

    @model_validator(mode="after")
    def _one_source_of_activations(self) -> Settings:
        if self.dictionary is not None:
            if self.model is not None or self.saes is not None:
                raise ValueError("--dictionary declares a run without a model: give either it or --model and --saes, not both")
            if len(self.dictionary) < 2 or min(self.dictionary) < 1:
                raise ValueError(f"--dictionary needs at least two layer sizes of 1 or more, got {self.dictionary}")
        elif (self.model is None) != (self.saes is None):
            given, missing = ("--model", "--saes") if self.saes is None else ("--saes", "--model")
            raise ValueError(f"{given} was given without {missing}: a run needs both (or --dictionary, or neither for the demo)")
        return self

    @model_validator(mode="after")
    def _a_quota_to_drop_for(self) -> Settings:
        if self.retention == "drop" and self.disk_quota is None:
            raise ValueError("retention = drop makes room within disk_quota, and there is none: give both, or neither")
        return self

    @property
    def api_keys(self) -> KeyFile:
        """The file of API keys."""
        return KeyFile(self.key_file or self.data_dir / KEY_FILE)

    @property
    def open_port(self) -> bool:
        """Whether others than this machine can reach the port."""
        return not is_loopback(self.host)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line (init) first, then the environment, then the TOML file that `load` names."""
        files = [] if cls._toml_file is None else [TomlConfigSettingsSource(settings_cls, cls._toml_file)]
        return init_settings, env_settings, *files

    _toml_file: ClassVar[Path | None] = None


def load(config: Path | None = None, **command_line: Any) -> Settings:
    """Read the settings from all four sources.

    Args:
        config: a TOML file, or None.
        command_line: the options that were given; None means "not given".

    Raises:
        BadInput: an unknown key or a value that does not fit; the message names the field, the value and what is allowed.
    """
    if config is not None and not config.is_file():
        raise BadInput(f"--config {config}: there is no such file")
    given = {name: value for name, value in command_line.items() if value is not None}
    source = type("Settings", (Settings,), {"_toml_file": config, "__annotations__": {"_toml_file": ClassVar[Path | None]}})
    try:
        return Settings.model_validate(source(**given).model_dump())
    except ValidationError as error:
        raise BadInput("; ".join(_sentence(item) for item in error.errors())) from error
    except ValueError as error:  # broken TOML
        raise BadInput(f"--config {config}: {error}") from error


def _sentence(item: Any) -> str:
    field = ".".join(str(part) for part in item["loc"])
    message = item["msg"].removeprefix("Value error, ")
    if _SECRET.search(field) or item["type"] == "extra_forbidden":  # the latter may be a secret, misspelt
        return f"{field}: {message}"
    return f"{field} = {item['input']!r}: {message}" if field else message
