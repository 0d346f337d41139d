"""Models on the CPU."""

import ctypes
import gc
from pathlib import Path

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
