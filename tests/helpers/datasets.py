"""Small files in every dataset's format, and mirrors on this machine."""

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from iwae_lab.data.base import Dataset
from iwae_lab.data.fashion_mnist import FashionMNIST
from iwae_lab.data.mnist import MNIST
from iwae_lab.data.mnist_5k import MNIST5k
from iwae_lab.data.npz import NPZ
from iwae_lab.data.omniglot import Omniglot
from iwae_lab.data.static_mnist import StaticMNIST


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def images(n: int, side: int = 28, seed: int = 0) -> np.ndarray:
    """n unlike images of all grey levels, uint8 [n, side, side]."""
    return np.random.RandomState(seed).randint(0, 256, (n, side, side), dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return b"\0\0\x08" + bytes([array.ndim]) + sizes + array.tobytes()


def amat(binary: np.ndarray) -> bytes:
    return "".join(" ".join(map(str, image.ravel())) + "\n" for image in binary).encode()


def mat(**arrays: np.ndarray) -> bytes:
    """chardata.mat of images [n, 28, 28]: one per column, each column by column, in [0, 1]."""
    columns = {name: np.stack([i.ravel(order="F") for i in array], axis=1) / 255 for name, array in arrays.items()}
    file = io.BytesIO()
    savemat(file, columns, do_compression=True)
    return file.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def arff(train: np.ndarray, test: np.ndarray) -> bytes:
    """As OpenML gives out MNIST."""
    head = "% pixels\n@RELATION digits\n@ATTRIBUTE pixel1 real\n@ATTRIBUTE class {0,1}\n\n@DATA\n"
    rows = np.concatenate([train, test]).reshape(-1, 784)
    return (head + "".join(",".join(map(str, row)) + ",'7'\n" for row in rows)).encode()


def parquet(array: np.ndarray) -> bytes:
    """As Hugging Face gives out MNIST."""
    import pyarrow
    from pyarrow import parquet

    def png(image: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        return file.getvalue()

    rows = pyarrow.array([{"bytes": png(image), "path": None} for image in array])
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"image": rows, "label": [0] * len(array)}), file)
    return file.getvalue()


@functools.cache
def csv(n_a_class: int) -> bytes:
    """Rows of 784 pixels below 10 and the class, sorted by class."""
    labels = np.repeat(np.arange(10, dtype=np.uint8), n_a_class)[:, None]
    digits = np.concatenate([images(10 * n_a_class).reshape(-1, 784) % 10, labels], axis=1) + ord("0")
    text = np.full((len(digits), 2 * 785), ord(","), np.uint8)
    text[:, ::2] = digits
    text[:, -1] = ord("\n")
    return text.tobytes()


def small_dataset(name: str, data_dir: Path) -> Dataset:
    """The dataset of that name on small files of its format, written under `data_dir` and taken as published."""
    binary = images(30) // 128
    dataset: Dataset
    if name == "npz":
        dataset = NPZ(str(data_dir / "mine.npz"))
        contents = [npz(train=images(50), test=images(10, seed=1))]
    elif name in ("mnist", "fashion_mnist"):
        dataset = MNIST() if name == "mnist" else FashionMNIST()
        contents = [idx(images(450)), idx(images(20, seed=1))]
    elif name == "static_mnist":
        dataset = StaticMNIST()
        contents = [amat(part) for part in np.split(binary, [20, 25])]
    elif name == "omniglot":
        dataset = Omniglot()
        contents = [mat(data=images(60), testdata=images(20, seed=1))]
    else:
        dataset = MNIST5k()
        contents = [csv(500)]
    files = []
    for file, content in zip(dataset.files, contents, strict=True):
        path = data_dir / name / file.name if name != "npz" else data_dir / file.name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(content, 1) if file.name.endswith(".gz") else content)
        digest = sha256(content) if file.digest else None
        files.append(dataclasses.replace(file, digest=digest, mirrors=(), places=(), copies=()))
    dataset.files = tuple(files)
    return dataset


@dataclass
class Mirror:
    """What a local server has, what it does, and what it was asked for."""

    files: dict[str, bytes]
    failures: int = 0
    """how many requests are answered with status 503 first"""
    cut: int = 0
    """bytes that are promised and not sent"""
    silence: float = 0.0
    """seconds in the middle of the content"""
    url: str = ""
    requests: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serve(mirror: Mirror) -> Iterator[Mirror]:
    """Play a mirror at `mirror.url` on this machine."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mirror.requests.append(self.path)
            content = mirror.files.get(self.path.rpartition("/")[2])
            if len(mirror.requests) <= mirror.failures:
                self.send_error(503)
            elif content is None:
                self.send_error(404)
            else:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # whoever gave up waiting
                    half = len(content) // 2
                    self.wfile.write(content[:half])
                    time.sleep(mirror.silence)
                    self.wfile.write(content[half : len(content) - mirror.cut])

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        mirror.url = f"http://127.0.0.1:{server.server_port}/folder/"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield mirror
        finally:
            server.shutdown()
