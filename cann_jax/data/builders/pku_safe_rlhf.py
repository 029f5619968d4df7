"""PKU-SafeRLHF: separate labels of helpfulness and harmlessness (Dai et al. 2024, Ji et al. 2024)."""

from cann_jax.data.builders.base import PreferenceBuilder


class PkuSafeRlhf30k(PreferenceBuilder):
    """The 30,000 pairs of the paper's experiments, without harm categories."""

    REPOSITORY = "PKU-Alignment/PKU-SafeRLHF-30K"


class PkuSafeRlhf(PreferenceBuilder):
    """The full set, with harm categories, and a folder per model that answered (``subset: Alpaca-7B``)."""

    REPOSITORY = "PKU-Alignment/PKU-SafeRLHF"
