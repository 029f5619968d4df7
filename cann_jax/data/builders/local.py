"""Any file of preferences."""

from cann_jax.data.builders.base import PreferenceBuilder


class Local(PreferenceBuilder, skip_registration=True):
    """Parquet or JSON lines in any known layout; ``chosen`` is better unless told otherwise."""

    def chosen_is(self, name: str) -> str:
        return self.settings.chosen_is or "better"
