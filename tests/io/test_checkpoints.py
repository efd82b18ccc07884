"""Weights come back as they were, or not at all."""

from __future__ import annotations

import os
import pickle
import resource
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_ddad.io.checkpoints import RECORD_KEY, CheckpointError, load_file, load_weights, save_file


class Payload:
    """Runs a command where a pickle of it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.system, (f"touch {self.file}",)


@pytest.fixture
def saved(make_net, tmp_path) -> Path:
    path = tmp_path / "patient_doe" / "model.pt"
    save_file(make_net(seed=1).state_dict(), path)
    return path


@pytest.fixture
def assert_refused(make_net):
    """Return a check that a file is refused for a reason, and that the network stays as it was."""

    def check(path: Path, message: str) -> None:
        network = make_net(seed=2)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        with pytest.raises(CheckpointError, match=message) as caught:
            load_weights(network, path)
        assert str(path.parent) not in str(caught.value)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    return check


@pytest.mark.parametrize("backbone", ["AE", "AE-U", "MemAE"])
def test_weights_come_back_as_they_were(make_net, images, tmp_path, backbone):
    first, second = make_net(backbone, seed=1), make_net(backbone, seed=2).train()
    save_file(first.state_dict(), tmp_path / "model.pt")
    assert load_weights(second, tmp_path / "model.pt") is second and not second.training
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert torch.equal(first(images), second(images))


def test_plain_containers_come_back_as_they_were(tmp_path):
    content = {"epochs": {"ndm": 3}, "list": [1.5, None, "text", True], "tensor": torch.arange(3)}
    save_file(content, tmp_path / "state.pt")
    found = load_file(tmp_path / "state.pt")
    assert torch.equal(found.pop("tensor"), content.pop("tensor")) and found == content


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(saved, assert_refused, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    assert_refused(saved, "damaged")


@pytest.mark.parametrize(
    "content", [np.random.default_rng(0).bytes(5000), b"PK\x03\x04" + bytes(200), b"\x80\x02}q\x00.", b"text"]
)
def test_files_of_anything_else_are_refused(saved, assert_refused, content):
    saved.write_bytes(content)
    assert_refused(saved, "damaged|no state dict|record")


def test_a_missing_file_and_a_folder_are_refused(saved, assert_refused):
    assert_refused(saved.parent / "absent.pt", "does not exist")
    assert_refused(saved.parent, "does not exist")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrap", [lambda payload: payload, lambda payload: {"weight": payload}])
def test_code_in_a_file_is_never_run(saved, assert_refused, tmp_path, legacy, wrap):
    torch.save(wrap(Payload(tmp_path / "run")), saved, _use_new_zipfile_serialization=not legacy)
    assert_refused(saved, "damaged or is no weights-only")
    saved.write_bytes(pickle.dumps(wrap(Payload(tmp_path / "run"))))
    assert_refused(saved, "damaged or is no weights-only")
    assert not (tmp_path / "run").exists()
    pickle.loads(saved.read_bytes())  # the payload does run where it is trusted
    assert (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "settings, message, weights",
    [
        ({"backbone": "AE-U"}, "backbone is AE-U, here AE", "decoder.9.weight"),
        ({"backbone": "MemAE"}, "backbone is MemAE, here AE", "6 are not of this model .first:.*mem_rep"),
        ({"members": 2}, "members is 2, here 3", "weights are missing .first:.*members.2"),
        ({"members": 4}, "members is 4, here 3", "are not of this model .first:.*members.3"),
        ({"image_size": 48}, "image_size is 48, here 32", "image_size, in_channels or latent_size differ"),
        ({"in_channels": 3}, "in_channels is 3, here 1", r"encoder.0.weight has shape \(2, 3, 4, 4\), expected"),
        ({"latent_size": 5}, "latent_size is 5, here 4", "image_size, in_channels or latent_size differ"),
        ({"refine": "none"}, "refine is none, here dual", "weights are missing .first:.*asr"),
        ({"refine": "intra"}, "refine is intra, here dual", "another model"),
    ],
)
@pytest.mark.parametrize("recorded", [True, False], ids=["by their record", "by themselves"])
def test_weights_of_another_model_are_refused(make_net, saved, assert_refused, recorded, settings, message, weights):
    content = make_net(**settings).state_dict()
    if not recorded:  # a record of this model was put beside them
        content[RECORD_KEY] = load_file(saved)[RECORD_KEY]
    save_file(content, saved)
    assert_refused(saved, message if recorded else weights)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "name", ["discrepancy.ndm.members.0.encoder.0.weight", "discrepancy.udm.members.2.decoder.7.running_var"]
)
def test_weights_that_are_not_finite_are_refused(make_net, tmp_path, assert_refused, name, value):
    weights = make_net().state_dict()
    weights[name].view(-1)[0] = value
    save_file(weights, tmp_path / "model.pt")
    assert_refused(tmp_path / "model.pt", f"{name} holds NaN or infinite")


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(3),
        [torch.zeros(3)],
        None,
        {"weights": {"a": torch.zeros(3)}},
        {},
        {3: torch.zeros(3)},
        {3: torch.zeros(3), "a": torch.zeros(3)},
    ],
)
def test_files_without_a_state_dict_are_refused(saved, assert_refused, content):
    save_file(content, saved)
    assert_refused(saved, "no state dict|record")


def test_a_flipped_bit_is_refused_or_changes_nothing(saved):
    whole, expected, refused = saved.read_bytes(), load_file(saved), 0
    generator = np.random.default_rng(0)
    for place in generator.integers(len(whole), size=100):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << generator.integers(8)
        saved.write_bytes(damaged)
        try:
            found = load_file(saved)
        except CheckpointError:
            refused += 1
            continue
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert refused > 80


def test_a_flipped_bit_that_makes_an_entry_a_folder_is_refused(saved):
    whole = saved.read_bytes()
    with zipfile.ZipFile(saved) as archive:
        entries = len(archive.infolist())
    place = -1
    for _ in range(entries):
        place = whole.index(b"PK\x01\x02", place + 1)  # the checksum does not cover the central directory
        damaged = bytearray(whole)
        damaged[place + 38] ^= 0x10
        saved.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            load_file(saved)


def test_a_full_disk_says_so_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "state.pt"
    save_file({"a": torch.zeros(10)}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_file({"a": torch.zeros(10_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_file(path)["a"].shape == (10,) and [entry.name for entry in tmp_path.iterdir()] == ["state.pt"]


def test_a_file_that_cannot_be_saved_leaves_the_old_one(tmp_path):
    save_file({"a": 1}, tmp_path / "state.pt")
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        save_file({"a": lambda: 1}, tmp_path / "state.pt")
    assert load_file(tmp_path / "state.pt") == {"a": 1} and len(list(tmp_path.iterdir())) == 1


def write_archive(path: Path, content: bytes, **others: bytes) -> Path:
    """Write a file of the form of ``torch.save`` around a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        entries = {"data.pkl": content, "byteorder": b"little", "version": b"3\n"} | others
        for name, part in entries.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), part)
    whole = path.read_bytes()
    place = -1
    while (place := whole.find(b"PK\x01\x02", place + 1)) >= 0:  # Python writes attributes, PyTorch none
        whole = whole[: place + 38] + bytes(4) + whole[place + 42 :]
    path.write_bytes(whole)
    return path


