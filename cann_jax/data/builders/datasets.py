"""The preference data sets that ``preferences.dataset`` may name."""

from pathlib import PurePosixPath

from cann_jax.data.builders.base import PreferenceBuilder


class PkuSafeRlhf(PreferenceBuilder):
    """Separate labels of helpfulness and harmlessness (Ji et al. 2024).

    With harm categories, and a folder per model that answered (``subset: Alpaca-7B``).
    """

    REPOSITORY = "PKU-Alignment/PKU-SafeRLHF"


class PkuSafeRlhf30k(PreferenceBuilder):
    """The 30,000 pairs of the paper's experiments, without harm categories (Dai et al. 2024)."""

    REPOSITORY = "PKU-Alignment/PKU-SafeRLHF-30K"


class HhRlhf(PreferenceBuilder):
    """Anthropic's dialogues, split at the last assistant turn (Bai et al. 2022).

    They are labelled safer in folders ``harmless-*`` and better in ``helpful-*``.
    """

    REPOSITORY = "Anthropic/hh-rlhf"
    EXCLUDED = ("red-team-attempts",)  # transcripts, not pairs

    def chosen_is(self, name: str) -> str | None:
        """Return what crowd workers were asked for by the folder's name, unless the settings say it."""
        if self.settings.chosen_is is None:
            for folder in PurePosixPath(name).parts[:-1]:
                for prefix, dimension in (("harmless", "safer"), ("helpful", "better")):
                    if folder.startswith(prefix):
                        return dimension
        return self.settings.chosen_is


class Local(PreferenceBuilder):
    """Local files, Parquet or JSON lines, in any known layout."""

    def chosen_is(self, name: str) -> str:
        """Return ``better``, unless the settings say otherwise."""
        return self.settings.chosen_is or "better"


BUILDERS = {
    "pku_safe_rlhf_30k": PkuSafeRlhf30k,
    "pku_safe_rlhf": PkuSafeRlhf,
    "hh_rlhf": HhRlhf,
    "local": Local,
}
