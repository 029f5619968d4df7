"""Anthropic's hh-rlhf: dialogues, split at the last assistant turn (Bai et al. 2022)."""

from pathlib import PurePosixPath

from cann_jax.data.builders.base import PreferenceBuilder

# Prefix of a folder's name → what its crowd workers were asked to prefer.
_ASKED_FOR = {"harmless": "safer", "helpful": "better"}


class HhRlhf(PreferenceBuilder):
    """Dialogues labelled safer in folders ``harmless-*`` and better in ``helpful-*``."""

    REPOSITORY = "Anthropic/hh-rlhf"
    EXCLUDED = ("red-team-attempts",)  # transcripts, not pairs

    def chosen_is(self, name: str) -> str | None:
        """Return what the folder says, unless the settings do."""
        if self.settings.chosen_is is not None:
            return self.settings.chosen_is
        folders = PurePosixPath(name).parts[:-1]
        asked = [what for start, what in _ASKED_FOR.items() for part in folders if part.startswith(start)]
        return asked[0] if asked else None
