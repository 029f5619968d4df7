"""Preferences in local files."""

from cann_jax.data.builders.base import PreferenceBuilder


class Local(PreferenceBuilder):
    """Parquet or JSON lines in any known layout."""

    def chosen_is(self, name: str) -> str:
        """Return ``better``, unless the settings say otherwise."""
        return self.settings.chosen_is or "better"
