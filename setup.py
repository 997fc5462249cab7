"""Package metadata; the settings of the development tools are in pyproject.toml and tox.ini."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "lowerconv" / "version.py").read_text(), re.M
).group(1)

# An MPI runtime with mpiexec, for machines that have none.
MPI = ["mpich; sys_platform != 'win32'", "impi-rt; sys_platform == 'win32'"]
PLOT = ["matplotlib>=3.7"]
TENSORBOARD = ["tensorboardX>=2.6"]  # writes events without TensorBoard itself
VIDEO = ["av>=14.2"]  # FFmpeg's libraries, for lowerconv predict --stream VIDEO
BENCH = ["pytest>=8.3", "pytest-benchmark>=4.0"]
ONNX, RUNTIME = ["onnx>=1.15"], ["onnxruntime>=1.17"]
PEERS = ["torch>=2.2", *RUNTIME, *ONNX]
# gevent replaces Python's threads: programs that have it patch what the library starts.
# pytest-xdist runs several tests at once: most of them compile, or wait for other processes.
# PyTorch's own samples of its functions (tests/torch/test_opinfo.py) import expecttest.
TEST = [
    *("pytest>=8.3", "pytest-xdist>=3.5", "hypothesis>=6.90", "gevent>=24.10", "numpydoc>=1.8"),
    "expecttest>=0.2",
]

setup(
    name="lowerconv",
    version=VERSION,
    description="Convolutions on CPUs and CPU clusters, pipelined on every core",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["lowerconv", "lowerconv.*"]),
    package_data={
        "lowerconv": ["py.typed"],
        "lowerconv.bench.cases": ["*.csv"],
        "lowerconv.bench.published": ["*.csv"],
        "lowerconv.data": ["embedded/*"],
    },
    install_requires=[
        "numpy>=1.26",
        "scipy>=1.13",  # the BLAS that compiled code calls, through scipy.linalg.cython_blas
        "numba>=0.61",
        "threadpoolctl>=3.2",
        "mpi4py>=4.1",
        "rich>=13.0",  # progress bars and tables
        "safetensors>=0.4",  # checkpoints
        "pillow>=10.0",  # image folders
        "platformdirs>=4.0",  # where cached files belong
    ],
    extras_require={
        "mpi": MPI,
        "plot": PLOT,
        "tensorboard": TENSORBOARD,
        "torch": ["torch>=2.6"],
        "sklearn": ["scikit-learn>=1.6"],
        "jax": ["jax>=0.4.34"],
        "bench": BENCH + PEERS,
        "video": VIDEO,
        "onnx": ONNX,
        "onnxruntime": ONNX + RUNTIME,
        "test": TEST + PLOT + TENSORBOARD + ONNX + VIDEO,
    },
    entry_points={
        "console_scripts": ["lowerconv = lowerconv.cli.main:main"],
        "torch_dynamo_backends": ["lowerconv = lowerconv.torch.backend:backend"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
