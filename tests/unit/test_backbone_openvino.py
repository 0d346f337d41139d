"""Models on the CPU."""

import ctypes
import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from patchline.devices import backbone, loading, openvino_backbone


class SignalStack(ctypes.Structure):
    """`stack_t` of Linux, see sigaltstack(2)."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack():
    stack = SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.start, stack.size


def load(precision):
    return loading.load(Path("models"), "efficientnet_lite0", 64, backbone.CPU, 1, precision)


def test_a_cpu_without_bf16_reports_f32():
    capabilities = openvino_backbone.core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    # With AVX-512 but without its BF16, OpenVINO 2026.4 takes bf16 and does not list it.
    has_bf16 = "BF16" in capabilities or " avx512bw " in Path("/proc/cpuinfo").read_text()
    assert load("bf16").precision == ("bf16" if has_bf16 else "f32")


def test_models_that_come_and_go_leave_the_signal_stack_as_it_is():
    load("f32")
    before = signal_stack()
    first, second = load("f32"), load("f32")
    del first
    gc.collect()
    del second
    gc.collect()
    assert signal_stack() == before, "a signal would be handled on memory that is freed"


def test_the_threads_of_a_model_are_not_bound_to_cores():
    # OpenVINO binds a thread only while it computes, so its own word has to do.
    assert load("f32")._compiled.get_property("ENABLE_CPU_PINNING") is False


def test_threads_that_infer_one_after_the_other_share_a_request():
    network, image = load("f32"), np.zeros((1, 64, 64, 3), np.uint8)
    for _ in range(3):
        with ThreadPoolExecutor(1) as thread:
            thread.submit(network.extract, image).result()
    assert len(network._idle) == 1


def test_threads_that_infer_at_once_get_the_features_of_their_own_images():
    network = load("f32")
    images = np.random.default_rng(0).integers(0, 255, (40, 1, 64, 64, 3), dtype=np.uint8)
    expected = [network.extract(image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        features = list(threads.map(network.extract, images))
    np.testing.assert_array_equal(features, expected)
    assert len(network._idle) <= 4
