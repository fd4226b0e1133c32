"""One settings object for every process: defaults < TOML file < environment (`SAESTREAM_…`) < command line.

The supervisor reads all four sources once and hands the result to its children as one environment variable, so that engine, API and
command line can't disagree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ByteSize, Field, PlainSerializer, PlainValidator, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from engine.errors import BadInput
from engine.threshold import Threshold

MIB = 1 << 20


class Settings(BaseSettings):
    """What a run can be told. Every field is also an environment variable `SAESTREAM_<FIELD>` and a key of the TOML file."""

    model_config = SettingsConfigDict(env_prefix="SAESTREAM_", extra="forbid", frozen=True)

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

    # where it runs
    data_dir: Path = Path("saestream-data")
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    redis_url: str | None = None
    redis_prefix: str = "saestream:"
    log_format: Literal["human", "json"] = Field(default="human", description="lines for a person, or JSON objects with ids")
    log_requests: bool = Field(default=False, description="log every request, not only those that were slow or failed")
    threads: int = Field(default=2, ge=1, description="CPU threads of the forward pass")

    # what is published
    published_k: int = Field(default=20, ge=1, le=200, description="neighbours kept per measure and direction in Redis")
    min_support: int = Field(default=10, ge=1, description="smallest joint count of a published neighbour")
    explanations: Path | None = Field(
        default=None, description="what features are about: JSON lines of feature and text, or a Neuronpedia export"
    )
    watched_pairs: int = Field(default=100_000, ge=0, description="pairs whose intervals are kept, over all layer pairs")
    publish_interval: float = Field(default=1.0, gt=0, description="seconds between snapshots, at least")

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
    return f"{field} = {item['input']!r}: {message}" if field else message
