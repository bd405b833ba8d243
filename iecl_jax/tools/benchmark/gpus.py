"""Descriptions of NVIDIA GPUs, for which XLA compiles on a machine without one."""

import importlib.util
import os
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
_TEXT = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {gpu.shared_per_core}
  threads_per_core_limit: 2048
  core_count: {gpu.cores}
  fpus_per_core: {gpu.fpus_per_core}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: {gpu.l2_cache}
  clock_rate_ghz: {gpu.clock_ghz}
  device_memory_size: {gpu.memory}
  shared_memory_per_block_optin: {gpu.shared_per_block}
  cuda_compute_capability {{ major: {gpu.capability} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 9 patch: 0 }}
device_description_str: "{gpu.name}"
"""


class Gpu(NamedTuple):
    """A GPU by its data sheet and by what CUDA says of it.

    Attributes:
      name: CUDA's name.
      bandwidth: bytes a second between the GPU and its memory.
      flops: operations a second of products in half precision: bfloat16, on a V100 float16.
      memory: bytes.
      capability: the major number of the compute capability.
      cores, fpus_per_core: multiprocessors, and float32 units of each.
      l2_cache, shared_per_core, shared_per_block: bytes of the caches and of shared memory.
      clock_ghz: the highest clock.
    """

    name: str
    bandwidth: float
    flops: float
    memory: int
    capability: int
    cores: int
    fpus_per_core: int
    l2_cache: int
    shared_per_core: int
    shared_per_block: int
    clock_ghz: float


_H100 = Gpu(
    name="NVIDIA H100 80GB HBM3",
    bandwidth=3.35e12,
    flops=989e12,
    memory=84_929_347_584,
    capability=9,
    cores=132,
    fpus_per_core=128,
    l2_cache=52_428_800,
    shared_per_core=233_472,
    shared_per_block=232_448,
    clock_ghz=1.98,
)
_V100 = Gpu(
    name="Tesla V100-SXM2-32GB",
    bandwidth=0.9e12,
    flops=125e12,
    memory=34_089_730_048,
    capability=7,
    cores=80,
    fpus_per_core=64,
    l2_cache=6_291_456,
    shared_per_core=98_304,
    shared_per_block=98_304,
    clock_ghz=1.53,
)
GPUS = {
    "v100": _V100,
    "h100": _H100,
    "h200": _H100._replace(name="NVIDIA H200", bandwidth=4.8e12, memory=150_109_880_320),
}


def use_no_device() -> None:
    """Makes JAX compile for described GPUs and compute on the CPU; before it uses a device.

    Raises:
      ValueError: CUDA's plug-in is missing.
    """
    if not any(importlib.util.find_spec(name) for name in PLUGINS):
        raise ValueError(
            "XLA's compiler for NVIDIA GPUs is not installed here; it needs no GPU: run this in an "
            "environment with `pip install -r requirements-v100.txt` (or requirements-cuda13.txt)."
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # of the driver, which need not be there
    jax.config.update("jax_platforms", "cpu")


def described(gpu: Gpu, count: int) -> list[Any]:
    """Returns `count` devices of one machine, for which programs can be compiled alone."""
    text = _TEXT.format(gpu=gpu, bandwidth=round(gpu.bandwidth))
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=text, topology=f"1x1x{count}"
    )
    return list(topology.devices)
