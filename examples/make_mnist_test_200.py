"""Pick the 200 test images that examples/mnist_test_200.npz holds: the first 20 of each class, in the test set's order.

python examples/make_mnist_test_200.py data/mnist examples/mnist_test_200.npz
"""

from __future__ import annotations

import sys

import numpy as np

from edgeconv.files import atomic_output
from edgeconv.training import load_dataset

EACH = 20


def main(data_dir: str, output: str) -> None:
    """Write images, uint8 (200, 28, 28), labels, int64 (200), and indices, the images' places in the test set."""
    dataset = load_dataset("mnist", data_dir)
    labels = dataset.test_labels
    classes = range(len(dataset.spec.class_names))
    indices = np.sort(np.concatenate([np.flatnonzero(labels == label)[:EACH] for label in classes]))
    with atomic_output(output) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, images=dataset.test_images[indices, 0], labels=labels[indices], indices=indices)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
