"""Settings: four sources in one order, and an error that names what is wrong."""

from pathlib import Path

import pytest

from engine.errors import BadInput
from engine.settings import Settings, load


def test_the_command_line_wins_over_the_environment_over_the_file_over_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "saestream.toml"
    config.write_text('port = 1111\nthreads = 3\nthreshold = 0.25\nhost = "::1"\n')
    monkeypatch.setenv("SAESTREAM_PORT", "2222")
    monkeypatch.setenv("SAESTREAM_THREADS", "4")
    settings = load(config, port=3333, model=None)
    assert (settings.port, settings.threads, settings.threshold, settings.host) == (3333, 4, 0.25, "::1")
    assert settings.published_k == Settings.model_fields["published_k"].default


def test_settings_survive_the_way_to_a_child_process_whatever_its_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(dictionary=[8, 16], pairs=[(0, 1)], threshold=0.5)
    monkeypatch.setenv("SAESTREAM_THRESHOLD", "9")
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("given", "named"),
    [
        pytest.param({"port": 99_999}, ["port", "99999", "65535"], id="port out of range"),
        pytest.param({"model": "gpt2"}, ["--model", "--saes"], id="model without SAEs"),
        pytest.param({"saes": "gpt2-small-res-jb"}, ["--saes", "--model"], id="SAEs without model"),
        pytest.param({"dictionary": [8]}, ["--dictionary", "[8]"], id="one layer only"),
        pytest.param({"dictionary": [8, 0]}, ["--dictionary", "[8, 0]"], id="empty dictionary"),
        pytest.param({"dictionary": [8, 8], "model": "m", "saes": "s"}, ["--dictionary", "--model"], id="dictionary and model"),
        pytest.param({"threshold": -1.0}, ["threshold", "-1.0"], id="negative threshold"),
        pytest.param({"device": "tpu"}, ["device", "tpu", "cuda"], id="unknown device"),
        pytest.param({"prot": 1}, ["prot"], id="unknown setting"),
    ],
)
def test_a_wrong_setting_is_refused_by_name_value_and_what_would_be_right(given: dict[str, object], named: list[str]) -> None:
    with pytest.raises(BadInput) as refusal:
        load(**given)
    for word in named:
        assert word in refusal.value.message


def test_a_config_file_that_is_missing_broken_or_misspelt_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        load(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("port = = 1")
    with pytest.raises(BadInput, match=r"broken\.toml"):
        load(broken)
    misspelt = tmp_path / "misspelt.toml"
    misspelt.write_text("prot = 1")
    with pytest.raises(BadInput, match="prot"):
        load(misspelt)
