"""The example, conf/rawservers.toml, and that of the reference: every key, its default and its limits."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from rawservers.config.converters import KINDS, allowed_values
from rawservers.config.keys import KEYS, TABLES
from rawservers.logs.access import FORMATS
from rawservers.services import DEFAULT_LISTENERS
from rawservers.settings import Config, ListenConfig, SiteConfig, settings_of
from tests.example_configuration import PATH, written
from tests.harness.configuration import EXAMPLE, keys_of, load, loaded, mistakes
from tests.harness.needs import ROOT

IN_CODE_ONLY = {"handlers", "telnet_service"}


def test_the_example_is_made_from_the_code() -> None:
    assert PATH.read_text() == written(), "python3 -m tests.example_configuration"


def test_the_example_says_the_defaults(path: Path) -> None:
    assert load(str(PATH), {}) == Config()
    assert loaded(path, EXAMPLE) == Config(listen=DEFAULT_LISTENERS)
    assert tomllib.loads(EXAMPLE)["http"]["root"] == ""


def test_the_example_holds_every_key() -> None:
    in_tables = {name for name in KEYS if name.startswith(("http.sites.", "http.auth.", "listen.tls."))}
    assert {name for name, _ in keys_of(EXAMPLE)} == KEYS.keys() - in_tables - {"listen"}
    assert set(tomllib.loads(EXAMPLE)) == {name for name in KEYS if "." not in name} | TABLES
    assert set(Config.FIELDS) - IN_CODE_ONLY == set(settings_of(Config))
    assert set(SiteConfig.FIELDS) == set(settings_of(SiteConfig))


@pytest.mark.parametrize("config", [Config, SiteConfig])
def test_every_default_is_within_its_limits(config: type[Config] | type[SiteConfig]) -> None:
    for name, setting in settings_of(config).items():
        default = getattr(config(), name)
        assert allowed_values(setting)
        if KINDS[setting.kind] in {KINDS["seconds"], KINDS["int"]} and default is not None:
            assert setting.min <= default <= setting.max


def test_every_example_of_a_value_holds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "user", KINDS["user"]._replace(check=None))
    (path.parent / "docs").mkdir()
    for config, before in ((SiteConfig, "[http]\n"), (Config, "")):
        for name, setting in settings_of(config).items():
            if setting.example:
                found = loaded(path, before + setting.example)
                thing = found.sites[0] if config is SiteConfig else found
                assert getattr(thing, name) != getattr(config(), name)


def test_the_words_and_names_are_those_of_the_rest() -> None:
    assert settings_of(Config)["log_format"].aliases.keys() == FORMATS.keys()


def test_the_example_in_the_reference(path: Path) -> None:
    reference = (ROOT / "docs" / "reference.md").read_text()
    match = re.search(r"^```toml\n(.*?)^```\n", reference, re.MULTILINE | re.DOTALL)
    assert match
    for name in ("www", "docs", "log"):
        (path.parent / name).mkdir()
    text = match[1].replace("/srv/", f"{path.parent}/").replace("/var/log/rawservers/", f"{path.parent}/log/")
    config = loaded(path, text)
    assert (config.workers, config.listen) == (0, (ListenConfig("http", ":80"), ListenConfig("telnet", ":23")))
    assert [site.root for site in config.sites] == [f"{path.parent}/www", f"{path.parent}/docs"]
    for said in mistakes(path, text.replace('"auto"', '"two"').replace("listing", "lsiting")):
        assert f"    {said.replace('conf.toml', 'rawservers.toml')}\n" in reference