BUFFER = b"c__builtin__\nbytearray\n\x8a\x06" + (2**33).to_bytes(6, "little") + b"\x85R"
HOSTILE_PICKLES = {
    "a large buffer": BUFFER,
    "a counter": b"ccollections\nCounter\n)R",
    "a tensor made at once": b"ctorch\nTensor\nK\x05\x85R",
    "a list of itself": b"]q\x00(" + b"h\x00" * 100_000 + b"e",
    "a list of itself, longer": b"]q\x00(" + b"h\x00" * 1_000_000 + b"e",
    "a dictionary of itself": b"}q\x00(" + b"".join(bytes((75, one)) + b"h\x00" for one in range(256)) + b"u",
    "a tuple of tuples as a key": b"})q\x00" + b"".join(b"h\x00\x86q\x00" for _ in range(60)) + b"K\x01s",
    "the same in an ordered dictionary": b"ccollections\nOrderedDict\n])" + b"\x85" * 200_000 + b"K\x01\x86a\x85R",
    "the same as a name": b"})" + b"\x85" * 200_000 + b"K\x01s",
    "the same as a tensor's place": b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n)"
    + b"\x85" * 200_000
    + b"X\x03\x00\x00\x00cpuK\x01tQ",
    "a large number as a key": b"}\x8a\x10" + b"\x7f" * 16 + b"K\x01s",
    "too many steps": b"(" * 2_000_000,
    "a step without a value": b"R",
    "the end of no list": b"e",
}


