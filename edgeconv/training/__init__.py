"""A small, reproducible training recipe and the data it reads. Training needs the `export` extra (torch)."""

from edgeconv.training.data import DATASETS, Dataset, DatasetSpec, load_dataset, read_idx
from edgeconv.training.recipe import train_model
from edgeconv.training.report import EpochResult, TrainingReport

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetSpec",
    "EpochResult",
    "TrainingReport",
    "load_dataset",
    "read_idx",
    "train_model",
]
