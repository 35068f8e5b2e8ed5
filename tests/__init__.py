"""Tests, a package of its own: dcase-util installs another of that name, which would hide a plain folder."""