@pytest.mark.parametrize("content", HOSTILE_PICKLES.values(), ids=HOSTILE_PICKLES)
def test_a_pickle_that_takes_long_or_much_memory_is_refused_unread(content, tmp_path):
    path, began = write_archive(tmp_path / "a.pt", b"\x80\x02" + content + b"."), time.process_time()
    with pytest.raises(CheckpointError, match="damaged"):
        load_file(path)
    path = write_archive(tmp_path / "a.ts", b"\x80\x02" + content + b".")
    with pytest.raises(CheckpointError, match="damaged"):
        load_file(path)
    assert time.process_time() - began < 10


def test_a_plain_archive_of_this_form_is_read(tmp_path):
    assert load_file(write_archive(tmp_path / "a.pt", b"\x80\x02}X\x01\x00\x00\x00aK\x01s.")) == {"a": 1}


@pytest.mark.parametrize(
    "kind", ["in capitals", "before the archive", "in a second list", "in a second list, long form"]
)
def test_a_pickle_that_pytorch_alone_would_find_is_refused(kind, tmp_path):
    plain, hostile = b"\x80\x02}.", b"\x80\x02" + BUFFER + b"."
    path = write_archive(tmp_path / "a.pt", plain, **({"DATA.PKL": hostile} if kind == "in capitals" else {}))
    whole = path.read_bytes()
    if kind == "before the archive":  # as PyTorch wrote it in former times
        path.write_bytes(hostile + whole)
    elif kind.startswith("in a second list"):
        first = write_archive(tmp_path / "b.pt", hostile).read_bytes()[:-22]
        end = bytearray(whole[-22:])
        end[16:20] = first.index(b"PK\x01\x02").to_bytes(4, "little")
        long = b""
        if kind.endswith("form"):
            long = b"PK\x06\x06" + bytes(44) + whole[-6:-2] + bytes(4) + b"PK\x06\x07" + bytes(16)
        path.write_bytes(first + whole[:-22] + long + end)
    with pytest.raises(CheckpointError, match="damaged"):
        load_file(path)


@pytest.mark.parametrize("suffix", ["pt", "ts"])
def test_a_tensor_that_is_listed_again_and_again_is_refused_unread(suffix, tmp_path):
    path = write_archive(tmp_path / f"a.{suffix}", b"\x80\x02}.", **{"data/0": bytes(2**20)})
    whole = path.read_bytes()
    start, number = whole.index(b"PK\x01\x02"), 500
    listed = whole[start:-22] + whole[whole.rindex(b"PK\x01\x02") : -22] * number
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 4 + number, 4 + number, len(listed), start, 0)
    path.write_bytes(whole[:start] + listed + end)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"damaged.*BadZipFile"):
        load_file(path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_a_module_that_holds_itself_is_refused(tmp_path):
    names = b"".join(b"X\x01\x00\x00\x00" + bytes((97 + one,)) + b"h\x00" for one in range(20))
    content = b"\x80\x02c__torch__.a\nA\n)\x81q\x00}(" + names + b"ub."
    with pytest.raises(CheckpointError, match="nested too deeply"):
        load_file(write_archive(tmp_path / "a.ts", content))


def test_optimizers_and_their_settings_come_back_as_they_were(tmp_path):
    layers = [torch.nn.Linear(2, 1) for _ in range(2)]
    optimizers = [torch.optim.Adam([*layer.parameters()]) for layer in layers]  # with one tuple of settings
    for layer, optimizer in zip(layers, optimizers):
        layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    content = {"optimizers": [one.state_dict() for one in optimizers], "random": torch.get_rng_state(), "seed": 2**62}
    save_file(content, tmp_path / "state.pt")
    found = load_file(tmp_path / "state.pt")
    assert found["optimizers"][1]["param_groups"] == content["optimizers"][1]["param_groups"]
    assert torch.equal(found["random"], content["random"]) and found["seed"] == 2**62
