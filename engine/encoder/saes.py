"""Find and load the SAEs of a run: one per hook point.

`--saes` names a local folder with one SAE folder per hook point, a release of SAELens' directory (`gpt2-small-res-jb`) or a hub
repository of SAE folders (`owner/name`); `:GLOB[,GLOB…]` after it picks by id where there are several per hook point.

1. List what the name has: ids and configurations, no weights.
2. Keep what the globs match; several at one hook point are an error that lists them.
3. Load them by sae_lens, class included, float32.

sae_lens takes some seconds and 300 MB to import, so it is imported here and only when SAEs are loaded.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from engine.encoder.fingerprint import tensors
from engine.encoder.hub import UNLOADABLE, first_line, snapshot
from engine.encoder.no_pickle import safetensors_only
from engine.encoder.sae_config import SaeConfig, read_config
from engine.errors import DoesNotFit

log = logging.getLogger(__name__)

_CFG = "cfg.json"
# Part of an SAE's configuration that doesn't change what it computes.
_NOT_THE_SAE = frozenset({"device", "dtype", "metadata"})


@dataclass(frozen=True, eq=False)
class Sae:
    """A loaded SAE: its configuration, and the sae_lens object in float32."""

    config: SaeConfig
    sae: Any

    @property
    def hook(self) -> str:
        """Name of its hook point."""
        return self.config.hook

    def fingerprint(self) -> str:
        """Hash of the weights and of what the SAE does with them."""
        options = {key: value for key, value in self.sae.cfg.to_dict().items() if key not in _NOT_THE_SAE}
        return tensors(self.sae.state_dict(), {**options, "centred": self.config.centred})


@dataclass(frozen=True)
class _Listed:
    """An SAE that a name has: its id, how to read its configuration, how to load it."""

    id: str
    read: Callable[[], SaeConfig]
    load: Callable[[str], Any]


def load_saes(spec: str, device: str = "cpu") -> list[Sae]:
    """Load the SAEs that `spec` names, in the order of their ids (`checks.fit` puts them in the order of the model).

    Args:
        spec: `FOLDER[:GLOB]`, `RELEASE[:GLOB]` or `OWNER/NAME[:GLOB]`; several globs are separated by commas.
        device: "cpu" or "cuda".

    Raises:
        DoesNotFit: no such folder, release or repository; nothing matches; several SAEs at one hook point; a configuration that
            lacks what is needed; files that sae_lens can't load.
    """
    name, globs = _split(spec)
    listed = _list(name)
    chosen = [item for item in listed if not globs or any(fnmatchcase(item.id, glob) for glob in globs)]
    if not chosen:
        raise DoesNotFit(f"--saes {spec}: nothing in {name} matches {','.join(globs)}; it has {_ids(listed)}")
    configs = [item.read() for item in chosen]
    _one_per_hook(name, chosen, configs)
    return [_load(item, config, device) for item, config in zip(chosen, configs, strict=True)]


def _split(spec: str) -> tuple[str, list[str]]:
    if Path(spec).is_dir():
        return spec, []
    name, colon, globs = spec.rpartition(":")
    return (name, [glob for glob in globs.split(",") if glob]) if colon else (spec, [])


def _list(name: str) -> list[_Listed]:
    if Path(name).is_dir():
        return _local(Path(name))
    if name.startswith((".", "/", "~")):
        raise DoesNotFit(f"--saes {name}: there is no such folder")
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    if name in directory:
        return _release(name, directory[name])
    if "/" in name:
        return _repository(name)
    close = [release for release in sorted(directory) if release.startswith(name[:6])] or sorted(directory)
    raise DoesNotFit(
        f"--saes {name}: neither a local folder nor one of the {len(directory)} releases that SAELens knows, such as "
        f"{', '.join(close)}"
    )


def _local(folder: Path) -> list[_Listed]:
    """Every folder with a `cfg.json` below `folder`, or `folder` itself."""
    found = sorted(path.parent for path in folder.rglob(_CFG))
    if not found:
        raise DoesNotFit(f"--saes {folder}: no SAE folder (with {_CFG} and sae_weights.safetensors) in it")
    return [_folder(path, path.relative_to(folder).as_posix()) for path in found]


def _folder(path: Path, id: str) -> _Listed:
    def load(device: str) -> Any:
        from sae_lens import SAE

        return SAE.load_from_disk(path, device=device, dtype="float32")

    return _Listed(id, lambda: _read_file(str(path), path / _CFG), load)


def _repository(name: str) -> list[_Listed]:
    """The SAE folders of a hub repository that isn't in SAELens' directory: its configurations are fetched, its weights later."""
    folder = snapshot(name, ["*/" + _CFG])
    found = sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob(_CFG))
    if not found:
        raise DoesNotFit(f"--saes {name}: the repository has no SAE folder (with {_CFG} and sae_weights.safetensors) in it")

    def one(id: str) -> _Listed:
        return _Listed(
            id, lambda: _read_file(f"{name}/{id}", folder / id / _CFG), lambda device: _from_pretrained(name, id, device)
        )

    return [one(id) for id in found]


def _release(name: str, release: Any) -> list[_Listed]:
    """The SAEs of a release of SAELens' directory; formats of other libraries are converted by sae_lens."""

    def one(id: str) -> _Listed:
        def read() -> SaeConfig:
            from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

            try:
                config = load_sae_config_from_huggingface(name, id)
            except UNLOADABLE as error:
                raise DoesNotFit(f"SAE {name}/{id}: its configuration can't be read: {first_line(error)}") from error
            return read_config(f"{name}/{id}", config, config, release.neuronpedia_id.get(id))

        return _Listed(id, read, lambda device: _from_pretrained(name, id, device))

    return [one(id) for id in release.saes_map]


