"""The settings of the job that writes an encoder for other programs."""

from iecl_jax.config.evaluation import Evaluation
from iecl_jax.config.pretrain import Pretrain
from iecl_jax.config.section import Section, key


class Export(Section):
    """Which network is written, and how."""

    job = key("export", None, "export: write the encoder of a checkpoint for other programs")
    checkpoint, best = Evaluation.checkpoint, Evaluation.best
    format = key(
        "safetensors",
        ("safetensors", "stablehlo", "onnx"),
        "weights for torchvision and timm, or a program for JAX or ONNX (which needs jax2onnx)",
    )

    @staticmethod
    def inside(own, given):
        """Returns the section `pretrain`, if the config has one, as `Evaluation.inside` does."""
        return {"pretrain": Pretrain} if "pretrain" in given else {}
