"""Each runtime against the network itself, and what must make a runtime prepare the network anew."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from monai.networks import eval_mode

from monai_ddad.io.checkpoints import CheckpointError, weights_digest
from monai_ddad.networks import Deciding
from monai_ddad.serving import onnx_models
from monai_ddad.serving.onnx_models import export_onnx
from monai_ddad.serving.runtimes import RUNTIMES, Runtime

every_runtime = pytest.mark.parametrize("runtime", RUNTIMES)
BACKBONES = ["AE", "AE-U", "MemAE"]


EXPORTS: dict[str, bytes] = {}


@pytest.fixture(autouse=True)
def _export_once(request, monkeypatch):
    """Export equal networks once: an export takes seconds."""
    if "onnx" not in request.node.name:
        return
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export = onnx_models.to_onnx

    def export_once(network):
        key = f"{weights_digest(network)} {network.discrepancy.masked}"
        if key not in EXPORTS:
            EXPORTS[key] = export(network)
        return EXPORTS[key]

    monkeypatch.setattr(onnx_models, "to_onnx", export_once)


@pytest.mark.parametrize(
    "backbone, runtime",
    [(backbone, runtime) for backbone in BACKBONES for runtime in RUNTIMES[:2]] + [("AE-U", "onnx")],
)
def test_a_runtime_equals_the_network_for_any_batch_size(make_net, images, backbone, runtime):
    network = make_net(backbone, masked=True, z_map="inter")
    images = images.clone()
    images[0, :, :8] = -1
    run = Runtime(network, runtime)
    for batch in (images, images[:1], images[:3], images.to(memory_format=torch.channels_last)):
        with torch.no_grad():
            expected = network(batch)
        found = run(batch)
        assert found.dtype == torch.float32 and not found.requires_grad
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def train_a_step(network):
    member = network.discrepancy.ndm.members[0].train()
    optimizer = torch.optim.Adam(member.parameters(), lr=0.1, fused=True)  # which leaves tensors' versions as they were
    member.training_loss(torch.rand(4, 1, 32, 32)).backward()
    optimizer.step()
    network.eval()


def assign_weights(network):
    weights = {
        name: value * 1.1 if value.is_floating_point() else value for name, value in network.state_dict().items()
    }
    network.load_state_dict(weights, assign=True)


def change_one(network):
    with torch.no_grad():
        network.discrepancy.asr.model[-1].bias[0] += 0.3


@pytest.mark.parametrize("change", [train_a_step, assign_weights, change_one])
def test_any_change_of_the_weights_counts_and_nothing_else_prepares_the_network_again(make_net, images, change):
    network = make_net()
    run = Runtime(network)
    first = run(images)
    prepared = run._prepared
    assert torch.equal(run(images), first) and run._prepared is prepared
    change(network)
    found = run(images)
    with torch.no_grad():
        torch.testing.assert_close(found, network(images), atol=1e-5, rtol=1e-5)
    assert (found - first).abs().max() > 1e-4


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("runtime", ["torch", "torchscript"])
def test_half_precision_is_near(make_net, images, backbone, runtime):
    network = make_net(backbone)
    half = Runtime(network, runtime, "bfloat16")(images)
    with torch.no_grad():
        expected = network(images)
    assert half.dtype == torch.float32 and not torch.equal(half, expected)
    scores, exact = half.mean(dim=(2, 3)), expected.mean(dim=(2, 3))
    torch.testing.assert_close(scores, exact, rtol=0.05, atol=1e-3)


def test_the_weights_are_the_networks_under_their_own_names(make_net):
    network, other = make_net(), make_net(seed=1)
    run = Runtime(network)
    assert run.state_dict().keys() == network.state_dict().keys()
    run.load_state_dict(other.state_dict())
    assert weights_digest(network) == weights_digest(other) != weights_digest(make_net(seed=2))
    with pytest.raises(CheckpointError, match="no model's record"):
        run.load_state_dict({})


@every_runtime
def test_threads_get_what_one_gets_and_weights_that_are_loaded_later_count(make_net, images, runtime):
    network, other = make_net(), make_net(seed=1)
    before = torch.get_num_threads(), torch.get_num_interop_threads()
    run = Runtime(network, runtime)
    with torch.inference_mode():
        first = run(images).clone()
    assert not any(weight.is_inference() for weight in network.parameters())
    network.load_state_dict(other.state_dict())
    batches = list(torch.rand(16, 2, 1, 32, 32) * 2 - 1)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(run, batches))
    for maps, batch in zip(found, batches):
        with torch.no_grad():
            torch.testing.assert_close(maps, other(batch), atol=1e-5, rtol=1e-5)
    assert (first - run(images)).abs().max() > 1e-2
    assert before == (torch.get_num_threads(), torch.get_num_interop_threads())


def test_an_onnx_model_is_kept_and_made_anew_for_other_weights_or_settings(make_net, images, tmp_path):
    file = tmp_path / "model.onnx"
    network = make_net()
    Runtime(network, "onnx", models_dir=tmp_path)(images)
    written = file.stat().st_mtime_ns, file.read_bytes()
    Runtime(make_net(), "onnx", models_dir=tmp_path)(images)
    assert (file.stat().st_mtime_ns, file.read_bytes()) == written
    file.write_bytes(written[1][:-50])  # damaged
    for other in (network, make_net(masked=True), make_net(seed=1)):
        before = file.read_bytes()
        found = Runtime(other, "onnx", models_dir=tmp_path)(images)
        assert file.read_bytes() != before
        with torch.no_grad():
            torch.testing.assert_close(found, other(images), atol=1e-5, rtol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_onnx_works_where_nothing_can_be_written(make_net, images, tmp_path, caplog):
    (tmp_path / "Muster").write_text("a file, where the folder should be")
    network = make_net()
    found = Runtime(network, "onnx", models_dir=tmp_path / "Muster")(images)
    with torch.no_grad():
        torch.testing.assert_close(found, network(images), atol=1e-5, rtol=1e-5)
    assert "model.onnx cannot be kept" in caplog.text and "Muster" not in caplog.text


def test_an_onnx_export_gives_all_that_is_decided_by(make_net, images, tmp_path):
    import onnxruntime

    network = make_net(members=2, calibration_images=7)
    network.calibration.images.fit(network.decide(torch.rand(7, 1, 32, 32)).scores.detach(), range(7))
    export_onnx(network, tmp_path / "folder" / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "folder/model.onnx", providers=["CPUExecutionProvider"])
    for batch in (images, images[:1]):
        found = session.run(["maps", "scores", "p_values", "protocol"], {"image": batch.numpy()})
        with torch.no_grad():
            for value, expected in zip(found, Deciding(network)(batch)):
                torch.testing.assert_close(torch.from_numpy(value), expected, atol=1e-4, rtol=1e-4)
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["map_names"].split(",") == network.map_names and metadata["weights"] == weights_digest(network)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("tensorrt",), "one of torch, torchscript, onnx, got 'tensorrt'"),
        (("torch", "float16"), "got 'float16'"),
        (("onnx", "bfloat16"), "onnx runtime has no bfloat16: use precision float32, or runtime torch"),
    ],
)
def test_what_does_not_exist_is_refused_at_once(make_net, arguments, message):
    with pytest.raises(ValueError, match=message):
        Runtime(make_net(), *arguments)


@pytest.mark.parametrize("package", ["onnxruntime", "onnx", "onnxscript"])
def test_a_missing_package_of_onnx_is_named_with_the_extra(make_net, images, monkeypatch, package):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    with pytest.raises(
        ImportError, match=rf"needs {package}, which is not installed: pip install .*monai-ddad\[onnx\]"
    ):
        Runtime(make_net(seed=7), "onnx")(images)


def test_a_gpu_that_onnx_runtime_cannot_use_is_refused(make_net):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("ONNX Runtime has CUDA here")
    with pytest.raises(ValueError, match="no CUDA: install onnxruntime-gpu"):
        Runtime(make_net(), "onnx", device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["torch", "torchscript"])
def test_a_runtime_on_a_gpu_equals_the_network_on_the_cpu(make_net, images, runtime):
    with torch.no_grad():
        expected = make_net()(images)
    found = Runtime(make_net(), runtime, device="cuda")(images.cuda())
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-3)


def test_an_evaluator_leaves_the_network_in_evaluation_mode(make_net, images):
    network = make_net().train()
    runtime = Runtime(network)
    with eval_mode(runtime):
        runtime(images)
    assert not any(module.training for module in network.modules())  # or its next maps would differ and change it


def test_a_new_thread_computes_with_the_number_of_threads_that_was_set(make_net):
    runtime, image = Runtime(make_net()), torch.rand(3, 1, 32, 32)
    expected = runtime(image)
    for _ in range(8):
        with ThreadPoolExecutor(1) as pool:
            assert torch.equal(pool.submit(runtime, image).result(), expected)
