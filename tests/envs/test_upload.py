"""How arrays of a step are laid side by side for one transfer; tests/gpu/test_upload_on_gpu.py has the transfer."""

import numpy as np
import pytest
import torch
from RoboRenForce.envs.upload import Upload, pack, unpack

pytestmark = pytest.mark.oracle

ARRAYS = {
    "flags": np.array([True, False, True]),
    "obs": np.arange(51, dtype=np.float32).reshape(3, 17),
    "every_second": np.arange(27, dtype=np.float32).reshape(3, 9)[:, ::2],
    "dones": np.array([0, 1, 1]),
    "exact": np.array([np.pi, np.e]),
    "pictures": np.arange(105, dtype=np.uint8).reshape(3, 5, 7),
    "none": np.zeros((3, 0), np.float32),
}
SIZE = sum(array.nbytes for array in ARRAYS.values())


def check_same(found: dict[str, torch.Tensor]) -> None:
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        expected = torch.from_numpy(np.ascontiguousarray(array))
        assert found[name].dtype == expected.dtype and torch.equal(found[name], expected), name


def test_what_is_packed_comes_out_again_and_the_staging_memory_can_be_used_anew() -> None:
    staged = torch.zeros(SIZE + 100, dtype=torch.uint8)
    pack(ARRAYS, staged)
    sent = staged[:SIZE].clone()
    staged.fill_(255)
    check_same(unpack(ARRAYS, sent))


@pytest.mark.parametrize("arrays", [ARRAYS, {"none": ARRAYS["none"]}])
def test_shapes_and_dtypes_arrive_on_another_device(arrays: dict[str, np.ndarray]) -> None:
    found = Upload(torch.device("meta"))(arrays)
    for name, array in arrays.items():
        assert found[name].device.type == "meta" and found[name].shape == array.shape
        assert found[name].dtype == torch.from_numpy(np.empty(0, array.dtype)).dtype


def test_on_the_cpu_tensors_are_the_arrays() -> None:
    found = Upload(torch.device("cpu"))({"obs": ARRAYS["obs"]})
    assert found["obs"].data_ptr() == ARRAYS["obs"].ctypes.data
