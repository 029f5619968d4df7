"""Packaging; what was tested together is pinned in constraints.txt."""

from setuptools import find_packages, setup

TESTS = ["pytest", "hypothesis", "ruff", "mypy", "torch", "peft", "scipy"]

setup(
    name="cann-jax",
    version="0.1.0",
    description="Constrained alignment of language models in one shot (MoCAN, PeCAN), in JAX and Flax",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["cann_jax", "cann_jax.*"]),
    package_data={"cann_jax": ["py.typed"]},
    install_requires=[
        "jax>=0.9",
        "flax>=0.12",
        "optax",
        "orbax-checkpoint",
        "transformers>=5",
        "tensorflow-datasets",
        "jaxopt",
        "jsonargparse[signatures]",
        "grain",
        "gguf",
        "safetensors",
        "pyarrow",
        "rich",
        "matplotlib",
        "tensorboardX",
        "etils[epath]",
        "jinja2",
    ],
    extras_require={
        "inoffensive": ["alt-profanity-check"],
        "tpu": ["jax[tpu]>=0.9"],
        "gpu": ["jax[cuda12]>=0.9"],
        "test": TESTS + ["alt-profanity-check"],
    },
)