def _from_pretrained(release: str, id: str, device: str) -> Any:
    from sae_lens import SAE

    return SAE.from_pretrained(release, id, device=device, dtype="float32")


def _read_file(source: str, path: Path) -> SaeConfig:
    from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting

    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        config = handle_config_defaulting(dict(raw))
    except UNLOADABLE as error:
        raise DoesNotFit(f"SAE {source}: its {_CFG} can't be read: {first_line(error)}") from error
    return read_config(source, raw, config)


def _load(item: _Listed, config: SaeConfig, device: str) -> Sae:
    try:
        with warnings.catch_warnings(), safetensors_only(f"SAE {config.source}"):
            warnings.simplefilter("ignore")  # what they say is said below, once and with the hook's name
            sae = item.load(device)
    except UNLOADABLE as error:
        log.debug("loading SAE %s failed", config.source, exc_info=error)
        raise DoesNotFit(f"SAE {config.source} can't be loaded by sae_lens: {first_line(error)}") from error
    sae.eval()
    sae.requires_grad_(False)
    if sae.cfg.normalize_activations in ("expected_average_only_in", "covariance_whitening"):
        log.warning(
            "SAE at %s was trained on %s inputs, and the factor is not in its files: activations are computed without it",
            config.hook,
            sae.cfg.normalize_activations,
        )
    if config.of_weights:
        log.warning("SAE at %s was trained on another state of the model (%s)", config.hook, config.of_weights)
    return Sae(config, sae)


def _one_per_hook(name: str, chosen: Sequence[_Listed], configs: Sequence[SaeConfig]) -> None:
    at: dict[str, list[str]] = {}
    for item, config in zip(chosen, configs, strict=True):
        at.setdefault(config.hook, []).append(item.id)
    if max(map(len, at.values())) > 1:
        raise DoesNotFit(
            f"--saes {name} has several SAEs at one hook point; choose one for each with {name}:GLOB (several globs are separated "
            f"by commas). It has {_table(at)}"
        )


def _table(at: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"at {hook}: {', '.join(ids)}" for hook, ids in at.items())


def _ids(listed: Sequence[_Listed]) -> str:
    return ", ".join(item.id for item in listed)
