"""PKU-SafeRLHF: helpfulness and harmlessness judged apart (Dai et al. 2024, Ji et al. 2024)."""

from cann_jax.data.builders.base import PreferenceBuilder


class PkuSafeRlhf30k(PreferenceBuilder, skip_registration=True):
    """The 30,000 pairs of the paper's experiments; no harm categories."""

    REPOSITORY = "PKU-Alignment/PKU-SafeRLHF-30K"


class PkuSafeRlhf(PreferenceBuilder, skip_registration=True):
    """The full set, with harm categories; a folder a model that answered (``subset: Alpaca-7B``)."""

    REPOSITORY = "PKU-Alignment/PKU-SafeRLHF"
