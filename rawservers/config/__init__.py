"""The configuration file, in TOML: a file -> Config, or all errors in it."""
