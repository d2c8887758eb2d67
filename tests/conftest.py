"""What every test shares: properties are searched without a time limit an example; a loaded machine is no failure."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
