"""Arrays of a step travel to the GPU together: same values, shapes and dtypes, no waiting, new memory at every call."""

import numpy as np
import pytest
import torch
from RoboRenForce.envs.upload import Upload

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

DEVICE = torch.device("cuda:0")


def arrays(seed: int, envs: int = 3) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    pictures = draw.integers(0, 255, (envs, 5, 7, 3), dtype=np.uint8)
    return {
        "flags": draw.random(envs) < 0.5,
        "obs": draw.standard_normal((envs, 17), dtype=np.float32),
        "hidden": draw.standard_normal((envs, 9), dtype=np.float32)[:, ::2],  # not contiguous
        "dones": draw.integers(0, 2, envs),
        "pictures": pictures,
        "none": np.zeros((envs, 0), np.float32),
    }


def test_uploaded_tensors_equal_the_arrays_and_are_kept() -> None:
    upload, kept = Upload(DEVICE), []
    for seed in range(20):  # later calls must not touch what earlier ones returned
        sent = arrays(seed, envs=1 + seed % 4)
        kept.append((sent, upload(sent)))
    for sent, found in kept:
        assert found.keys() == sent.keys()
        for name, array in sent.items():
            expected = torch.from_numpy(np.ascontiguousarray(array))
            assert found[name].device == DEVICE and found[name].dtype == expected.dtype
            assert torch.equal(found[name].cpu(), expected), name


def test_an_upload_does_not_wait_for_the_device() -> None:
    upload = Upload(DEVICE)
    upload(arrays(0))  # allocates
    busy = torch.randn(4096, 4096, device=DEVICE)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            busy = busy @ busy / 4096.0
        found = upload(arrays(1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found["obs"].cpu(), torch.from_numpy(arrays(1)["obs"]))
